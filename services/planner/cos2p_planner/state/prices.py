"""Prices of the coverage floor: what a unit held by too few devices is worth beyond itself.

The plan problem (our own reconstruction of the method, no published rule): maximise the devices'
value, subject to each one's budget and to `coverage >= N*` for every unit. The augmented Lagrangian
of the last constraint gives each unit a price, [theta + penalty * (N* - coverage)]_+, and leaves
the devices separate knapsacks over value + price. theta, the dual price, takes one subgradient step
per choice from where the last one stopped, theta <- [theta + step * (N* - coverage)]_+; so a plan
costs one knapsack however many devices there are. The penalty answers at once for a unit that this
very choice would leave uncovered: with the step alone the floor held on the mean only, and larger
steps made devices swing together (seen on 16 devices).

Invariants: a function of the choices issued, in their order; prices are never negative, and zero
without a floor; N* is never more than the devices can hold together.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP = 0.02
"""Devices' worth per device that is missing and choice of anybody."""
PENALTY = 8.0
"""Devices' worth per device that is missing now, beyond what values can differ by."""


class FloorPrices:
    """Prices of units, in devices.

    Args:
        floor: N*, `plans.coverage_floor`; 0 for none.
        prunable: the units that it holds for, shape (units,).
        theta: the dual prices so far, shape (units,); None at the run's start.
        due: N* as far as it was possible with them.
    """

    def __init__(
        self, floor: int, prunable: NDArray[np.bool_], theta: Floats | None = None, due: int = 0
    ) -> None:
        self._floor, self._prunable = floor, prunable
        self.theta = np.zeros(len(prunable)) if theta is None else theta
        """The dual prices."""
        self.due = due
        """N* as far as it is possible now."""

    def step(self, coverage: NDArray[np.int64], share_sum: float) -> None:
        """One subgradient step.

        Args:
            coverage: how many devices hold each unit, shape (units,).
            share_sum: the shares of the prunable cost that they hold, summed: no N* over it is
                possible.
        """
        self.due = min(self._floor, int(share_sum))
        self.theta = np.maximum(self.theta + STEP * (self.due - coverage), 0.0)

    def of(self, coverage: Floats, spread: float = 0.0) -> Floats:
        """What each unit is worth to a device beyond its value, shape (units,).

        Args:
            coverage: how many other devices hold each unit, shape (units,).
            spread: of the device's values, largest minus least: the penalty outweighs it.
        """
        if not self.due:
            return np.zeros(len(self._prunable))
        prices = np.maximum(self.theta + (PENALTY + spread) * (self.due - coverage), 0.0)
        return np.where(self._prunable, prices, 0.0)
