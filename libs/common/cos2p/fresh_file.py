"""What is in a file, read again when the file changes: a Secret that is mounted, a register.

Invariant: one that has become wrong or unreadable leaves the value as it was until it changes
again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from cos2p.errors import SettingsError

T = TypeVar("T")


class FreshFile(Generic[T]):
    """Call it for the file's value as it is now.

    Args:
        file: it.
        read: makes the value; raises SettingsError where the file is wrong.
        warn: told why a changed file is not taken over.

    Raises:
        SettingsError: at the start, from `read`.
    """

    def __init__(
        self, file: Path, read: Callable[[Path], T], warn: Callable[[str], None] = lambda _: None
    ) -> None:
        self._file, self._read, self._warn = file, read, warn
        self._stamp = self._seen()
        self._value = read(file)

    def __call__(self) -> T:
        """The value; costs a stat where nothing has changed."""
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
        # The time of the last change of status, too: rights that were mended are no new content.
        return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
