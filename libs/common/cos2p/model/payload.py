"""The bytes of a blob: a header that names units, then their float32 values, unit after unit.

    "C2P1" | header length (u32, little endian) | msgpack header | data

The header has four fields.
`owner` is a plan's id or a version.
`units` are the blob's units in ascending order.
`states` is the number of arrays per unit.
It is 1 for weights or a delta, and 2 for a checkpoint's raw values and their average.
`digests` are eight bytes per unit.
So a reader checks one unit at a time and then uses it or leaves it out.
It never holds more than one unit and one chunk.

Invariants:
Values are little-endian float32.
A length that was read is compared with the expected one before any allocation.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from cos2p.errors import BlobError
from cos2p.model.units import UNIT_DIGEST_BYTES, UnitTable, unit_digest

Buffer = bytes | bytearray | memoryview
"""What holds bytes, here and in the log."""


MAGIC = b"C2P1"
_HEAD = struct.Struct("<4sI")
HEADER_BYTES_MAX = 4 << 20
F32 = np.dtype("<f4")


@dataclass(frozen=True)
class Header:
    """The header of a payload.

    Attributes:
        owner: what the payload belongs to.
        units: indices of its units, ascending.
        states: number of arrays per unit.
        digests: digest of each unit's bytes.
    """

    owner: str
    units: tuple[int, ...]
    states: int
    digests: tuple[bytes, ...]


def encode_header(header: Header) -> bytes:
    """Encode a header: the first bytes of a payload."""
    body = msgpack.packb(
        {
            "owner": header.owner,
            "units": list(header.units),
            "states": header.states,
            "digests": b"".join(header.digests),
        }
    )
    return _HEAD.pack(MAGIC, len(body)) + bytes(body)


def header_of(owner: str, units: Sequence[int], values: Sequence[NDArray[np.float32]]) -> Header:
    """Make the header of a payload with one state: one array for each of the ascending units."""
    digests = tuple(unit_digest(v) for v in values)
    return Header(owner, tuple(units), 1, digests)


def expected_bytes(table: UnitTable, owner: str, units: Sequence[int], states: int = 1) -> int:
    """Number of bytes that a correct payload of these units has."""
    blank = (b"\0" * UNIT_DIGEST_BYTES,) * len(units)
    header = encode_header(Header(owner, tuple(units), states, blank))
    return len(header) + int(table.sizes[list(units)].sum()) * F32.itemsize * states


def parts(header: Header, values: Sequence[NDArray[np.float32]]) -> Iterator[Buffer]:
    """Give the payload as buffers, without copying the values."""
    yield encode_header(header)
    for value in values:
        yield np.ascontiguousarray(value, F32).view(np.uint8).data


@dataclass(frozen=True)
class UnitValues:
    """One unit from a payload; `values` is valid only until the next unit is read."""

    unit: int
    values: NDArray[np.float32]
    intact: bool
    """Whether the unit's digest is correct."""


class PayloadReader:
    """Takes a payload's chunks and yields its units.

    Args:
        table: the model's units.
        owner: the owner that the payload must have.
        units: indices of the units that it must hold, ascending.
        states: number of arrays per unit.
        wanted: units to check and yield; others are skipped without a check. None for all.
    """

    def __init__(
        self,
        table: UnitTable,
        owner: str,
        units: Sequence[int],
        *,
        states: int = 1,
        wanted: frozenset[int] | None = None,
    ) -> None:
        self._table, self._owner, self._units = table, owner, tuple(units)
        self._states = states
        self._wanted = frozenset(units) if wanted is None else wanted
        self.header: Header | None = None
        self._head = bytearray()
        self._place = 0
        self._filled = 0
        largest = max((int(table.sizes[u]) for u in self._units if u in self._wanted), default=0)
        self._buffer = np.empty(largest * states, F32)
        self._bytes = self._buffer.view(np.uint8).data

    def feed(self, chunk: Buffer) -> Iterator[UnitValues]:
        """Take the next bytes and yield each unit that they complete.

        Raises:
            BlobError: the header is not what the reader expects, or there are too many bytes.
        """
        view = memoryview(chunk).cast("B")
        if self.header is None:
            view = self._take_header(view)
        while len(view):
            if self._place >= len(self._units):
                raise BlobError(f"the payload of {self._owner} has bytes after its last unit")
            unit = self._units[self._place]
            need = int(self._table.sizes[unit]) * F32.itemsize * self._states
            take = min(need - self._filled, len(view))
            if unit in self._wanted:
                self._bytes[self._filled : self._filled + take] = view[:take]
            self._filled += take
            view = view[take:]
            if self._filled == need:
                index, self._place, self._filled = self._place, self._place + 1, 0
                if unit in self._wanted:
                    yield self._checked(index, unit)

    def finish(self) -> None:
        """End the payload: no more bytes follow.

        Raises:
            BlobError: units are missing.
        """
        if self._place < len(self._units) or self.header is None:
            raise BlobError(
                f"the payload of {self._owner} ends after {self._place} of {len(self._units)} units"
            )

    def _checked(self, index: int, unit: int) -> UnitValues:
        assert self.header is not None
        values = self._buffer[: int(self._table.sizes[unit]) * self._states]
        return UnitValues(unit, values, unit_digest(values) == self.header.digests[index])

    def _take_header(self, view: memoryview) -> memoryview:
        """Collect header bytes and return the rest of `view`."""
        limit = 64 + 200 + len(self._units) * 16
        need = _HEAD.size
        if len(self._head) < need:
            take = min(need - len(self._head), len(view))
            self._head += view[:take]
            view = view[take:]
            if len(self._head) < need:
                return view
        magic, length = _HEAD.unpack_from(self._head)
        if magic != MAGIC or length > min(limit, HEADER_BYTES_MAX):
            raise BlobError(f"these bytes are not the payload of {self._owner}")
        take = min(need + length - len(self._head), len(view))
        self._head += view[:take]
        if len(self._head) == need + length:
            self.header = self._parse(bytes(self._head[need:]))
        return view[take:]

    def _parse(self, body: bytes) -> Header:
        try:
            raw: Any = msgpack.unpackb(body, max_array_len=len(self._units) + 1)
            header = Header(
                str(raw["owner"]), tuple(raw["units"]), int(raw["states"]), _cut(raw["digests"])
            )
        except (KeyError, TypeError, ValueError, OverflowError, msgpack.UnpackException) as error:
            raise BlobError(f"the payload header of {self._owner} is unreadable") from error
        if header.owner != self._owner:
            raise BlobError(
                f"a payload of {header.owner[:80]!r} was found where {self._owner}'s was expected"
            )
        if header.units != self._units or header.states != self._states:
            raise BlobError(f"the payload of {self._owner} holds other units than its plan")
        if len(header.digests) != len(header.units):
            raise BlobError(f"the payload header of {self._owner} has no digests")
        return header


def _cut(digests: bytes) -> tuple[bytes, ...]:
    step = UNIT_DIGEST_BYTES
    return tuple(bytes(digests[i : i + step]) for i in range(0, len(digests), step))
