"""When a planner writes snapshots, and what they hold.

Invariants:
- A snapshot is packed only when all records that were read are folded and all decisions that were
  made are in the log. No other planner's decisions lie among them.
- Packing snapshots costs at most `COST_SHARE` of the planner's time.
- A snapshot that is being written delays nothing.
"""

import asyncio
from collections.abc import Mapping

from cos2p.errors import OffsetExpiredError
from cos2p.log.snapshots import Position, Snapshot, tail_of, write_snapshot
from cos2p.log.topics import Topic
from cos2p.service.role import RoleContext
from cos2p_planner.fold import Folds

RECORDS_MIN = 2000
"""A start folds this many records in a fraction of a second."""
COST_SHARE = 0.01


class Snapshots:
    """The snapshots that one planner writes.

    Args:
        context: the planner's context.
        number: number of the first one.
        records_min: records folded between two of them, at least.
    """

    def __init__(self, context: RoleContext, number: int, records_min: int) -> None:
        self._bus, self._prefix, self._clock = context.bus, context.prefix, context.clock
        self._number, self._records_min = number, records_min
        self._record_count = 0
        self._rest_until_s = 0.0
        self._writing: asyncio.Task[None] | None = None

    def folded(self, record_count: int) -> None:
        """Count records that were folded."""
        self._record_count += record_count

    @property
    def is_due(self) -> bool:
        """Whether it is time for a snapshot."""
        busy = self._writing is not None and not self._writing.done()
        enough = self._record_count >= self._records_min
        return enough and not busy and self._clock.now() >= self._rest_until_s

    async def take(self, run_id: str, folds: Folds, offsets: Mapping[Topic, int]) -> None:
        """Pack both states now, and begin to write them.

        Args:
            run_id: the run.
            folds: its folds; both have read equally far.
            offsets: the next record of each topic to fold.

        Raises:
            What the bus raised when it wrote the snapshot before.
        """
        await self.finish()
        began_s = self._clock.now()
        planner, history = folds.packed("planner"), folds.packed("history")
        positions = {topic.name: await self._position(topic, at) for topic, at in offsets.items()}
        number, self._number, self._record_count = self._number, self._number + 1, 0
        self._writing = asyncio.ensure_future(
            self._write(
                # The planner's snapshot comes last: where it is complete, the history's is too.
                Snapshot("history", number, run_id, positions, history),
                Snapshot("planner", number, run_id, positions, planner),
            )
        )
        spent_s = self._clock.now() - began_s
        self._rest_until_s = self._clock.now() + spent_s / COST_SHARE

    async def finish(self) -> None:
        """Wait for the snapshot that is being written.

        Raises:
            What the bus raised.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def cancel(self) -> None:
        """Give up the snapshot that is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, *snapshots: Snapshot) -> None:
        for snapshot in snapshots:
            await write_snapshot(self._bus, self._prefix, snapshot)

    async def _position(self, topic: Topic, offset: int) -> Position:
        if not offset:
            return Position(0)
        name = topic.full_name(self._prefix)
        try:
            records = await self._bus.read(name, 0, offset - 1, bytes_max=1)
        except OffsetExpiredError:
            return Position(offset)
        return Position(offset, tail_of(records[0].value))
