"""Blobs of units: a version's weights, written once and read in part by every plan that needs them.

The first chunk holds the digest of each unit, and the reference holds the digest of that chunk.
So a reader knows what it lacks before it reads a weight, and can check each unit alone.
Every other chunk holds whole units, or a part of one unit: float32, little-endian.
So a reader fetches the chunks of the units that it lacks, and little else.
Writer and reader compute the same chunks from the units' sizes.

Invariants:
Chunks follow the order of the units.
Each value is in exactly one chunk.
A unit of `SHARED_BYTES` or more shares no chunk with another.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from cos2p.errors import BlobError, ChunkForeignError, DigestError
from cos2p.log.blobs import read_chunks
from cos2p.log.bus import Bus
from cos2p.log.topics import CHUNK_BYTES_MAX
from cos2p.log.values import UnitBlob
from cos2p.model.payload import F32, Buffer
from cos2p.model.unit_wire import unpack_units
from cos2p.model.units import UNIT_DIGEST_BYTES, UnitTable

SHARED_BYTES = 8 << 10
"""Small units share a chunk until it holds this many bytes."""


BRIDGED_BYTES = 32 << 10
"""Chunks between two wanted ones are read, too, if they have at most this many bytes.

To ask a broker again costs as much time: 18 ms on one machine, 26 ms at 10 Mbit/s.
"""


@dataclass(frozen=True)
class ChunkPiece:
    """The values `start` to `stop` of a unit, within one chunk."""

    unit: int
    start: int
    stop: int

    @property
    def byte_count(self) -> int:
        """Bytes of the piece."""
        return (self.stop - self.start) * F32.itemsize


Chunk = tuple[ChunkPiece, ...]


def chunks_of(table: UnitTable, units: Sequence[int]) -> tuple[Chunk, ...]:
    """Cut units into chunks."""
    most, shared = CHUNK_BYTES_MAX // F32.itemsize, SHARED_BYTES // F32.itemsize
    found: list[Chunk] = []
    together: list[ChunkPiece] = []
    filled = 0
    for unit in units:
        size = int(table.sizes[unit])
        if together and (filled >= shared or size >= shared):
            found.append(tuple(together))
            together, filled = [], 0
        if size >= shared:
            found += [(ChunkPiece(unit, i, min(size, i + most)),) for i in range(0, size, most)]
        else:
            together.append(ChunkPiece(unit, 0, size))
            filled += size
    return (*found, tuple(together)) if together else tuple(found)


@dataclass(frozen=True)
class UnitsToWrite:
    """Units to write as one blob: a flat float32 array and a digest of each."""

    table: UnitTable
    values: Mapping[int, NDArray[np.float32]]
    digests: Mapping[int, bytes]

    @property
    def _head(self) -> bytes:
        return b"".join(self.digests[unit] for unit in sorted(self.values))

    @property
    def digest(self) -> bytes:
        """The digest of the blob's first chunk, which the reference to the blob must have."""
        return blake3(self._head).digest()

    def chunks(self) -> Iterator[Buffer]:
        """Give the blob's chunks for `write_chunks`, without copying what fills a chunk alone."""
        yield self._head
        for chunk in chunks_of(self.table, sorted(self.values)):
            parts = [_view(piece, self.values[piece.unit]) for piece in chunk]
            yield parts[0] if len(parts) == 1 else b"".join(parts)


async def read_digests(bus: Bus, found: UnitBlob, *, wait_s: float = 10.0) -> dict[int, bytes]:
    """Read the digest of each unit of a blob.

    Raises:
        DigestError: the blob's first chunk is not the one that was written.
        BlobError: the blob is gone.
    """
    units, head = unpack_units(found.units), b""
    needed = {0: UNIT_DIGEST_BYTES * len(units)}
    async for _, data in read_chunks(bus, found.blob, needed, wait_s=wait_s):
        head = bytes(data)
    if blake3(head).digest() != found.blob.digest or len(head) != needed[0]:
        raise DigestError(
            f"blob {found.blob.blob_id!r} has other units than its reference declares"
        )
    step = UNIT_DIGEST_BYTES
    return {unit: head[i * step : (i + 1) * step] for i, unit in enumerate(units)}


async def read_units(
    bus: Bus, table: UnitTable, found: UnitBlob, wanted: Mapping[int, int], *, wait_s: float = 10.0
) -> AsyncGenerator[tuple[int, dict[ChunkPiece, NDArray[np.float32]]]]:
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
    # The first chunk of the blob holds no values.
    sizes = {i: sum(piece.byte_count for piece in c) for i, c in enumerate(chunks, 1)}
    if len(chunks) + 1 != found.blob.chunk_count:
        raise BlobError(
            f"blob {found.blob.blob_id!r} has {found.blob.chunk_count} chunks, "
            f"its units {len(chunks) + 1}"
        )
    needed = [
        index
        for index, chunk in enumerate(chunks, 1)
        if any(piece.stop > wanted.get(piece.unit, piece.stop) for piece in chunk)
    ]
    read = {index: sizes[index] for index in _bridged(needed, sizes)}
    async for index, data in read_chunks(bus, found.blob, read, wait_s=wait_s):
        if len(data) != sizes[index]:
            raise ChunkForeignError(
                f"chunk {index} of blob {found.blob.blob_id!r} has {len(data)} bytes, "
                f"its units {sizes[index]}"
            )
        values, start = np.frombuffer(data, F32), 0
        pieces: dict[ChunkPiece, NDArray[np.float32]] = {}
        for piece in chunks[index - 1]:
            stop = start + piece.stop - piece.start
            if piece.stop > wanted.get(piece.unit, piece.stop):
                pieces[piece] = values[start:stop]
            start = stop
        yield len(data), pieces


def _bridged(needed: Sequence[int], sizes: Mapping[int, int]) -> Iterator[int]:
    """Give the chunks to read: those needed, and the small ones between them."""
    for before, index in zip([None, *needed], needed, strict=False):
        between = range(before + 1, index) if before is not None else range(0)
        if sum(sizes[i] for i in between) <= BRIDGED_BYTES:
            yield from between
        yield index


def _view(piece: ChunkPiece, values: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(values[piece.start : piece.stop], F32).view(np.uint8).data
