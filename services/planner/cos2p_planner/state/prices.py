"""Prices of the coverage floor: what a unit held by too few devices is worth beyond its value.

The plan problem is our own reconstruction of the method, not a published rule. Maximise the
devices' value, subject to each one's budget and to `coverage >= N*` for every unit. The augmented
Lagrangian of the last constraint gives each unit a price, [theta + penalty * (N* - coverage)]_+. It
leaves the devices separate knapsacks over value + price.

theta is the dual price. It takes one subgradient step per choice from where the last one stopped:
theta <- [theta + step * (N* - coverage)]_+. So a plan costs one knapsack for any number of devices.

The penalty responds at once to a unit that this very choice would leave uncovered. With the step
alone the floor held only on the mean. Larger steps made devices swing together (seen on 16
devices).

Invariants: the prices are a function of the choices issued, in their order. They are never
negative, and are zero without a floor. N* is never more than the devices can hold together.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STEP = 0.02
"""Worth in devices, per missing device and per choice of any device."""
PENALTY = 8.0
"""Worth in devices, per device missing now, beyond what values can differ by."""


class FloorPrices:
    """Prices of units, in devices.

    Args:
        floor: N*, `plans.coverage_floor`; 0 for none.
        prunable: the units that the floor applies to, shape (units,).
        theta: the dual prices so far, shape (units,); None at the run's start.
        due: N* as far as it was possible with these prices.
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
        """Take one subgradient step.

        Args:
            coverage: how many devices hold each unit, shape (units,).
            share_sum: sum of the shares of the prunable cost that the devices hold. No N* over it
                is possible.
        """
        self.due = min(self._floor, int(share_sum))
        self.theta = np.maximum(self.theta + STEP * (self.due - coverage), 0.0)

    def of(self, coverage: Floats, spread: float = 0.0) -> Floats:
        """Return what each unit is worth to a device beyond its value, shape (units,).

        `coverage` counts the other devices that hold each unit, shape (units,). The penalty
        outweighs the spread of the device's values, largest minus least.
        """
        if not self.due:
            return np.zeros(len(self._prunable))
        prices = np.maximum(self.theta + (PENALTY + spread) * (self.due - coverage), 0.0)
        return np.where(self._prunable, prices, 0.0)
