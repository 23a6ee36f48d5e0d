"""Dispatched weights, for tests: written, referred to, and read back."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cos2p.log.blobs import write_chunks
from cos2p.log.bus import Bus
from cos2p.log.messages import BlobRef, Dispatched, UnitBlob
from cos2p.log.unit_blobs import read_units, unit_chunks
from cos2p.model.unit_wire import pack_units, unpack_units
from cos2p.model.units import UNIT_DIGEST_BYTES, UnitTable, unit_digest

Values = Mapping[int, NDArray[np.float32]]


def one_blob(units: Iterable[int], blob: BlobRef) -> dict[str, Any]:
    """The fields of a `Dispatched` whose units lie in one blob; the digests are blank."""
    held = sorted(units)
    return {
        "blobs": (UnitBlob(blob=blob, units=pack_units(held)),),
        "unit_digests": bytes(UNIT_DIGEST_BYTES * len(held)),
    }


async def written(
    bus: Bus, topic: str, partition: int, blob_id: str, table: UnitTable, values: Values
) -> UnitBlob:
    """Write units as the aggregator does."""
    blob = await write_chunks(bus, topic, partition, blob_id, unit_chunks(table, values))
    return UnitBlob(blob=blob, units=pack_units(values))


def digests_of(values: Values) -> bytes:
    """The digests of units, in their order."""
    return b"".join(unit_digest(values[unit]) for unit in sorted(values))


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
