"""A worker's folder for weights: its own one, or a passing one that is removed at the end.

A worker that is given a folder keeps its weights there for its next start. Without one it works in
the system's temporary folder. A worker that is killed (kill -9, out of memory) removes nothing, and
its weights stay on the disk. So each worker holds a kernel lock on a file in its folder. The lock
ends with the process, however it ends.

Invariants: a folder is removed only by its owner, or by a process of the same user that has taken
its lock. A folder without such a lock is not a worker's and stays. No link is followed.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cos2p.errors import StorageError

PREFIX = "cos2p-scratch-"
OWN_PREFIX = "cos2p-units-"
LOCK = "lock"
PARENT = os.O_RDONLY | os.O_DIRECTORY
FOLDER = PARENT | os.O_NOFOLLOW
LOCK_FILE = os.O_RDWR | os.O_NOFOLLOW


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Make a new folder below `parent`, locked while it is in use, removed at the end.

    Raises:
        StorageError: the folder can't be made.
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


@contextmanager
def own_folder(parent: Path, worker_id: str, run: str, keep: Callable[[], bool]) -> Iterator[Path]:
    """Open a worker's folder below `parent`, locked while it is in use.

    What another run left in it is removed first. After an error, or if `keep` says so, it stays for
    the worker's next start.

    Raises:
        StorageError: the folder can't be made, or another process with this name uses it.
    """
    folder = parent / f"{OWN_PREFIX}{worker_id}"
    try:
        lock = _own_lock(folder)
        if lock is None:
            raise StorageError(
                f"another process works as {worker_id} in {folder}: "
                "give each worker its own --worker-id, or its own --scratch-dir"
            )
        _empty_for(run, folder, lock)
    except OSError as error:
        raise StorageError(f"can't make the folder {folder}: {error}") from error
    try:
        yield folder
        if not keep():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _own_lock(folder: Path) -> int | None:
    """Make a folder where there is none and take its lock; None if another process holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if not _take(lock):
            os.close(lock)
            return None
        # A process that has just left may have removed the folder since it was opened.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(folder / LOCK), os.fstat(lock)):
                return lock
        os.close(lock)


def _empty_for(run: str, folder: Path, lock: int) -> None:
    """Remove what another run left in a folder, and write this run's name into its lock."""
    name = run.encode()
    if os.pread(lock, len(name) + 1, 0) == name:
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    os.truncate(lock, 0)
    os.pwrite(lock, name, 0)


def remove_abandoned(parent: Path) -> int:
    """Remove the folders below `parent` whose workers are dead, and return how many that were.

    What can't be removed stays: it costs space, but does not stop the run.
    """
    try:
        with _opened(parent, PARENT) as above:
            names = [name for name in os.listdir(above) if name.startswith(PREFIX)]
            return sum(_remove_if_dead(name, above) for name in names)
    except OSError:
        return 0


def _new(parent: Path) -> tuple[Path, int]:
    """Make a folder and take its lock."""
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
    """Take the lock of our own folder; return False where another worker was faster."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: no process can be faster
    return True


def _remove_if_dead(name: str, above: int) -> bool:
    """Remove a folder whose lock no process holds, and return whether it was removed."""
    try:
        with _opened(name, FOLDER, above) as folder, _opened(LOCK, LOCK_FILE, folder) as lock:
            if os.fstat(folder).st_uid != os.geteuid():
                return False
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(name, above)
    except OSError:  # no lock, or a living worker's; removed by another, or not ours to remove
        return False
    return True


def _remove(name: str, above: int) -> None:
    """Remove a folder with its content.

    It works by descriptors, so that no process can insert a link. It removes the lock last: if the
    process is killed here, the next one removes the rest.
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
