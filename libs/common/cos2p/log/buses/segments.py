"""Segment files: where the embedded bus keeps the bytes of blob chunks, beside its SQLite file.

A row of the log says segment, position and length. Invariants: a segment has one writer, which
holds its lock (flock) until no append into it is under way, and holds records of one topic, so that
all of it expires; bytes are in the file before a row points at them, and are never written over; a
file is removed only by whoever has its lock and saw after taking it that no row points into it. So
what a crash leaves behind are bytes that nobody refers to, never a row without its bytes.
"""

import errno
import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cos2p.errors import OffsetExpiredError, StorageError
from cos2p.log.bus import Buffer, TopicSpec
from cos2p.log.buses.sqlite_log import Place

_IOV_MAX = 512


class RemovedError(Exception):
    """The new file was removed by another process before it could be locked."""


LIFETIMES_PER_RETENTION = 4
"""A segment is left for a new one so often while a record lives."""


class Segment:
    """One file, open for appending.

    Args:
        number: its name.
        path: where it is.
        opened_s: the time on the bus's clock.
        lifetime_s: how long it takes records; None without end.
    """

    def __init__(
        self, number: int, path: Path, opened_s: float = 0.0, lifetime_s: float | None = None
    ) -> None:
        self.number, self.path = number, path
        self._opened_s, self._lifetime_s = opened_s, lifetime_s
        self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        if os.fstat(self._fd).st_nlink == 0:
            os.close(self._fd)
            raise RemovedError
        self._end = 0
        self._users = 0
        self._sealed = False

    @property
    def byte_count(self) -> int:
        """Bytes reserved so far."""
        return self._end

    def is_old(self, now_s: float) -> bool:
        """Its time is over, or the clock was set back."""
        if self._lifetime_s is None:
            return False
        return not self._opened_s <= now_s < self._opened_s + self._lifetime_s

    def reserve(self, byte_count: int) -> int:
        """Take room for an append; where it starts. `release` when its rows are in the log."""
        position, self._end = self._end, self._end + byte_count
        self._users += 1
        return position

    def release(self) -> None:
        """The append that reserved is over."""
        self._users -= 1
        self._close_if_unused()

    def seal(self) -> None:
        """Nothing more is reserved here."""
        self._sealed = True
        self._close_if_unused()

    def write(self, position: int, values: Sequence[Buffer]) -> None:
        """Write `values` one after the other from `position`.

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
                f"can't write blobs to {self.path}: {error.strerror}; make room and start again"
            ) from error

    def _close_if_unused(self) -> None:
        if self._sealed and self._users == 0 and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SegmentFolder:
    """All segments of a run, and those that this bus writes: one of each topic."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max
        self._current: dict[str, Segment] = {}

    def is_due(self, topic: str, now_s: float) -> bool:
        """The next append to a topic needs a new file."""
        current = self._current.get(topic)
        if current is None or current.byte_count >= self._bytes_max:
            return True
        return current.is_old(now_s)

    def rotate(self, spec: TopicSpec, number: int, now_s: float) -> bool:
        """Open a new file for a topic; False: retention took it first, try another number.

        Raises:
            StorageError: it can't be made.
        """
        path = self._path(number)
        kept_s = spec.retention_s
        lifetime_s = None if kept_s is None else kept_s / LIFETIMES_PER_RETENTION
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = Segment(number, path, now_s, lifetime_s)
        except RemovedError:
            return False
        except OSError as error:
            raise StorageError(f"can't make {path}: {error.strerror}") from error
        self._seal(spec.name)
        self._current[spec.name] = fresh
        return True

    def current(self, topic: str) -> Segment:
        """The file to append to; `rotate` first where `is_due`."""
        return self._current[topic]

    def seal_old(self, now_s: float) -> None:
        """Let go of files whose time is over, so that retention can take them."""
        for topic in [t for t, segment in self._current.items() if segment.is_old(now_s)]:
            self._seal(topic)

    def seal(self) -> None:
        """Let go of all files in use."""
        for topic in list(self._current):
            self._seal(topic)

    def _seal(self, topic: str) -> None:
        if (segment := self._current.pop(topic, None)) is not None:
            segment.seal()

    def read(self, places: Sequence[Place], *, may_wait: bool) -> list[memoryview] | None:
        """The values at `places`, in order; neighbours are read at one go.

        Returns None where the disk would have to be waited for, unless that is allowed.

        Raises:
            OffsetExpiredError: a file is gone or too short.
        """
        values: list[memoryview] = []
        start = 0
        for i in range(1, len(places) + 1):
            if i == len(places) or not _adjoin(places[i - 1], places[i]):
                run = self._read_run(places[start:i], may_wait)
                if run is None:
                    return None
                values += run
                start = i
        return values

    def remove(self, numbers: Sequence[int], unused: Callable[[], Sequence[int]]) -> list[int]:
        """Unlink those that nobody writes and no row points into; the numbers of those gone.

        Args:
            numbers: that no row pointed into.
            unused: asks again. A writer may have added its row and left since `numbers`.

        Raises:
            StorageError: one can't be removed.
        """
        locked: dict[int, int] = {}
        try:
            for number in numbers:
                if (fd := self._locked(number)) is not None:
                    locked[number] = fd
            gone = sorted(locked.keys() & set(unused())) if locked else []
            for number in gone:
                self._path(number).unlink(missing_ok=True)
            return gone
        except OSError as error:
            raise StorageError(
                f"can't remove {error.filename}: {error.strerror}; let us write to its folder"
            ) from error
        finally:
            for fd in locked.values():
                os.close(fd)

    def _read_run(self, places: Sequence[Place], may_wait: bool) -> list[memoryview] | None:
        first = places[0].position
        size = places[-1].position + places[-1].byte_count - first
        path = self._path(places[0].segment)
        data = np.empty(size, np.uint8).data
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise OffsetExpiredError(f"the blobs in {path} are gone from the run") from None
        except OSError as error:
            raise StorageError(f"can't read {path}: {error.strerror}") from error
        try:
            done = _read_into(fd, data, first) if may_wait else _read_cached(fd, data, first)
        except OSError as error:
            raise StorageError(f"can't read {path}: {error.strerror}") from error
        finally:
            os.close(fd)
        if done != size:
            if not may_wait:
                return None
            raise OffsetExpiredError(f"{path} was cut: {done} of {size} bytes at {first}")
        return [data[p.position - first : p.position - first + p.byte_count] for p in places]

    def _locked(self, number: int) -> int | None:
        """The file with its lock taken; None where it is not there, or someone writes it."""
        try:
            fd = os.open(self._path(number), os.O_RDONLY)
        except FileNotFoundError:
            # A writer that has its number but not its file yet makes it later: keep the number.
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.seg"


def _adjoin(a: Place, b: Place) -> bool:
    return a.segment == b.segment and a.position + a.byte_count == b.position


def _read_into(fd: int, data: memoryview, position: int) -> int:
    """Fill `data`; how many bytes there were."""
    done = 0
    while done < len(data) and (more := os.preadv(fd, [data[done:]], position + done)):
        done += more
    return done


def _read_cached(fd: int, data: memoryview, position: int) -> int:
    """Take what is in the page cache: a fifth of the time that the way to a thread costs."""
    if sys.platform != "linux":
        return -1
    try:
        return os.preadv(fd, [data], position, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            return -1
        raise
