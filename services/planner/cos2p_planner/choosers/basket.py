"""A submodel in the making, under several limits at once.

Invariant: no limit is ever overdrawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p_planner.choosers.question import Floats, Indices
from cos2p_planner.state.choice import Choice


@dataclass(frozen=True)
class Limit:
    """Something that units cost, and how much of it there is.

    Attributes:
        trained: what each unit costs when it is trained, shape (units,).
        frozen: when it is frozen, shape (units,).
        most: how much may be spent.
    """

    trained: Floats
    frozen: Floats
    most: float


class Basket:
    """Units trained and frozen, and what is left of each limit."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._trained = np.stack([limit.trained for limit in limits])
        self._frozen = np.stack([limit.frozen for limit in limits])
        self._left = np.array([limit.most for limit in limits], np.float64)
        self.chosen: NDArray[np.bool_] = np.zeros(self._trained.shape[1], np.bool_)
        """The units trained."""
        self._frozen_units: tuple[int, ...] = ()

    @property
    def choice(self) -> Choice:
        """What is in it."""
        return Choice(tuple(np.flatnonzero(self.chosen).tolist()), self._frozen_units)

    def freeze(self, units: Indices) -> bool:
        """Put units in to be frozen if all limits allow; whether they did."""
        if not self._spend(self._frozen[:, units].sum(axis=1)):
            return False
        self._frozen_units = tuple(units.tolist())
        return True

    def take(self, units: Indices) -> bool:
        """Put units in to be trained if all limits allow; whether they did."""
        if not self._spend(self._trained[:, units].sum(axis=1)):
            return False
        self.chosen[units] = True
        return True

    def fill(self, units: Indices) -> None:
        """Put in each of these units that still fits, in this order."""
        left = self._left.tolist()  # plain numbers: numpy takes longer over so few at a time
        for unit, costs in zip(units.tolist(), self._trained[:, units].T.tolist(), strict=True):
            if all(c <= space for c, space in zip(costs, left, strict=True)):
                left = [space - c for c, space in zip(costs, left, strict=True)]
                self.chosen[unit] = True
        self._left = np.array(left)

    def _spend(self, costs: Floats) -> bool:
        left = self._left - costs
        if (left < 0).any():
            return False
        self._left = left
        return True
