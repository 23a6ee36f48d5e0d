"""The claim of one process on a run's place here: a second demo there is told who has it.

Invariant: the lock is the kernel's, so it ends with its owner (and the owner's forks) however they
end; the file that carries it may stay behind and means nothing by itself.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from cos2p.errors import RunExistsError, StorageError


class RunLock:
    """Held by the one process that runs things on a run's place, until it and its forks end.

    A lock of the kernel's (flock on PATH/lock, or PATH.lock of a single file): a crash frees it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = (
            path.with_name(path.name + ".lock") if path.suffix == ".sqlite" else path / "lock"
        )
        self._fd = -1

    def acquire(self, owner: str) -> None:
        """Take the lock; `owner` is what the error of the next taker calls us.

        Raises:
            RunExistsError: someone has it; the text names process and owner.
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
        """Let go; without effect where it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
