"""Segment files: the embedded bus keeps the bytes of blob chunks in them.

They lie next to its SQLite file, whose rows give segment, position and length.

Invariants:
A segment has one writer, which holds its lock (flock) until no append into it is in progress.
It holds records of one topic, so that all of it expires.
Bytes are in the file before a row points at them, and are never overwritten.
A process removes a file only while it holds the file's lock.
After taking the lock, it must also have seen that no row points into the file.
So a crash may leave bytes without a row, but never a row without its bytes.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cos2p.errors import OffsetExpiredError, StorageError
from cos2p.log.bus import TopicSpec
from cos2p.log.buses.sqlite_log import SegmentSlice
from cos2p.model.payload import Buffer

_IOV_MAX = 512


LIFETIMES_PER_RETENTION = 4
"""Number of times that a new segment is opened while a record is kept."""


class Segment:
    """One file, open for appending.

    Args:
        number: the segment's number, from which its name is made.
        path: where the file is.
        fd: the open file, locked; the segment closes it.
        opened_s: time on the bus's clock at which it is opened.
        lifetime_s: how long it takes records, in seconds; None for ever.
    """

    def __init__(
        self, number: int, path: Path, fd: int, opened_s: float, lifetime_s: float | None
    ) -> None:
        self.number, self._path, self._fd = number, path, fd
        self._opened_s, self._lifetime_s = opened_s, lifetime_s
        self.byte_count = 0
        """Number of bytes reserved so far."""
        self._users = 0
        self._sealed = False

    def is_old(self, now_s: float) -> bool:
        """Whether its lifetime is over, or the clock was set back."""
        if self._lifetime_s is None:
            return False
        return not self._opened_s <= now_s < self._opened_s + self._lifetime_s

    def reserve(self, byte_count: int) -> int:
        """Reserve room for an append and return its position.

        Call `release` when the append's rows are in the log.
        """
        position = self.byte_count
        self.byte_count += byte_count
        self._users += 1
        return position

    def release(self) -> None:
        """End an append that reserved room."""
        self._users -= 1
        self._close_if_unused()

    def seal(self) -> None:
        """Take no more reservations; the file is closed after the last append."""
        self._sealed = True
        self._close_if_unused()

    def write(self, position: int, values: Sequence[Buffer]) -> None:
        """Write `values` one after another from `position`.

        Raises:
            StorageError: the disk is full or can't be written.
        """
        views = [memoryview(v).cast("B") for v in values if len(v)]
        try:
            while views:
                done = os.pwritev(self._fd, views[:_IOV_MAX], position)
                position += done
                while views and done >= len(views[0]):
                    done -= len(views.pop(0))
                if done:
                    views[0] = views[0][done:]
        except OSError as error:
            raise StorageError(
                f"can't write blobs to {self._path}: {error.strerror}; free space and start again"
            ) from error

    def _close_if_unused(self) -> None:
        if self._sealed and self._users == 0 and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SegmentFolder:
    """All segments of a run, and the one that this bus writes for each topic.

    A segment of `bytes_max` or more is followed by a new one.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._current: dict[str, Segment] = {}

    def is_due(self, topic: str, now_s: float) -> bool:
        """Whether the next append to a topic needs a new file."""
        current = self._current.get(topic)
        if current is None or current.byte_count >= self._bytes_max:
            return True
        return current.is_old(now_s)

    def rotate(self, spec: TopicSpec, number: int, now_s: float) -> bool:
        """Open a new file for a topic.

        Returns:
            False if retention removed the file before it was locked: try another number.

        Raises:
            StorageError: the file can't be made.
        """
        path = self._path(number)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            raise StorageError(f"can't make {path}: {error.strerror}") from error
        # Retention of another process may have unlinked the file before it was locked.
        if os.fstat(fd).st_nlink == 0:
            os.close(fd)
            return False
        kept_s = spec.retention_s
        lifetime_s = None if kept_s is None else kept_s / LIFETIMES_PER_RETENTION
        self._seal(spec.name)
        self._current[spec.name] = Segment(number, path, fd, now_s, lifetime_s)
        return True

    def current(self, topic: str) -> Segment:
        """The file to append to; call `rotate` first if `is_due`."""
        return self._current[topic]

    def seal_old(self, now_s: float) -> None:
        """Seal the files whose lifetime is over, so that retention can remove them."""
        for topic in [t for t, segment in self._current.items() if segment.is_old(now_s)]:
            self._seal(topic)

    def seal(self) -> None:
        """Seal all files in use."""
        for topic in list(self._current):
            self._seal(topic)

    def _seal(self, topic: str) -> None:
        if (segment := self._current.pop(topic, None)) is not None:
            segment.seal()

    def read(self, places: Sequence[SegmentSlice], *, may_wait: bool) -> list[memoryview] | None:
        """Read the values at `places`, in order; adjacent values are read together.

        None if the call would have to wait for the disk and may not.

        Raises:
            OffsetExpiredError: a file is gone or too short.
        """
        values: list[memoryview] = []
        start = 0
        for i in range(1, len(places) + 1):
            if i == len(places) or not places[i - 1].adjoins(places[i]):
                run = self._read_run(places[start:i], may_wait)
                if run is None:
                    return None
                values += run
                start = i
        return values

    def remove(self, numbers: Sequence[int], unused: Callable[[], Sequence[int]]) -> list[int]:
        """Unlink the segments that have no writer and no row; return their numbers.

        `unused` finds the segments without a row again, under their locks. A writer may have added
        a row and closed its file since `numbers` was read.

        Raises:
            StorageError: a file can't be removed.
        """
        locked: dict[int, int] = {}
        try:
            for number in numbers:
                if (fd := self._locked(number)) is not None:
                    locked[number] = fd
            removed = sorted(locked.keys() & set(unused())) if locked else []
            for number in removed:
                self._path(number).unlink(missing_ok=True)
            return removed
        except OSError as error:
            raise StorageError(
                f"can't remove {error.filename}: {error.strerror}; allow writing to its folder"
            ) from error
        finally:
            for fd in locked.values():
                os.close(fd)

    def _read_run(self, places: Sequence[SegmentSlice], may_wait: bool) -> list[memoryview] | None:
        first = places[0].position
        size = places[-1].position + places[-1].byte_count - first
        path = self._path(places[0].segment)
        data = np.empty(size, np.uint8).data
        try:
            with open(path, "rb", buffering=0) as file:
                read = _read_into if may_wait else _read_cached
                done = read(file.fileno(), data, first)
        except FileNotFoundError:
            raise OffsetExpiredError(f"the blobs in {path} were removed from the run") from None
        except OSError as error:
            raise StorageError(f"can't read {path}: {error.strerror}") from error
        if done != size:
            if not may_wait:
                return None
            raise OffsetExpiredError(f"{path} was truncated: {done} of {size} bytes at {first}")
        return [data[p.position - first : p.position - first + p.byte_count] for p in places]

    def _locked(self, number: int) -> int | None:
        """Open and lock a segment's file; None if it does not exist or has a writer."""
        try:
            fd = os.open(self._path(number), os.O_RDONLY)
        except FileNotFoundError:
            # A writer may have the number but not the file yet, so the number must stay.
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"


def _read_into(fd: int, data: memoryview, position: int) -> int:
    """Fill `data` and return the number of bytes that were there."""
    done = 0
    while done < len(data) and (more := os.preadv(fd, [data[done:]], position + done)):
        done += more
    return done


def _read_cached(fd: int, data: memoryview, position: int) -> int:
    """Read from the page cache only; -1 if the data is not there.

    This takes a fifth of the time that a switch to a thread costs.
    """
    if sys.platform != "linux":
        return -1
    try:
        return os.preadv(fd, [data], position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            return -1
        raise
