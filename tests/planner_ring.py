"""A planner's process body on a bus in memory, with its log and its watch."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np

from cos2p.clock import LoopClock, SystemClock
from cos2p.errors import SignatureError
from cos2p.history.read import letters
from cos2p.history.run import RunHistory
from cos2p.log import messages as m
from cos2p.log.bus import Record
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Mailbox, Outbox
from cos2p.log.run_request import NewRun, request_run
from cos2p.log.snapshots import Snapshot, write_snapshot
from cos2p.log.topics import DEAD_LETTERS, DECISIONS, FLEET
from cos2p.monitoring.watch import Watch
from cos2p.service.logs import Log
from cos2p.service.role import RoleContext
from cos2p_planner.shell import run_planner

Tables = Callable[..., Any]


class Notes:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, dict[str, Any]]] = []

    def bind(self, **_: object) -> "Notes":
        return self

    def info(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields))

    debug = warning = info

    def events(self) -> list[str]:
        return [event for event, _ in self.logged]


class Hearer(Watch):
    """Keeps what the planner tells."""

    def __init__(self) -> None:
        self.blockers: list[str] = []
        self.free_count = 0
        self.history: RunHistory | None = None
        self.refused_count = 0
        self.has_refused = asyncio.Event()

    def refused(self, topic: str) -> None:
        self.refused_count += 1
        self.has_refused.set()

    def blocked(self, cause: str, text: str) -> None:
        self.blockers.append(f"{cause}: {text}")

    def unblocked(self, cause: str) -> None:
        self.free_count += 1

    def show_history(self, history: RunHistory) -> None:
        self.history = history


class Ring:
    """A bus with a run asked for."""

    def __init__(
        self,
        stage: Any,
        clock: LoopClock | SystemClock | None = None,
        snapshot_records: int = 10_000,
    ) -> None:
        self.clock = clock or SystemClock()
        self.snapshot_records = snapshot_records
        self.bus = MemoryBus(self.clock)
        self.stage = stage
        self.notes = Notes()
        self.watch = Hearer()
        self.stop = asyncio.Event()
        self.fleet = Outbox(self.bus, "t", FLEET)
        self.decisions = Mailbox(self.bus, "t", DECISIONS, reader="test", run_id="run-1")
        self.seen: list[m.Message] = []
        self.liar: str | None = None

    async def ask(self) -> None:
        await request_run(self.bus, "t", self.new_run())

    async def ask_late(self) -> None:
        """Ask where something has been said already: `request_run` would see a run in it."""
        await self.fleet.send(await request_run(MemoryBus(self.clock), "t", self.new_run()))

    def new_run(self) -> NewRun:
        values = [np.zeros(n, np.float32) for n in self.stage.table.sizes]
        return NewRun("run-1", "tests:task", self.stage.config, self.stage.table, values)

    def plan(self, name: str = "planner") -> Awaitable[None]:
        return run_planner(
            RoleContext(
                self.bus, self.clock, cast(Log, self.notes), "t", self.stop, watch=self.watch
            ),
            planner_id=name,
            checker=None if self.liar is None else lambda sequences: self.check,
            snapshot_records=self.snapshot_records,
        )

    def check(self, record: Record, message: m.Message) -> None:
        """Refuse all that is said in one name."""
        if getattr(message, "worker_id", None) == self.liar:
            raise SignatureError(f"{type(message).__name__} of {self.liar}: not signed")

    async def leave(self, worker: str) -> None:
        await self.fleet.send(m.Goodbye(run_id="run-1", worker_id=worker, incarnation=1))

    async def buried(self) -> list[int]:
        """Offsets of the dead letters."""
        found = [letter async for letter in letters(self.bus, "t", DEAD_LETTERS)]
        return [x.message.offset for x in found if isinstance(x.message, m.DeadLetter)]

    async def hello(self, worker: str = "w1") -> None:
        await self.fleet.send(
            m.Hello(
                run_id="run-1",
                worker_id=worker,
                incarnation=1,
                profile=m.DeviceProfile(
                    memory_bytes=self.stage.costs.memory_for_fraction(0.5), flops_per_s=1e9
                ),
                sample_count=100,
                units_digest=self.stage.table.digest,
            )
        )

    async def write(self, snapshot: Snapshot) -> None:
        await write_snapshot(self.bus, "t", snapshot)

    def count(self, kind: type[Any]) -> int:
        """Decisions of a kind that were seen."""
        return sum(isinstance(d, kind) for d in self.seen)

    async def shown(self, fits: Callable[[RunHistory], bool]) -> None:
        """Until the planner has read back what it has decided."""
        async with asyncio.timeout(20):
            while self.watch.history is None or not fits(self.watch.history):
                await self.bus.read("t-fleet", 0, 1 << 30, wait_s=0.02)

    async def until(self, kind: type[Any], count: int = 1) -> Any:
        """The count-th decision of a kind."""
        async with asyncio.timeout(20):
            while len(found := [d for d in self.seen if isinstance(d, kind)]) < count:
                self.seen += [x.message for x in await self.decisions.poll(1.0)]
        return found[count - 1]

    @asynccontextmanager
    async def planner(self, name: str = "planner") -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.ensure_future(self.plan(name))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def stage_of(new_stage: Callable[..., Any], **sections: Any) -> Any:
    return new_stage({"rounds": {"versions": 3}} | sections)
