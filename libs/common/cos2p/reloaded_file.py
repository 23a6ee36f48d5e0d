"""A file's value that is read again when the file changes.

Examples are a mounted Secret and a register of keys.

Invariant: a file that becomes wrong or unreadable leaves the value unchanged.
The file is read again at its next change.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from cos2p.errors import SettingsError

T = TypeVar("T")


class ReloadedFile(Generic[T]):
    """A callable that returns the file's current value.

    Args:
        file: the file that holds it.
        read: makes the value from the file; raises SettingsError if the file is wrong.
        warn: receives the reason why a changed file is ignored.

    Raises:
        SettingsError: `read` failed at the start.
    """

    def __init__(
        self, file: Path, read: Callable[[Path], T], warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self._file, self._read, self._warn = file, read, warn
        self._stamp = self._seen()
        self._value = read(file)

    def __call__(self) -> T:
        """Return the value; an unchanged file costs one stat."""
        stamp = self._seen()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._value = self._read(self._file)
            except SettingsError as error:
                self._warn(str(error))
        return self._value

    def _seen(self) -> tuple[int, ...] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        # ctime, too: fixed permissions change it, but leave mtime and size unchanged.
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
