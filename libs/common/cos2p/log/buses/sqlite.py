"""The embedded bus: one SQLite file, shared by the processes of one machine.

Its address is `sqlite:PATH`.
PATH is a run's folder, with log.sqlite in WAL mode and the blobs' bytes in segments/.
If PATH ends in .sqlite, it is a single file that holds every value: the archive format.
This module is the asyncio side: retries on locks, waiting readers, and work in threads.

Invariants:
The event loop never waits for a lock.
It does not wait for the disk if many bytes are moved.
An append, cancelled or not, is whole or absent.
This bus's own appends wake a waiting reader at once.
Appends of other processes wake it within an eighth of the time it has waited, 1 to 20 ms.
Expired records are removed within a minute, while some process appends.
A blob's file is removed at most a quarter of its retention later.
In a single file, nothing expires.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from cos2p.clock import Clock
from cos2p.errors import (
    BusUnreachableError,
    OffsetExpiredError,
    StorageError,
    TopicMissingError,
)
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses import limits
from cos2p.log.buses.segments import SegmentFolder
from cos2p.log.buses.sqlite_file import LockedError
from cos2p.log.buses.sqlite_log import WAL_BYTES_MAX, Row, SegmentSlice, SqliteLog, TopicEntry

T = TypeVar("T")

SEGMENT_BYTES_MAX = 256 << 20
INLINE_BYTES_MAX = 4096
"""Smaller values are cheaper in their row than in a segment."""
THREAD_BYTES_MIN = 256 << 10
"""Calls that move more bytes than this run in a thread; for fewer, the switch would cost more."""
CHECKPOINT_BYTES = 4 << 20
"""The WAL is copied into the file after about this many bytes from this bus."""
COMMIT_BYTES = 16 << 10
"""Bytes that a small commit adds to the WAL."""
RETENTION_EVERY_S = 60.0
LOCK_PATIENCE_S = 30.0
POLL_MIN_S, POLL_MAX_S, POLL_SHARE = 0.001, 0.020, 0.125


class SqliteBus:
    """One process's view of a run's log on this machine.

    A bus must not be used across a fork: open it in the child.

    Args:
        path: a run's folder, or a file that ends in .sqlite.
        clock: gives the records their timestamps and decides when they have expired.
        segment_bytes_max: size from which a new segment is opened.
        lock_patience_s: how long another process may hold the file's lock, in seconds.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        lock_patience_s: float = LOCK_PATIENCE_S,
    ) -> None:
        self._path, self._clock, self._patience_s = path, clock, lock_patience_s
        self._is_archive = path.suffix == ".sqlite"
        self._file = path if self._is_archive else path / "log.sqlite"
        self._log: SqliteLog | None = None
        self._segments = SegmentFolder(path / "segments", segment_bytes_max)
        self._topics: dict[str, TopicEntry] = {}
        self._write_turn = asyncio.Lock()
        self._waiters: set[asyncio.Future[None]] = set()
        self._empty_since: dict[int, float] = {}
        self._open_turn = asyncio.Lock()
        self._bytes_since_checkpoint = 0
        self._checkpoint: asyncio.Future[None] | None = None
        self._retained_s: float | None = None

    # ------------------------------------------------------------ the bus's methods

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus.create_topics`; makes the folder and the file if they are missing."""
        log = await self._opened(create=True)
        async with self._write_turn:
            await self._patiently(partial(log.create_topics, specs))
        self._topics.clear()
        self._wake()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`; all records are written, or none.

        Raises:
            StorageError: the disk is full, or the file is read-only.
        """
        entry, log_id = await self._place_of(topic, partition)
        limits.check(entry.spec, records)
        if not records:
            return []
        await self._retain()
        first = await self._append(entry.spec, log_id, records)
        self._wake()
        await asyncio.sleep(0)  # The calls above may not have yielded: let other tasks run.
        return list(range(first, first + len(records)))

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        """See `Bus.read`.

        Raises:
            OffsetExpiredError: also where a segment file was removed or cut by hand.
        """
        _, log_id = await self._place_of(topic, partition)
        log = await self._opened()
        self._segments.seal_old(self._clock.now())
        now = asyncio.get_running_loop().time
        until = now() + wait_s
        while True:
            seen = await self._patiently(log.changes)
            rows = await self._patiently(partial(log.select, log_id, offset, bytes_max))
            if not rows or rows[0].offset != offset:
                first = (await self._patiently(partial(log.ends, log_id))).first
                if offset < first:
                    raise OffsetExpiredError(
                        f"{topic}[{partition}] in {self._file} starts at {first}, not at {offset}"
                    )
            if rows:
                self._empty_since.pop(log_id, None)
                await asyncio.sleep(0)
                return await self._records(topic, partition, rows)
            if now() >= until:
                return []
            await self._change(log, seen, self._empty_since.setdefault(log_id, now()), until)

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`."""
        entry, _ = await self._place_of(topic, 0)
        log = await self._opened()
        return {
            partition: await self._patiently(partial(log.ends, log_id))
            for partition, log_id in enumerate(entry.logs)
        }

    async def close(self) -> None:
        """See `Bus.close`; the next use opens the bus again."""
        async with self._write_turn:
            self._segments.seal()
            log, self._log = self._log, None
            self._topics.clear()
            checkpoint, self._checkpoint = self._checkpoint, None
            try:
                if checkpoint is not None:
                    await checkpoint
            finally:
                if log is not None:
                    # The last process to close copies the WAL into the file, which is slow.
                    await _in_thread(log.close)

    # ------------------------------------------------------------ appending

    async def _append(self, spec: TopicSpec, log_id: int, records: Sequence[NewRecord]) -> int:
        log = await self._opened()
        places: list[SegmentSlice | None] = [None] * len(records)
        # Compacted records stay in their rows: a file could be removed under its neighbours.
        apart = spec.bulk and not spec.compacted and not self._is_archive
        far = [i for i, new in enumerate(records) if len(new.value) > INLINE_BYTES_MAX]
        if not (apart and far):
            return await self._insert(log, spec, log_id, records, places)
        values = [records[i].value for i in far]
        size = sum(len(v) for v in values)
        async with self._write_turn:
            if self._segments.is_due(spec.name, self._clock.now()):
                await self._rotate(log, spec)
            segment = self._segments.current(spec.name)
            position = segment.reserve(size)
        try:
            if size < THREAD_BYTES_MIN:
                segment.write(position, values)
            else:
                await _in_thread(partial(segment.write, position, values))
            for i, value in zip(far, values, strict=True):
                places[i] = SegmentSlice(segment.number, position, len(value))
                position += len(value)
            return await self._insert(log, spec, log_id, records, places)
        finally:
            segment.release()

    async def _insert(
        self,
        log: SqliteLog,
        spec: TopicSpec,
        log_id: int,
        records: Sequence[NewRecord],
        places: Sequence[SegmentSlice | None],
    ) -> int:
        size = sum(len(r.value) for r, p in zip(records, places, strict=True) if p is None)
        async with self._write_turn:
            now_s = self._clock.now()
            insert = partial(log.insert, log_id, now_s, records, places, compacted=spec.compacted)
            first = await self._patiently(insert, in_thread=size >= THREAD_BYTES_MIN)
        await self._keep_wal_small(log, size + COMMIT_BYTES)
        return first

    async def _keep_wal_small(self, log: SqliteLog, byte_count: int) -> None:
        """Copy the WAL into the file in a thread; a writer too fast for the disk waits for it."""
        self._bytes_since_checkpoint += byte_count
        checkpoint = self._checkpoint
        if checkpoint is not None and self._bytes_since_checkpoint >= 2 * CHECKPOINT_BYTES:
            await asyncio.wait([checkpoint])
        if checkpoint is not None and checkpoint.done():
            self._checkpoint = None
            checkpoint.result()
        # Many processes that each write little can fill the WAL together.
        due = self._bytes_since_checkpoint >= CHECKPOINT_BYTES or log.wal_bytes() > WAL_BYTES_MAX
        if self._checkpoint is None and due:
            self._bytes_since_checkpoint = 0
            self._checkpoint = asyncio.get_running_loop().run_in_executor(None, log.checkpoint)

    async def _rotate(self, log: SqliteLog, spec: TopicSpec) -> None:
        made = False
        while not made:
            number = await self._patiently(log.new_segment)
            made = self._segments.rotate(spec, number, self._clock.now())

    async def _retain(self) -> None:
        """From time to time, let retention remove some of the expired records."""
        now_s, before = self._clock.now(), self._retained_s
        self._segments.seal_old(now_s)
        if self._is_archive or (before is not None and 0 <= now_s - before < RETENTION_EVERY_S):
            return
        self._retained_s = now_s
        if await self._expire(await self._opened()):
            self._retained_s = None  # some are left: the next append continues

    async def _expire(self, log: SqliteLog) -> bool:
        """Remove expired records, up to a limit, and unused segments; return whether some stay."""
        async with self._write_turn:
            expire = partial(log.expire, self._clock.now())
            more = await self._patiently(expire, in_thread=True)
            unused = await self._patiently(log.unused_segments)
            remove = partial(self._segments.remove, unused, log.unused_segments)
            if unused and (removed := await self._patiently(remove, in_thread=True)):
                await self._patiently(partial(log.forget_segments, removed))
        return more

    # ------------------------------------------------------------ reading

    async def _records(self, topic: str, partition: int, rows: Sequence[Row]) -> list[Record]:
        places = [row.value for row in rows if isinstance(row.value, SegmentSlice)]
        values = self._segments.read(places, may_wait=False)
        if values is None:
            values = await _in_thread(partial(self._segments.read, places, may_wait=True))
        far = iter(values or ())
        found = []
        for row in rows:
            value = next(far) if isinstance(row.value, SegmentSlice) else row.value
            place = topic, partition, row.offset
            found.append(Record(*place, row.timestamp_s, row.key, value, row.headers))
        return found

    async def _change(self, log: SqliteLog, seen: int, since: float, until: float) -> None:
        """Wait until any process has committed, or `until`."""
        now = asyncio.get_running_loop().time
        while (left := until - now()) > 0:
            pause = min(max(POLL_SHARE * (now() - since), POLL_MIN_S), POLL_MAX_S, left)
            await self._pause(pause)
            if await self._patiently(log.changes) != seen:
                return

    async def _pause(self, seconds: float) -> None:
        """Sleep, or wake at this bus's next append."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        alarm = loop.call_later(seconds, _ring, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            alarm.cancel()
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            _ring(waiter)

    # ------------------------------------------------------------ the file

    async def _place_of(self, topic: str, partition: int) -> tuple[TopicEntry, int]:
        entry = self._topics.get(topic)
        if entry is None:
            log = await self._opened()
            entry = self._topics[topic] = await self._patiently(partial(log.topic, topic))
        if not 0 <= partition < len(entry.logs):
            raise TopicMissingError(f"there is no {topic}[{partition}] in {self._file}")
        return entry, entry.logs[partition]

    async def _opened(self, *, create: bool = False) -> SqliteLog:
        if self._log is None:
            async with self._open_turn:
                if self._log is None:
                    self._check_path()
                    self._log = await self._patiently(partial(SqliteLog, self._file, create=create))
        return self._log

    def _check_path(self) -> None:
        if self._is_archive == self._path.is_dir() and self._path.exists():
            raise BusUnreachableError(
                f"no run at {self._path}: a run is a folder, or a file whose name ends in .sqlite"
            )

    async def _patiently(self, call: Callable[[], T], *, in_thread: bool = False) -> T:
        """Call, and repeat the call while another process holds the lock."""
        now = asyncio.get_running_loop().time
        started_s, pause = now(), POLL_MIN_S / 2
        while True:
            try:
                return await _in_thread(call) if in_thread else call()
            except LockedError as error:
                if now() - started_s > self._patience_s:
                    raise StorageError(
                        f"{self._file} was locked by another process for {self._patience_s:g} s: "
                        "is one stopped in the middle of a write, or its disk stuck?"
                    ) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, POLL_MAX_S)


async def _in_thread(call: Callable[[], T]) -> T:
    """Run a call in a thread; if cancelled, still wait for its end, because it uses files."""
    work = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()
        raise


def _ring(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
