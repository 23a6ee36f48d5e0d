"""How fast a device trains certain units: the seconds of a plan by its number of steps."""

import math
from dataclasses import dataclass

STEPS_MAX = 1_000_000
ROUNDING = 1e-9
"""Tolerance for floating point: 0.3 s must hold three steps of 0.1 s."""


@dataclass(frozen=True)
class Speed:
    """How long a plan of certain units takes on a device.

    Attributes:
        step_s: seconds of a local step.
        fixed_s: seconds from issue to report outside the steps.
        known: whether the device has reported; before that both are forecasts.
    """

    step_s: float
    fixed_s: float
    known: bool = True

    def duration_s(self, steps: int) -> float:
        """Return the seconds from issue to report."""
        return self.fixed_s + steps * self.step_s

    def steps_in(self, seconds: float) -> int:
        """Return the steps of a plan that is reported after `seconds`; 0 where there is no time."""
        left = max(0.0, seconds - self.fixed_s)
        if left >= STEPS_MAX * self.step_s:
            return STEPS_MAX
        return math.floor(left / self.step_s + ROUNDING)
