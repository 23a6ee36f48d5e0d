"""A run written by hand: version 0, decisions and updates on a memory bus; no planner, no worker.

Invariant: the same calls write the same records, so two runs built alike can be compared.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pytest
from dispatching import weights
from numpy.typing import NDArray

from cos2p.clock import LoopClock
from cos2p.log import messages as m
from cos2p.log.blobs import read_blob, write_blob
from cos2p.log.bus import NewRecord, Record
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.codec import decode
from cos2p.log.mailbox import Outbox
from cos2p.log.topics import CHECKPOINTS, DECISIONS, MODELS, UPDATES, partition_of, specs
from cos2p.model.payload import header_of, parts
from cos2p.model.unit_wire import UnitColumns
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.run_config import MergeConfig, RunConfig
from cos2p.service.logs import configure_logs
from cos2p.service.role import RoleContext
from cos2p_aggregator.shell import run_aggregator

PREFIX = "t"
RUN = "run-1"
F32 = NDArray[np.float32]


def small_table() -> UnitTable:
    """A stem and three blocks, 11 units, 317 parameters."""
    units = [Unit("embed", "core", STEM, 23, 1, 1), Unit("position", "core", STEM, 31, 1, 1)]
    for block in range(3):
        units.append(Unit(f"block{block}.norm", "core", block, 7, 1, 1))
        units += [Unit(f"block{block}.head.{h}", "head", block, 40, 1, 1) for h in range(2)]
    return UnitTable(tuple(units))


@dataclass
class Script:
    """Writes a run's log, one deed at a time."""

    bus: MemoryBus
    config: RunConfig
    table: UnitTable = field(default_factory=small_table)
    version: int = 0
    plans: dict[str, m.Plan] = field(default_factory=dict)
    seed: int = 7
    epoch: int = 1

    async def start(self, chunk_bytes: int = 300) -> None:
        """Topics, version 0 in small chunks, RunStarted."""
        await self.bus.create_topics(specs(PREFIX, self.config.partitions))
        rng = np.random.default_rng(self.seed)
        weights = [rng.normal(size=u.size).astype(np.float32) for u in self.table.units]
        units = range(len(self.table))
        payload = parts(header_of("v0", units, weights), weights)
        topic = f"{PREFIX}-{CHECKPOINTS.name}"
        ref = await write_blob(self.bus, topic, 0, "v0", payload, chunk_bytes=chunk_bytes)
        await self.decide(
            m.EpochStarted(run_id=RUN, epoch=1, fleet_offset=0, at_s=0.0, planner_id="planner"),
            m.RunStarted(
                run_id=RUN,
                epoch=self.epoch,
                fleet_offset=0,
                at_s=0.0,
                config=self.config,
                task="none",
                units=UnitColumns.of(self.table),
                checkpoint=ref,
            ),
        )

    async def decide(self, *decisions: m.Decision) -> list[int]:
        """Append decisions."""
        return await Outbox(self.bus, PREFIX, DECISIONS).send(*decisions)

    async def plan(
        self, worker: str, chosen: list[int] | None = None, frozen: tuple[int, ...] = ()
    ) -> m.Plan:
        """Issue the next plan; all units unless told."""
        trained = self.table.close(range(len(self.table)) if chosen is None else chosen)
        plan = m.Plan(
            plan_id=f"p{len(self.plans):06d}",
            worker_id=worker,
            incarnation=1,
            base_version=self.version,
            trained=trained,
            frozen=frozen,
            local_steps=2,
            batch_size=2,
            learning_rate=1e-3,
            seed=len(self.plans),
            deadline_s=1.0,
            peak_bytes=1,
        )
        self.plans[plan.plan_id] = plan
        await self.decide(
            m.PlanIssued(run_id=RUN, epoch=self.epoch, fleet_offset=0, at_s=0.0, plan=plan)
        )
        return plan

    def deltas(self, plan: m.Plan) -> list[F32]:
        """What an honest worker would send."""
        rng = np.random.default_rng(1000 + plan.seed)
        sizes = [self.table.units[u].size for u in plan.trained]
        return [rng.normal(scale=0.1, size=s).astype(np.float32) for s in sizes]

    async def upload(
        self,
        plan: m.Plan,
        deltas: list[F32] | None = None,
        *,
        owner: str | None = None,
        units: tuple[int, ...] | None = None,
        chunk_bytes: int = 300,
    ) -> m.BlobRef:
        """Write an update's blob in small chunks."""
        values = self.deltas(plan) if deltas is None else deltas
        header = header_of(owner or plan.plan_id, units or plan.trained, values)
        return await write_blob(
            self.bus,
            f"{PREFIX}-{UPDATES.name}",
            partition_of(plan.worker_id, self.config.partitions),
            f"{plan.plan_id}.1",
            parts(header, values),
            chunk_bytes=chunk_bytes,
        )

    async def admit(
        self,
        plan: m.Plan,
        blob: m.BlobRef | None = None,
        *,
        weight: float = 1.0,
        scale: float = 1.0,
        staleness: int = 0,
    ) -> None:
        """Admit a plan's update, which is written first unless it is given."""
        ref = blob if blob is not None else await self.upload(plan)
        await self.decide(
            m.UpdateAdmitted(
                run_id=RUN,
                epoch=self.epoch,
                fleet_offset=0,
                at_s=0.0,
                plan_id=plan.plan_id,
                worker_id=plan.worker_id,
                blob=ref,
                weight=weight,
                scale=scale,
                staleness=staleness,
                steps_done=2,
            )
        )

    async def close(self, step: float = 1.0) -> None:
        """Close the open version."""
        self.version += 1
        await self.decide(
            m.RoundClosed(
                run_id=RUN,
                epoch=self.epoch,
                fleet_offset=0,
                at_s=0.0,
                version=self.version,
                reason="count",
                update_count=1,
                step=step,
                waited_s=0.0,
                coverage_min=1,
            )
        )

    async def take_over(self) -> None:
        """Another planner takes over; the one before it still closes a version, in vain."""
        before, self.epoch = self.epoch, self.epoch + 1
        taken = {"run_id": RUN, "fleet_offset": 0, "at_s": 0.0, "epoch": self.epoch}
        await self.decide(m.EpochStarted(**taken, planner_id=f"planner-{self.epoch}"))
        self.epoch = before
        await self.close()
        self.version, self.epoch = self.version - 1, before + 1

    async def end(self) -> None:
        """End the run at the version made last."""
        await self.decide(
            m.RunEnded(
                run_id=RUN,
                epoch=self.epoch,
                fleet_offset=0,
                at_s=0.0,
                version=self.version,
                reason="target",
            )
        )

    async def usual(self) -> None:
        """Three workers, five versions, overlapping plans, one refusal, one expiry."""
        await self.start()
        for turn in range(5):
            a = await self.plan("a", [3, 4, 6])
            b = await self.plan("b", [6, 7], frozen=(2, 3))
            c = await self.plan("c", [1, 9, 10] if turn % 2 else None)
            await self.admit(b, weight=0.3, staleness=turn % 3)
            if turn == 2:
                await self.decide(
                    m.PlanCancelled(
                        run_id=RUN,
                        epoch=self.epoch,
                        fleet_offset=0,
                        at_s=0.0,
                        plan_id=a.plan_id,
                        worker_id="a",
                        outcome=m.Outcome.EXPIRED,
                        reason="silent",
                    )
                )
            else:
                await self.admit(a, weight=1.7, scale=0.5)
            await self.close()
            await self.admit(c, weight=0.9, staleness=1)
        await self.close()
        await self.end()

    async def replace(self, topic: str, partition: int, offset: int, value: bytes) -> None:
        """Damage one record of the log in its place."""
        log = self.bus._log(topic, partition)
        old = log[offset]
        log[offset] = Record(
            old.topic, old.partition, old.offset, old.timestamp_s, old.key, value, old.headers
        )

    async def orphan(self, topic: str, partition: int, blob_id: str) -> None:
        """A chunk that nobody refers to, as a crashed writer leaves it."""
        headers = {"cos2p-blob": blob_id.encode(), "cos2p-chunk": b"0"}
        await self.bus.append(topic, partition, [NewRecord(b"orphan", b"", headers)])

    async def aggregate(self, shard: int = 0) -> None:
        """Run one shard to the run's end."""
        await run_aggregator(
            RoleContext(self.bus, LoopClock(), configure_logs("error", "json"), PREFIX),
            shard=shard,
        )

    async def published_messages(self) -> list[m.Message]:
        """All records of `models`."""
        found: list[m.Message] = []
        while records := await self.bus.read(f"{PREFIX}-{MODELS.name}", 0, len(found)):
            found += [decode(r) for r in records]
        return found

    async def versions(self, shard: int = 0) -> dict[int, m.VersionPublished]:
        """The newest record of each version."""
        return {
            t.version: t
            for t in await self.published_messages()
            if isinstance(t, m.VersionPublished) and t.shard == shard
        }

    async def payloads(self, kind: type[m.Message]) -> list[bytes]:
        """The bytes of each blob that records of a kind on `models` refer to."""
        found = []
        for t in await self.published_messages():
            if isinstance(t, m.Dispatched) and isinstance(t, kind):
                found.append(b"".join((await weights(self.bus, self.table, t)).values()))
            elif isinstance(t, m.VersionPublished) and isinstance(t, kind) and t.checkpoint:
                found.append(b"".join([bytes(c) async for c in read_blob(self.bus, t.checkpoint)]))
        return found


class NewScript(Protocol):
    """Makes a script on a fresh memory bus."""

    def __call__(self, **merge: Any) -> Script:
        """Arguments are settings of `MergeConfig`."""
        ...


@pytest.fixture
def new_script() -> NewScript:
    """See `NewScript`."""

    def make(**merge: Any) -> Script:
        usual: dict[str, Any] = {"checkpoint_every": 2, "average_decay": 0.5}
        config = RunConfig(merge=MergeConfig(**(usual | merge)), partitions=2)
        return Script(MemoryBus(LoopClock()), config)

    return make
