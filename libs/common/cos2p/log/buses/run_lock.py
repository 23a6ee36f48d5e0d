"""The lock of one process on a run's path on this machine.

A second process that wants the path gets an error that names the owner.

Invariants:
The lock belongs to the kernel, so it ends with its owner and the owner's forks, even in a crash.
The lock file may stay, but it means nothing by itself.
"""

import fcntl
import os
from pathlib import Path

from cos2p.errors import RunExistsError, StorageError


class RunLock:
    """The lock on a run's path: a folder, or a file that ends in .sqlite.

    It is a kernel lock (flock) on PATH/lock, or on PATH.lock for a single file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = (
            path.with_name(path.name + ".lock") if path.suffix == ".sqlite" else path / "lock"
        )
        self._fd = -1

    def acquire(self, owner: str) -> None:
        """Take the lock; `owner` names this process in the error that another process gets.

        Raises:
            RunExistsError: another process holds it; the text names process and owner.
            StorageError: the lock file can't be written.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._file, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise StorageError(f"can't lock {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(fd)
            raise RunExistsError(
                f"{self._path} is in use by {holder}: wait for it, stop it, or take another path"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} ({owner})\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Release the lock; no effect if it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
