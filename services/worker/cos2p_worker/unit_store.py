"""A worker's store of weights: units by digest, in a folder that outlives the process.

A plan's units are memory-mapped from here. A unit that the device has from an earlier plan, or from
before a restart, is not fetched again.

Invariants: a file under a digest's name has had that digest, and is checked again when it is read.
A unit that is fetched in part goes on where it stopped. The folder holds at most `bytes_max`,
or what the current plan needs. A full disk is an error here, never a SIGBUS later: files are
written, and mapped only to be read. A mapped file may be removed: its values stay until they are
released.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import StorageError
from cos2p.model.payload import F32
from cos2p.model.units import unit_digest

SUFFIX, PART_SUFFIX = ".unit", ".part"


class UnitStore:
    """See the module.

    Args:
        folder: the store's folder, which no other process uses.
        bytes_max: limit of the bytes kept for later plans.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder, self._bytes_max = folder, bytes_max

    def take(self, digest: bytes) -> NDArray[np.float32] | None:
        """Return a unit's values, read only; None where they are not here, or not intact."""
        path = self._path(digest)
        try:
            values = np.asarray(np.memmap(path, F32, "r"))
            os.utime(path)
        except (FileNotFoundError, ValueError):
            return None
        if unit_digest(values) == digest:
            return values
        path.unlink(missing_ok=True)
        return None

    def partial(self, digest: bytes) -> int:
        """Return how many values of a unit an earlier fetch has left here."""
        part = self._part(digest)
        try:
            count = part.stat().st_size // F32.itemsize
        except FileNotFoundError:
            return 0
        os.truncate(part, count * F32.itemsize)  # a killed process may have written half a value
        return count

    def append(self, digest: bytes, values: NDArray[np.float32]) -> None:
        """Add the next values of a unit.

        Raises:
            StorageError: the disk can't hold them.
        """
        with self._space(values.nbytes), self._part(digest).open("ab") as file:
            file.write(values.view(np.uint8).data)

    def finish(self, digest: bytes) -> NDArray[np.float32] | None:
        """Keep a unit whose last value was added; None, and nothing kept, if its digest differs."""
        self._part(digest).replace(self._path(digest))
        return self.take(digest)

    def forget(self, digest: bytes) -> None:
        """Remove what is here of a unit."""
        self._path(digest).unlink(missing_ok=True)
        self._part(digest).unlink(missing_ok=True)

    def trim(self, keep: Collection[bytes]) -> None:
        """Remove the units used least recently until the store is within its limit.

        Args:
            keep: digests of units that stay.
        """
        kept = {self._path(digest).name for digest in keep}
        files = []
        for entry in os.scandir(self._folder):
            if entry.name.endswith((SUFFIX, PART_SUFFIX)):
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    files.append((stat.st_mtime_ns, entry.name, stat.st_size))
        total = sum(size for _, _, size in files)
        for _, name, size in sorted(files):
            if total <= self._bytes_max:
                return
            if name not in kept:
                (self._folder / name).unlink(missing_ok=True)
                total -= size

    @contextmanager
    def _space(self, byte_count: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"can't keep {byte_count} bytes of weights in {self._folder}: {error.strerror}; "
                "free some space or set --scratch-dir"
            ) from error

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}{SUFFIX}"

    def _part(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}{PART_SUFFIX}"
