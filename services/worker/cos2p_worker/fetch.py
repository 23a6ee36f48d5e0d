"""Fetches the units of a plan that the worker's store lacks.

Invariants: memory holds one chunk while fetching. Every value that is passed on had the digest that
the aggregator announced. A unit whose digest differs is fetched once more, then the plan fails.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DigestError
from cos2p.log.bus import Bus
from cos2p.log.messages import UnitBlob
from cos2p.log.unit_blobs import read_digests, read_units
from cos2p.model.unit_wire import unpack_units
from cos2p.model.units import UNIT_DIGEST_BYTES, UnitTable
from cos2p_worker.core import Fetch
from cos2p_worker.unit_store import UnitStore

ATTEMPTS = 2
"""A unit that is damaged on its way is read once more."""


@dataclass(frozen=True)
class Fetched:
    """The weights of a plan.

    Attributes:
        values: flat float32 values of each unit, memory-mapped and read only. Units are missing
            where the fetch was halted.
        bytes_read: bytes fetched.
        bytes_found: bytes that were in the store.
    """

    values: Mapping[int, NDArray[np.float32]]
    bytes_read: int
    bytes_found: int


async def fetch_units(
    bus: Bus, table: UnitTable, order: Fetch, store: UnitStore, halt: threading.Event
) -> Fetched:
    """Bring the units of a plan into the store, and return their values.

    Once `halt` is set the values are not wanted any more, and may stay incomplete.

    Raises:
        BlobError: a blob is damaged, incomplete, gone, or not what the plan requires.
        StorageError: the disk can't hold it.
    """
    fetch = _Fetch(bus, table, store, halt)
    for part in order.parts:
        lacking = set(part.units)
        for blob in part.blobs:
            # The first blob that holds a unit is the newest: older ones hold older values.
            mine = lacking.intersection(unpack_units(blob.units))
            lacking -= mine
            if mine and not halt.is_set():
                await fetch.bring(blob, mine)
    if not halt.is_set():
        store.trim(fetch.digests.values())
    return Fetched(fetch.values, fetch.bytes_read, fetch.bytes_found)


class _Fetch:
    def __init__(self, bus: Bus, table: UnitTable, store: UnitStore, halt: threading.Event) -> None:
        self._bus, self._table, self._store, self._halt = bus, table, store, halt
        self.digests: dict[int, bytes] = {}
        self.values: dict[int, NDArray[np.float32]] = {}
        self.bytes_read = self.bytes_found = 0

    async def bring(self, blob: UnitBlob, units: set[int]) -> None:
        """Take units from the store, and read from a blob what is not there.

        Raises:
            DigestError: a unit is damaged, also when it was read once more.
        """
        announced = await read_digests(self._bus, blob)
        self.bytes_read += UNIT_DIGEST_BYTES * len(announced)
        for unit in sorted(units):
            self.digests[unit] = announced[unit]
            if (values := self._store.take(announced[unit])) is not None:
                self.values[unit] = values
                self.bytes_found += values.nbytes
        for _ in range(ATTEMPTS):
            lacking = units.difference(self.values)
            if lacking and not self._halt.is_set():
                await self._read(blob, sorted(lacking))
        if (lacking := units.difference(self.values)) and not self._halt.is_set():
            name, ref = self._table.units[min(lacking)].name, blob.blob
            raise DigestError(
                f"unit {name} of blob {ref.blob_id!r} in {ref.topic}[{ref.partition}]"
                f"@{ref.first_offset} is damaged"
            )

    async def _read(self, blob: UnitBlob, units: Sequence[int]) -> None:
        filled = {unit: self._partial(unit) for unit in units}
        async for byte_count, pieces in read_units(self._bus, self._table, blob, filled):
            if self._halt.is_set():
                return
            self.bytes_read += byte_count
            for piece, values in pieces.items():
                unit, digest = piece.unit, self.digests[piece.unit]
                self._store.append(digest, values[filled[unit] - piece.start :])
                filled[unit] = piece.stop
                if piece.stop == int(self._table.sizes[unit]):
                    kept = self._store.finish(digest)
                    if kept is not None:
                        self.values[unit] = kept

    def _partial(self, unit: int) -> int:
        """Return where to go on with a unit. What can't be its beginning is removed."""
        digest = self.digests[unit]
        filled = self._store.partial(digest)
        if filled < int(self._table.sizes[unit]):
            return filled
        self._store.forget(digest)
        return 0
