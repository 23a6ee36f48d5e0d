"""Blobs of units: a version's weights, written once and read in part by every plan that needs them.

A chunk holds whole units, or a part of one unit.
So a reader fetches the chunks of the units that it lacks, and little else.
Writer and reader compute the same chunks from the units' sizes.
The bytes are float32, little-endian, without a header.

Invariants:
Chunks follow the order of the units.
Each value is in exactly one chunk.
A unit of `SHARED_BYTES` or more shares no chunk with another.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import BlobError, ChunkForeignError
from cos2p.log.blobs import read_chunks
from cos2p.log.bus import Bus
from cos2p.log.topics import CHUNK_BYTES_MAX
from cos2p.log.values import UnitBlob
from cos2p.model.payload import F32, Buffer
from cos2p.model.unit_wire import unpack_units
from cos2p.model.units import UnitTable

SHARED_BYTES = 128 << 10
"""A chunk that holds this many bytes is complete. It bounds what a reader fetches in vain."""


@dataclass(frozen=True)
class Piece:
    """The values `start` to `stop` of a unit, within one chunk."""

    unit: int
    start: int
    stop: int

    @property
    def byte_count(self) -> int:
        """Bytes of the piece."""
        return (self.stop - self.start) * F32.itemsize


Chunk = tuple[Piece, ...]


def chunks_of(table: UnitTable, units: Sequence[int]) -> tuple[Chunk, ...]:
    """Cut units into chunks."""
    most, shared = CHUNK_BYTES_MAX // F32.itemsize, SHARED_BYTES // F32.itemsize
    found: list[Chunk] = []
    together: list[Piece] = []
    filled = 0
    for unit in units:
        size = int(table.sizes[unit])
        if together and (filled >= shared or size >= shared):
            found.append(tuple(together))
            together, filled = [], 0
        if size >= shared:
            found += [(Piece(unit, i, min(size, i + most)),) for i in range(0, size, most)]
        else:
            together.append(Piece(unit, 0, size))
            filled += size
    return (*found, tuple(together)) if together else tuple(found)


def unit_chunks(table: UnitTable, values: Mapping[int, NDArray[np.float32]]) -> Iterator[Buffer]:
    """Give units as the chunks of one blob, without copying what fills a chunk alone.

    Args:
        table: the model's units.
        values: flat float32 values of each unit.
    """
    for chunk in chunks_of(table, sorted(values)):
        parts = [_view(piece, values[piece.unit]) for piece in chunk]
        yield parts[0] if len(parts) == 1 else b"".join(parts)


async def read_units(
    bus: Bus, table: UnitTable, found: UnitBlob, wanted: Mapping[int, int], *, wait_s: float = 10.0
) -> AsyncGenerator[tuple[int, dict[Piece, NDArray[np.float32]]]]:
    """Stream the chunks of a blob that hold wanted values: their bytes, and those of the values.

    The units' digests are not checked here. A piece that is partly wanted is given whole.

    Args:
        bus: bus that holds the blob.
        table: the model's units.
        found: the blob.
        wanted: for each unit, the first of its values that is needed.
        wait_s: how long to wait for a chunk that is acknowledged but not readable yet.

    Raises:
        BlobError: the blob is not one of these units, or a chunk is gone or foreign.
    """
    chunks = chunks_of(table, unpack_units(found.units))
    sizes = [sum(piece.byte_count for piece in chunk) for chunk in chunks]
    if (len(chunks), sum(sizes)) != (found.blob.chunk_count, found.blob.byte_count):
        raise BlobError(
            f"blob {found.blob.blob_id!r} has {found.blob.chunk_count} chunks and "
            f"{found.blob.byte_count} bytes, its units have {len(chunks)} and {sum(sizes)}"
        )
    needed = {
        index: sizes[index]
        for index, chunk in enumerate(chunks)
        if any(piece.stop > wanted.get(piece.unit, piece.stop) for piece in chunk)
    }
    async for index, data in read_chunks(bus, found.blob, needed, wait_s=wait_s):
        if len(data) != sizes[index]:
            raise ChunkForeignError(
                f"chunk {index} of blob {found.blob.blob_id!r} has {len(data)} bytes, "
                f"its units {sizes[index]}"
            )
        values, start = np.frombuffer(data, F32), 0
        pieces: dict[Piece, NDArray[np.float32]] = {}
        for piece in chunks[index]:
            stop = start + piece.stop - piece.start
            if piece.stop > wanted.get(piece.unit, piece.stop):
                pieces[piece] = values[start:stop]
            start = stop
        yield len(data), pieces


def _view(piece: Piece, values: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(values[piece.start : piece.stop], F32).view(np.uint8).data
