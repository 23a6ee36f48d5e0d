"""What is said of units inside messages: the unit table as columns, and scores of units.

Invariants: as in `messages.py`; a column has one entry per unit, in table order.
"""

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


class UnitColumns(Body):
    """A unit table on the wire."""

    name: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=65_536)]
    kind: tuple[Kind, ...]
    block: tuple[int, ...]
    size: tuple[Count, ...]
    flops: tuple[Count, ...]
    activations: tuple[Count, ...]

    def table(self) -> UnitTable:
        """The table itself.

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
        """The columns of a table."""
        return cls.model_validate(table.columns())


SCORE_BYTES_MAX = 600_000
"""Of all sums and counts: a Report has to fit into one record."""
COUNT_BYTES = 9
"""A count takes no more on the wire."""


class UnitScores(Body):
    """Squared gate gradients of a plan's trained units, summed by label."""

    classes: Annotated[int, Field(ge=1, le=100_000)]
    """Labels told apart; 1 where the device withholds them, the task has none, or by label they
    would be too large for a record."""
    counts: Annotated[tuple[Count, ...], Field(max_length=100_000)]
    """Samples scored, per label."""
    sums: Annotated[bytes, Field(max_length=SCORE_BYTES_MAX)]
    """float32, little-endian, shape (trained units with a gate, classes)."""

    @classmethod
    def of(
        cls, sums: NDArray[np.float32], counts: NDArray[np.int64], *, by_label: bool
    ) -> "UnitScores":
        """Sums of shape (trained units with a gate, classes), counts of shape (classes,).

        All labels are added up without `by_label`, and where they would not fit a record.
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
            ValueError: the bytes make no such matrix.
        """
        return np.frombuffer(self.sums, "<f4").reshape(-1, self.classes).astype(np.float64)
