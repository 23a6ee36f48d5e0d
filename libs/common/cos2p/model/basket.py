"""A submodel that is being built, under several limits at once.

Invariant: no limit is ever exceeded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cos2p.model.cost import CostModel
from cos2p.model.units import STEM, Indices, UnitTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A submodel: unit indices, ascending, closed under their cores."""

    trained: tuple[int, ...]
    frozen: tuple[int, ...] = ()


@dataclass(frozen=True)
class Limit:
    """A resource that units use, and how much of it there is.

    Attributes:
        trained: what each unit costs when it is trained, shape (units,).
        frozen: what each unit costs when it is frozen, shape (units,).
        most: how much may be spent.
    """

    trained: Floats
    frozen: Floats
    most: float

    @classmethod
    def of_memory(cls, costs: CostModel, budget_bytes: int) -> Self:
        """The limit of a forecast peak."""
        trained, frozen = costs.trained_bytes, costs.frozen_bytes
        return cls(trained.astype(np.float64), frozen.astype(np.float64), budget_bytes)


class Basket:
    """Units trained and frozen, and what is left of each limit."""

    def __init__(self, table: UnitTable, limits: Sequence[Limit]) -> None:
        self._table = table
        self._trained = np.stack([limit.trained for limit in limits])
        self._frozen = np.stack([limit.frozen for limit in limits])
        self._left = np.array([limit.most for limit in limits], np.float64)
        self.chosen: NDArray[np.bool_] = np.zeros(len(table), np.bool_)
        """The trained units."""
        self._frozen_units: tuple[int, ...] = ()

    @property
    def choice(self) -> Choice:
        """The units in the basket."""
        return Choice(tuple(np.flatnonzero(self.chosen).tolist()), self._frozen_units)

    def freeze(self, units: Indices) -> bool:
        """Add units to be frozen if all limits allow it; return whether they did."""
        if not self._spend(self._frozen[:, units].sum(axis=1)):
            return False
        self._frozen_units = tuple(units.tolist())
        return True

    def take(self, units: Indices) -> bool:
        """Add units to be trained if all limits allow it; return whether they did."""
        if not self._spend(self._trained[:, units].sum(axis=1)):
            return False
        self.chosen[units] = True
        return True

    def fill(self, units: Indices) -> None:
        """Add each of these units that still fits, in this order.

        A block's first unit brings the block's core, where that is not in the basket yet.
        """
        table = self._table
        missing = table.blocks[~table.prunable & ~self.chosen]
        unpaid = {block: table.cores[block] for block in np.unique(missing).tolist()}
        left = self._left.tolist()  # plain numbers: numpy is slower for so few values
        blocks, prices = table.blocks[units].tolist(), self._trained[:, units].T.tolist()
        for unit, block, price in zip(units.tolist(), blocks, prices, strict=True):
            core = unpaid.get(block)
            costs = price if core is None else (self._trained[:, core].sum(axis=1) + price).tolist()
            if all(c <= space for c, space in zip(costs, left, strict=True)):
                left = [space - c for c, space in zip(costs, left, strict=True)]
                self.chosen[unit] = True
                if core is not None:
                    self.chosen[unpaid.pop(block)] = True
        self._left = np.array(left)

    def _spend(self, costs: Floats) -> bool:
        left = self._left - costs
        if (left < 0).any():
            return False
        self._left = left
        return True


def filled(costs: CostModel, budget_bytes: int, units: Indices) -> Choice | None:
    """Return the stem and, in this order, each unit that fits the budget; None where none does."""
    basket = Basket(costs.table, [Limit.of_memory(costs, budget_bytes)])
    if not basket.take(costs.table.cores[STEM]):
        return None
    basket.fill(units)
    return basket.choice if basket.chosen[units].any() else None
