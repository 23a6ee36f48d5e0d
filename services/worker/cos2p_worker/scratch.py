"""A worker's folder for dispatched weights, and the end of those that dead workers left.

A worker that is killed (kill -9, out of memory) removes nothing, and a disk fills up with what it
fetched last. So each holds a lock of the kernel's on a file in its folder, which ends with the
process, however it ends.
Invariants: a folder goes only by its owner, or by the same user's process that has taken its lock;
what has no such lock is not a worker's and stays; no link is followed.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cos2p.errors import StorageError

PREFIX = "cos2p-scratch-"
LOCK = "lock"
PARENT = os.O_RDONLY | os.O_DIRECTORY
FOLDER = PARENT | os.O_NOFOLLOW
LOCK_FILE = os.O_RDWR | os.O_NOFOLLOW


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, locked while it is in use, removed at the end.

    Raises:
        StorageError: it can't be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _new(parent)
    except OSError as error:
        raise StorageError(f"can't make a scratch folder in {parent}: {error}") from error
    try:
        yield folder
    finally:
        with suppress(OSError), _opened(parent, PARENT) as above:
            _remove(folder.name, above)
        os.close(lock)


def remove_abandoned(parent: Path) -> int:
    """Remove the folders below `parent` whose workers are dead; how many that were.

    What can't be removed stays: it costs space, not the run.
    """
    try:
        with _opened(parent, PARENT) as above:
            names = [name for name in os.listdir(above) if name.startswith(PREFIX)]
            return sum(_remove_if_dead(name, above) for name in names)
    except OSError:
        return 0


def _new(parent: Path) -> tuple[Path, int]:
    """A folder and its lock, taken."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            folder.rmdir()
            raise
        # Until the lock is taken, another worker may think that its owner is dead.
        if _take(lock) and (folder / LOCK).exists():
            return folder, lock
        os.close(lock)


def _take(lock: int) -> bool:
    """Take the lock of a folder of our own; False where another worker was quicker."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nobody can be quicker
    return True


def _remove_if_dead(name: str, above: int) -> bool:
    """Remove a folder whose lock nobody holds; whether it was removed."""
    try:
        with _opened(name, FOLDER, above) as folder, _opened(LOCK, LOCK_FILE, folder) as lock:
            if os.fstat(folder).st_uid != os.geteuid():
                return False
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(name, above)
    except OSError:  # no lock, or a living worker's; gone meanwhile, or not ours to remove
        return False
    return True


def _remove(name: str, above: int) -> None:
    """Remove a folder with what is in it.

    By descriptors, so that nobody can put a link in the way; the lock last, so that of a process
    that is killed here the next one removes the rest.
    """
    with _opened(name, FOLDER, above) as folder:
        for entry in os.listdir(folder):
            if stat.S_ISDIR(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(entry, dir_fd=folder)
            elif entry != LOCK:
                os.unlink(entry, dir_fd=folder)
        os.unlink(LOCK, dir_fd=folder)
    os.rmdir(name, dir_fd=above)


@contextmanager
def _opened(path: str | Path, flags: int, above: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
