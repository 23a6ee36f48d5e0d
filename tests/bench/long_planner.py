"""A planner's memory and the CPU of its snapshots over many versions; figures as JSON."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from long_log import RUN, LongRun, SetClock

from cos2p.history.run import RunHistory
from cos2p.history.state import HistoryState
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.mailbox import Letter
from cos2p.log.snapshots import Position, Snapshot, write_snapshot
from cos2p.log.state_codec import pack
from cos2p.log.topics import Topic, specs
from cos2p_planner.fold import PlannerState
from cos2p_planner.snapshotting import RECORDS_MIN


class Forgetting(MemoryBus):
    """A bus that keeps nothing."""

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        offsets = await super().append(topic, partition, records)
        self.expire(topic, partition, offsets[-1] + 1 if offsets else 0)
        return offsets


def resident_mb() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


class Measured:
    """A run of the planner's core with the history beside it, and their snapshots."""

    def __init__(self, snapshots: SqliteBus, versions: int) -> None:
        self.clock = SetClock(time.time())
        self.history = RunHistory()
        self.run = LongRun(Forgetting(self.clock), self.clock, "long", self.take)
        self._bus, self._versions = snapshots, versions
        self._waiting = self._count = 0
        self._snapshot_s, self._bytes = 0.0, 0
        self._early_mb = 0.0

    def take(
        self, topic: Topic, offset: int, at_s: float, message: m.Message, value: bytes
    ) -> None:
        """A record of a small topic."""
        self.history.take(Letter(topic, offset, at_s, message, value))
        self._waiting += 1

    async def flushed(self, version: int) -> None:
        """Records were appended: a snapshot where one is due."""
        if not self._early_mb and version >= self._versions // 10:
            self._early_mb = resident_mb()
        if self._waiting < RECORDS_MIN:
            return
        began = time.process_time()
        states = {
            "history": pack(HistoryState, self.history.state),
            "planner": pack(PlannerState, self.run.known.state),
        }
        for of, state in states.items():
            positions = {"fleet": Position(1), "decisions": Position(1), "models": Position(1)}
            made = Snapshot(of, self._count, RUN, positions, state)  # type: ignore[arg-type]
            await write_snapshot(self._bus, "long", made)
        self._snapshot_s += time.process_time() - began
        self._bytes, self._waiting = sum(map(len, states.values())), 0
        self._count += 1

    def figures(self, cpu_s: float) -> dict[str, float]:
        """What came of it."""
        return {
            "early_mb": self._early_mb,
            "late_mb": resident_mb(),
            "cpu_s": cpu_s,
            "snapshot_s": self._snapshot_s,
            "snapshots": self._count,
            "snapshot_bytes": self._bytes,
        }


async def play(versions: int) -> dict[str, float]:
    """The figures of a run of this many versions."""
    with tempfile.TemporaryDirectory() as folder:
        measured = Measured(SqliteBus(Path(folder), SetClock(time.time())), versions)
        await measured._bus.create_topics(specs("long", 1))
        began = time.process_time()
        await measured.run.write(versions, measured.flushed)
        return measured.figures(time.process_time() - began)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(play(int(sys.argv[1])))))
