"""Dispatched weights, for tests: written, referred to, and read back."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cos2p.log.blobs import write_chunks
from cos2p.log.bus import Bus
from cos2p.log.messages import BlobRef, Dispatched, UnitBlob
from cos2p.log.unit_blobs import UnitsToWrite, read_units
from cos2p.model.unit_wire import pack_units, unpack_units
from cos2p.model.units import UnitTable, unit_digest

Values = Mapping[int, NDArray[np.float32]]


def one_blob(units: Iterable[int], blob: BlobRef) -> dict[str, Any]:
    """The field of a `Dispatched` whose units lie in one blob, or in none if there are none."""
    held = tuple(units)
    return {"blobs": (UnitBlob(blob=blob, units=pack_units(held)),) if held else ()}


def with_digests(table: UnitTable, values: Values) -> UnitsToWrite:
    """The values of units, with their digests."""
    return UnitsToWrite(table, values, {unit: unit_digest(v) for unit, v in values.items()})


async def written(
    bus: Bus, topic: str, partition: int, blob_id: str, units: UnitsToWrite
) -> UnitBlob:
    """Write units as the aggregator does."""
    chunks, digest = units.chunks(), units.digest
    blob = await write_chunks(bus, topic, partition, blob_id, chunks, digest=digest)
    return UnitBlob(blob=blob, units=pack_units(units.values))


async def weights(bus: Bus, table: UnitTable, message: Dispatched) -> dict[int, bytes]:
    """The bytes of a dispatched plan's units of one shard, read as a worker reads them."""
    present = {*message.plan.trained, *message.plan.frozen}
    owned = table.owned_by(message.shard, message.shard_count)
    lacking = {unit for unit in owned if unit in present}
    found: dict[int, bytes] = dict.fromkeys(sorted(lacking), b"")
    for place in message.blobs:
        mine = lacking.intersection(unpack_units(place.units))
        lacking -= mine
        async for _, pieces in read_units(bus, table, place, dict.fromkeys(mine, 0)):
            for piece, values in pieces.items():
                found[piece.unit] += values.tobytes()
    assert not lacking
    return found
