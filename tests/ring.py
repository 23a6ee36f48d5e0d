"""The roles of one run as real processes, for tests that kill them.

Workers train with the simulator's stand-in learner, so that a process is there in a second; what
is killed and restarted - shells, cores, buses - is the production code.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cos2p.clock import SystemClock
from cos2p.log import messages as m
from cos2p.log.bus import Bus
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import Mailbox
from cos2p.log.messages import Message
from cos2p.log.run_request import NewRun, request_run
from cos2p.log.topics import DECISIONS, FLEET, MODELS, Topic
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.run_config import (
    AnchorConfig,
    GrowthConfig,
    LivenessConfig,
    LocalConfig,
    MergeConfig,
    PlanConfig,
    RoundConfig,
    RunConfig,
)
from cos2p.service.open_bus import open_bus
from cos2p.settings import BusSettings
from cos2p_aggregator.replay import replay

HERE = Path(__file__).resolve().parent


def table(block_count: int = 3, size: int = 500) -> UnitTable:
    """A model of a stem and blocks of two heads and two neuron groups."""
    units = [Unit("stem", "core", STEM, size, size, 10)]
    for b in range(block_count):
        units.append(Unit(f"block{b}.core", "core", b, 16, 16, 10))
        for kind in ("head", "neurons"):
            for i in range(2):
                units.append(Unit(f"block{b}.{kind}.{i}", kind, b, size, size, 10))
    return UnitTable(tuple(units))


def config(
    versions: int = 6, shards: int = 1, stall_after_s: float = 45.0, **rounds: float
) -> RunConfig:
    """A short run of the whole model, plans of three steps, that notices lost devices soon."""
    return RunConfig(
        rounds=RoundConfig(versions=versions, **rounds),
        local=LocalConfig(steps=3, batch_size=4, align_steps=False, anchor=AnchorConfig(share=0.0)),
        plans=PlanConfig(nested_depth=0.0, block_width_min=0.5, growth=GrowthConfig(start=1.0)),
        merge=MergeConfig(checkpoint_every=2, shards=shards),
        liveness=LivenessConfig(heartbeat_s=0.3, lost_after_s=3.0, stall_after_s=stall_after_s),
        partitions=2,
    )


PATIENCE_S = 60.0
"""Twice the default: on a busy machine a broker that is started again takes half a minute."""


@dataclass
class Ring:
    """One run: its processes by name, its bus, and what the log holds."""

    bus_url: str
    prefix: str
    folder: Path
    slowdown: float = 1000.0
    """A plan takes some tenths of a second, so that a crash falls into the run; 1: no time."""
    access: Callable[[str], Mapping[str, str]] = lambda role: {}
    """How a role, or one process of it, shows who it is, as settings; the test is the operator."""
    bus: Bus = field(init=False)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own: dict[str, Any] = dict(self.access("operator"))
        self.bus = open_bus(
            BusSettings(bus=self.bus_url, prefix=self.prefix, kafka_timeout_s=PATIENCE_S, **own),
            SystemClock(),
        )

    async def request(self, run: RunConfig, units: UnitTable) -> None:
        """Begin the run."""
        chance = np.random.default_rng(run.seed)
        values = [chance.standard_normal(u.size).astype(np.float32) for u in units.units]
        await request_run(self.bus, self.prefix, NewRun("test", "stand:in", run, units, values))

    def start(self, role: str, index: int = 0) -> None:
        """Start (or start again) one process; its name is ROLE-INDEX."""
        arguments = {
            "planner": ["-m", "cos2p_planner"],
            "aggregator": ["-m", "cos2p_aggregator"],
            "worker": [str(HERE / "stand_in_worker.py")],
        }[role]
        environ = dict(os.environ, COS2P_BUS=self.bus_url, COS2P_PREFIX=self.prefix)
        environ |= {"COS2P_LOG_LEVEL": "warning", "COS2P_KAFKA_TIMEOUT_S": f"{PATIENCE_S:g}"}
        own = self.access(role) or self.access(f"{role}-{index}")
        environ |= {f"COS2P_{name.upper()}": value for name, value in own.items()}
        if role == "aggregator":
            environ["COS2P_SHARD"] = str(index)
        if role == "worker":
            environ["COS2P_WORKER_ID"] = f"worker-{index}"
            environ["COS2P_SLOWDOWN"] = str(self.slowdown)
            environ["COS2P_SCRATCH_DIR"] = str(self.folder / "scratch")
        with (self.folder / f"{role}-{index}.err").open("ab") as errors:
            self.processes[f"{role}-{index}"] = subprocess.Popen(
                [sys.executable, *arguments], env=environ, stderr=errors, start_new_session=True
            )

    def start_all(self, worker_count: int, shard_count: int = 1) -> None:
        """Every role."""
        self.start("planner")
        for shard in range(shard_count):
            self.start("aggregator", shard)
        for index in range(worker_count):
            self.start("worker", index)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes[name]
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        """End what is left."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()

    def errors(self) -> str:
        """What the processes wrote on standard error."""
        return "\n".join(
            f"--- {p.name}\n{p.read_text()[-2000:]}" for p in sorted(self.folder.glob("*.err"))
        )

    async def log(self, topic: Topic) -> list[Message]:
        """All messages of a topic; of the decisions those that the fence admits."""
        mailbox = Mailbox(self.bus, self.prefix, topic, reader="test")
        fence = EpochFence()
        return [
            letter.message
            async for letter in mailbox.stream()
            if not isinstance(letter.message, m.Decision) or fence.admits(letter.message)
        ]

    async def wait_for(
        self, topic: Topic, found: Callable[[Message], bool], count: int = 1, limit_s: float = 60.0
    ) -> Message:
        """The `count`-th message of a topic that fits; fails the test after `limit_s`."""
        mailbox = Mailbox(self.bus, self.prefix, topic, reader="test")
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    for letter in await mailbox.poll(wait_s=0.2):
                        count -= found(letter.message)
                        if not count:
                            return letter.message
        except TimeoutError:
            raise AssertionError(
                f"nothing fitting on {topic.name} within {limit_s:g} s\n{self.errors()}"
            ) from None

    async def wait_for_end(self, limit_s: float = 90.0) -> m.RunEnded:
        """The run's last decision, after the aggregator has obeyed it."""
        await self.wait_for(MODELS, lambda x: isinstance(x, m.RunFinished), limit_s=limit_s)
        ended = await self.wait_for(DECISIONS, lambda x: isinstance(x, m.RunEnded))
        assert isinstance(ended, m.RunEnded)
        return ended

    async def check_history(self) -> None:
        """Invariants 1 and 4 of the design, on the whole log."""
        decisions, fleet = await self.log(DECISIONS), await self.log(FLEET)
        ends: Counter[str] = Counter()
        for d in decisions:
            if isinstance(d, m.PlanCancelled | m.UpdateAdmitted):
                ends[d.plan_id] += 1
            if isinstance(d, m.UpdateRefused) and d.outcome != m.Outcome.DUPLICATE:
                ends[d.plan_id] += 1
        issued = [d.plan.plan_id for d in decisions if isinstance(d, m.PlanIssued)]
        versions = [d.version for d in decisions if isinstance(d, m.RoundClosed)]
        answered = {
            d.plan_id
            for d in decisions
            if isinstance(d, m.UpdateAdmitted | m.UpdateRefused | m.PlanCancelled)
        }
        reported = {r.plan_id for r in fleet if isinstance(r, m.Report)}

        assert len(set(issued)) == len(issued)
        assert dict.fromkeys(issued, 1) == dict(ends)
        assert list(range(1, len(versions) + 1)) == versions
        assert reported <= answered

    async def check_replay(self) -> None:
        """Every version, rebuilt from the log, has the bytes that were published."""
        result = await replay(self.bus, self.prefix)
        result.check()
        published = {v.version for v in await self.log(MODELS) if isinstance(v, m.VersionPublished)}

        assert len(published) == result.compared_count
