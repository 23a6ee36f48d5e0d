"""A reader for people: the history of a run, from its newest snapshot where there is one.

Invariants: a snapshot saves time only. Without one that fits, the log is folded from its start, and
why a snapshot was passed over is noted once. A history that keeps all rows reads the log from its
start, for no snapshot holds them.
"""

from collections.abc import Callable
from contextlib import aclosing

from cos2p.history.read import RunLog, Tally, Tape, run_of
from cos2p.history.run import ROWS_MAX, RunHistory
from cos2p.history.state import HistoryState
from cos2p.log.backwards import newest_first
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Letter
from cos2p.log.messages import VersionPublished
from cos2p.log.snapshots import Snapshot, newest_snapshot
from cos2p.log.state_codec import StateError, pack, unpack
from cos2p.log.topics import HEARTBEATS, MODELS


def beats_kept(device_count: int) -> int:
    """How many of the newest heartbeats say who is there, where compaction is behind.

    A device that is missing in them was silent while each other one beat twenty times.
    """
    return max(2_000, 20 * device_count)


Taken = Callable[[Letter, RunHistory], None]
"""Called with each letter once the history has taken it."""


def snapshot_of(history: RunHistory, number: int) -> Snapshot:
    """The history's snapshot; its number comes from `newest_snapshot`, then rises by one."""
    state = pack(HistoryState, history.state)
    return Snapshot("history", number, history.run_id, history.positions, state)


async def first_row_kept(bus: Bus, prefix: str, run_id: str) -> int:
    """The oldest version of which a bounded history of the whole log keeps the row."""
    kinds = (VersionPublished,)
    async with aclosing(newest_first(bus, prefix, MODELS, kinds, run_id=run_id)) as letters:
        async for letter in letters:
            assert isinstance(letter.message, VersionPublished)
            return max(0, letter.message.version - ROWS_MAX + 1)
    return 0


class HistoryReader:
    """Follows one run: `poll`, then read `history`.

    Args:
        bus: where its log is.
        prefix: of the topics' names.
        history: that is filled; one that keeps all rows reads from the log's start.
        taken: called with each letter that counts.

    Attributes:
        notes: why snapshots were passed over.
    """

    def __init__(
        self,
        bus: Bus,
        prefix: str,
        *,
        history: RunHistory | None = None,
        taken: Taken = lambda letter, history: None,
    ) -> None:
        self._bus, self._prefix, self._taken = bus, prefix, taken
        self._given = history
        self.history = history or RunHistory()
        self.notes: list[str] = []
        self._log: RunLog | None = None
        self._beats: Tape | None = None

    @property
    def tally(self) -> Tally:
        """What was read of the log, and what of it was skipped."""
        return self._log.tally if self._log else Tally()

    async def poll(self, wait_s: float = 0.0) -> int:
        """Take what has come since the last poll; how many messages that were.

        Waits up to `wait_s` for a word from the fleet where there is nothing new.

        Raises:
            TopicMissingError, BusUnreachableError: as the bus does.
        """
        count = await self._catch_up()
        if wait_s > 0 and not count:
            log = self._log or RunLog.of(self._bus, self._prefix, "")
            await log.wait(wait_s)
            count = await self._catch_up()
        return count

    async def _catch_up(self) -> int:
        if self._log is None and not await self._open():
            return 0
        log, beats, history, count = self._log, self._beats, self.history, 0
        assert log is not None
        assert beats is not None
        async for letter in log.letters():
            count += 1
            if history.take_letter(letter):
                self._taken(letter, history)
        await beats.extend()
        while await beats.head() is not None:
            beat = beats.take()
            history.beat(beat.message, beat.timestamp_s)
            count += 1
        return count

    async def _open(self) -> bool:
        """Find the run and where to begin; whether there is a run."""
        run_id = await run_of(self._bus, self._prefix)
        if not run_id:
            return False
        if self._given is None:
            await self._restore(run_id)
            self.history.rows_from = await first_row_kept(self._bus, self._prefix, run_id)
        offsets = {name: p.offset for name, p in self.history.positions.items()}
        self._log = RunLog.of(self._bus, self._prefix, run_id, offsets, self.history.state.epoch)
        self._beats = Tape.of(self._bus, self._prefix, HEARTBEATS, run_id)
        end = await self._beats.extend()
        kept = beats_kept(len(self.history.state.devices))
        self._beats.mailbox.offset = max(self._beats.offset, end - kept)
        return True

    async def _restore(self, run_id: str) -> None:
        snapshot = await newest_snapshot(self._bus, self._prefix, "history", run_id, self._skipped)
        if snapshot is None:
            return
        try:
            state = unpack(HistoryState, snapshot.state)
        except StateError as error:
            self._skipped(snapshot.number, str(error))
            return
        self.history = RunHistory.from_state(state, snapshot.positions)

    def _skipped(self, number: int, reason: str) -> None:
        self.notes.append(f"snapshot {number} of the history was passed over: {reason}")


async def open_history(bus: Bus, prefix: str, *, rows_max: int | None = ROWS_MAX) -> HistoryReader:
    """A reader that has read the run's log as it is now.

    Args:
        bus: where the log is.
        prefix: of the topics' names.
        rows_max: 64, as snapshots have it; another number, or None for all, folds the whole log.

    Raises:
        TopicMissingError, BusUnreachableError: as the bus does.
    """
    history = None if rows_max == ROWS_MAX else RunHistory(rows_max=rows_max)
    reader = HistoryReader(bus, prefix, history=history)
    await reader.poll()
    return reader
