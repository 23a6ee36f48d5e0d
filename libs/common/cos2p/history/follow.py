"""A reader that follows the history of a run.

It starts from the newest snapshot, if there is one.

Invariants:
A snapshot only saves time.
Without one that fits, the log is folded from its start.
The reason why a snapshot was skipped is noted once.
A history that keeps all rows reads the log from its start, because no snapshot holds them.
The bus's errors pass (TopicMissingError, BusUnreachableError).
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
from cos2p.log.snapshots import fitting_snapshots
from cos2p.log.state_codec import StateError, unpack
from cos2p.log.topics import HEARTBEATS, MODELS


def beats_kept(device_count: int) -> int:
    """How many of the newest heartbeats show which devices are present.

    Compaction may be late, so the topic may hold many more. A device that is missing among these
    was silent while each other device sent twenty heartbeats.
    """
    return max(2_000, 20 * device_count)


Taken = Callable[[Letter, RunHistory], None]
"""Called with each letter once the history has taken it."""


async def first_row_kept(bus: Bus, prefix: str, run_id: str) -> int:
    """The oldest version whose row a bounded history of the whole log keeps."""
    kinds = (VersionPublished,)
    async with aclosing(newest_first(bus, prefix, MODELS, kinds, run_id=run_id)) as letters:
        async for letter in letters:
            assert isinstance(letter.message, VersionPublished)
            return max(0, letter.message.version - ROWS_MAX + 1)
    return 0


class HistoryReader:
    """Follows one run: call `poll`, then read `history`.

    A given history is filled from the log's start; without one, reading starts from a snapshot.
    `taken` is called with each letter that counts. `notes` holds why snapshots were skipped.
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
        """How many records were read, and how many of them were skipped."""
        return self._log.tally if self._log else Tally()

    async def poll(self, wait_s: float = 0.0) -> int:
        """Take the messages since the last poll and return their number.

        If there is nothing new, it waits up to `wait_s` for a record of `fleet`.
        """
        count = await self._catch_up()
        if wait_s > 0 and not count:
            log = self._log or RunLog.of(self._bus, self._prefix, "")
            await log.fleet.wait(wait_s)
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
            if history.take(letter):
                self._taken(letter, history)
        await beats.extend()
        while await beats.head() is not None:
            beat = beats.take()
            history.beat(beat.message, beat.timestamp_s)
            count += 1
        return count

    async def _open(self) -> bool:
        """Find the run and where to begin; return whether there is a run."""
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
        fitting = fitting_snapshots(self._bus, self._prefix, "history", run_id, self._skipped)
        snapshot = await anext(fitting, None)
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
    """Make a reader and read the run's log up to its current end.

    `rows_max` is the number of versions whose rows are kept. The default can start from a snapshot;
    another number, or None for all, folds the whole log.
    """
    history = None if rows_max == ROWS_MAX else RunHistory(rows_max=rows_max)
    reader = HistoryReader(bus, prefix, history=history)
    await reader.poll()
    return reader
