"""Units inside messages: the unit table as columns, and scores of units.

Invariants:
Those of `messages.py` hold here, too.
A column has one entry per unit, in table order.
"""

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cos2p.model.units import Kind, Unit, UnitTable

Count = Annotated[int, Field(ge=0, le=2**62)]


class Body(BaseModel):
    """Base of messages and of the values inside them."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, use_attribute_docstrings=True
    )


def pack_units(units: Iterable[int]) -> bytes:
    """Write a set of units as bits: unit 0 is the lowest bit of the first byte."""
    chosen = np.fromiter(units, np.int64)
    bits = np.zeros(int(chosen.max(initial=-1)) + 1, np.uint8)
    bits[chosen] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def unpack_units(bits: bytes) -> tuple[int, ...]:
    """Return the units of a set, ascending."""
    found = np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little"))
    return tuple(found.tolist())


class UnitColumns(Body):
    """A unit table as columns, the form that it has in messages."""

    name: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=65_536)]
    kind: tuple[Kind, ...]
    block: tuple[int, ...]
    size: tuple[Count, ...]
    flops: tuple[Count, ...]
    activations: tuple[Count, ...]

    def table(self) -> UnitTable:
        """Make the unit table from the columns.

        Raises:
            SettingsError: the columns don't make a valid table.
            ValueError: the columns differ in length.
        """
        rows = zip(
            self.name, self.kind, self.block, self.size, self.flops, self.activations, strict=True
        )
        return UnitTable(tuple(Unit(*row) for row in rows))

    @classmethod
    def of(cls, table: UnitTable) -> "UnitColumns":
        """Make the columns of a table."""
        return cls.model_validate(
            {n: [getattr(u, n) for u in table.units] for n in cls.model_fields}
        )


SCORE_BYTES_MAX = 600_000
"""Limit of all sums and counts together: a Report must fit into one record."""
COUNT_BYTES = 9
"""Most bytes that a count takes on the wire."""


class UnitScores(Body):
    """Squared gate gradients of a plan's trained units, summed by label."""

    classes: Annotated[int, Field(ge=1, le=100_000)]
    """Number of labels that are scored separately. It is 1 if the device withholds its labels, if
    the task has none, or if scores by label would be too large for a record."""
    counts: Annotated[tuple[Count, ...], Field(max_length=100_000)]
    """Samples scored, per label."""
    sums: Annotated[bytes, Field(max_length=SCORE_BYTES_MAX)]
    """Sums as float32, little-endian, shape (trained units with a gate, classes)."""

    @classmethod
    def of(
        cls, sums: NDArray[np.float32], counts: NDArray[np.int64], *, by_label: bool
    ) -> "UnitScores":
        """Make the scores; labels are added up if they would not fit into a record.

        Args:
            sums: summed squares, shape (trained units with a gate, classes).
            counts: samples scored, shape (classes,).
            by_label: whether labels are kept apart; if not, they are added up.
        """
        if not by_label or sums.nbytes + COUNT_BYTES * counts.size > SCORE_BYTES_MAX:
            sums, counts = sums.sum(1, keepdims=True), counts.sum(keepdims=True)
        return cls(
            classes=counts.size,
            counts=tuple(counts.tolist()),
            sums=np.ascontiguousarray(sums, "<f4").tobytes(),
        )

    def matrix(self) -> NDArray[np.float64]:
        """The sums, shape (trained units with a gate, classes).

        Raises:
            ValueError: the bytes do not fit such a matrix.
        """
        return np.frombuffer(self.sums, "<f4").reshape(-1, self.classes).astype(np.float64)
