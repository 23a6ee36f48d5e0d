"""A plan's weights, streamed from the bus into a memory-mapped file.

Invariants: memory holds one chunk and one unit while fetching. Every value that is passed on had
the right digest. The file's blocks are reserved before the first byte is mapped. So a full disk is
an error here, never a SIGBUS later. Closing removes the file.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import BlobError, DigestError, StorageError
from cos2p.log.blobs import read_blob
from cos2p.log.bus import Bus
from cos2p.model.payload import F32, PayloadReader, expected_bytes
from cos2p.model.units import UnitTable
from cos2p_worker.core import Fetch, Part


class Base:
    """The values of a plan's units as they were dispatched, in a separate file.

    Raises:
        StorageError: the file can't be made, or the disk can't hold it.
    """

    def __init__(self, path: Path, sizes: Mapping[int, int]) -> None:
        self._path = path
        count = sum(sizes.values())
        try:
            _reserve(path, count * F32.itemsize)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageError(
                f"can't keep {count * F32.itemsize} bytes of weights in {path.parent}: "
                f"{error.strerror}; free some space or set --scratch-dir"
            ) from error
        flat = np.memmap(path, F32, "r+", shape=(count,))
        places = np.cumsum([0, *sizes.values()])
        self._writable = {
            unit: np.asarray(flat[places[i] : places[i + 1]]) for i, unit in enumerate(sizes)
        }

    @property
    def values(self) -> Mapping[int, NDArray[np.float32]]:
        """Flat float32 values of each unit, read only."""
        views = {unit: view.view() for unit, view in self._writable.items()}
        for view in views.values():
            view.flags.writeable = False
        return views

    def put(self, unit: int, values: NDArray[np.float32]) -> None:
        """Store a unit's values."""
        self._writable[unit][:] = values

    def close(self) -> None:
        """Remove the file; the mapping ends with the last array that uses it."""
        self._writable = {}
        self._path.unlink(missing_ok=True)


async def fetch_base(
    bus: Bus, table: UnitTable, order: Fetch, path: Path, halt: threading.Event
) -> tuple[Base, int]:
    """Stream all parts of a plan into `path`; return the values, and the bytes read.

    Once `halt` is set the values are not wanted any more, and may stay incomplete.

    Raises:
        BlobError: a part is damaged, incomplete, gone, or not what the plan requires.
        StorageError: the disk can't hold it.
    """
    units = sorted(u for part in order.parts for u in part.units)
    base = Base(path, {u: int(table.sizes[u]) for u in units})
    try:
        for part in order.parts:
            if not halt.is_set():
                await _fetch_part(bus, table, order.plan.plan_id, part, base, halt)
    except BaseException:
        base.close()
        raise
    return base, sum(part.blob.byte_count for part in order.parts)


async def _fetch_part(
    bus: Bus, table: UnitTable, owner: str, part: Part, base: Base, halt: threading.Event
) -> None:
    expected = expected_bytes(table, owner, part.units)
    if part.blob.byte_count != expected:
        raise BlobError(f"{owner}: {part.blob.byte_count} bytes where {expected} are due")
    reader = PayloadReader(table, owner, part.units)
    # Units carry their own digests, so hashing the whole blob again would only cost time.
    async for chunk in read_blob(bus, part.blob, verify=False):
        if halt.is_set():
            return
        for got in reader.feed(chunk):
            if not got.intact:
                raise DigestError(f"{owner}: unit {table.units[got.unit].name} is damaged")
            base.put(got.unit, got.values)
    reader.finish()


def _reserve(path: Path, byte_count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, byte_count)
        else:
            block = bytes(1 << 20)
            for start in range(0, byte_count, len(block)):
                os.write(handle, block[: min(len(block), byte_count - start)])
    finally:
        os.close(handle)
