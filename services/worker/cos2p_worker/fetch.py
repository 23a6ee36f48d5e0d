"""Fetches the units of a plan that the worker's store lacks.

Invariants: memory holds one chunk while fetching. Every value that is passed on had the digest that
the aggregator announced. A unit whose digest differs is fetched once more, then the plan fails.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DigestError
from cos2p.log.bus import Bus
from cos2p.log.messages import UnitBlob
from cos2p.log.unit_blobs import read_units
from cos2p.model.unit_wire import unpack_units
from cos2p.model.units import UnitTable
from cos2p_worker.core import Fetch
from cos2p_worker.unit_store import UnitStore


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
    digests = {unit: d for part in order.parts for unit, d in part.digests.items()}
    values = {unit: v for unit, d in digests.items() if (v := store.take(d)) is not None}
    found = sum(v.nbytes for v in values.values())
    fetch = _Fetch(bus, table, store, halt, digests)
    for attempt in (0, 1):
        lacking = {unit for unit in digests if unit not in values}
        for part in order.parts:
            for blob in part.blobs:
                mine = lacking.intersection(part.digests).intersection(unpack_units(blob.units))
                # The first blob that holds a unit is the newest: older ones hold older values.
                lacking -= mine
                if mine and not halt.is_set():
                    values |= await fetch.read(blob, mine, last=attempt == 1)
    if not halt.is_set():
        store.trim(digests.values())
    return Fetched(values, fetch.bytes_read, found)


class _Fetch:
    def __init__(
        self,
        bus: Bus,
        table: UnitTable,
        store: UnitStore,
        halt: threading.Event,
        digests: Mapping[int, bytes],
    ) -> None:
        self._bus, self._table, self._store, self._halt = bus, table, store, halt
        self._digests = digests
        self.bytes_read = 0

    async def read(
        self, blob: UnitBlob, units: set[int], *, last: bool
    ) -> dict[int, NDArray[np.float32]]:
        """Read units of a blob into the store; those that are damaged are missing in the result.

        Raises:
            DigestError: a unit is damaged, and this is the last attempt.
        """
        filled = {unit: self._partial(unit) for unit in sorted(units)}
        found: dict[int, NDArray[np.float32]] = {}
        async for byte_count, pieces in read_units(self._bus, self._table, blob, filled):
            if self._halt.is_set():
                break
            self.bytes_read += byte_count
            for piece, values in pieces.items():
                self._store.append(
                    self._digests[piece.unit], values[filled[piece.unit] - piece.start :]
                )
                filled[piece.unit] = piece.stop
                if piece.stop < int(self._table.sizes[piece.unit]):
                    continue
                kept = self._store.finish(self._digests[piece.unit])
                if kept is not None:
                    found[piece.unit] = kept
                elif last:
                    raise DigestError(f"{_name(blob, self._table, piece.unit)} is damaged")
        return found

    def _partial(self, unit: int) -> int:
        """Return where to go on with a unit. What can't be its beginning is removed."""
        digest = self._digests[unit]
        filled = self._store.partial(digest)
        if filled < int(self._table.sizes[unit]):
            return filled
        self._store.forget(digest)
        return 0


def _name(found: UnitBlob, table: UnitTable, unit: int) -> str:
    ref = found.blob
    place = f"{ref.topic}[{ref.partition}]@{ref.first_offset}"
    return f"unit {table.units[unit].name} of blob {ref.blob_id!r} in {place}"
