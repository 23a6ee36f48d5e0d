"""How fast a device trains certain units: seconds of a plan by its number of steps."""

import math
from dataclasses import dataclass

STEPS_MAX = 1_000_000
ROUNDING = 1e-9
"""0.3 s hold three steps of 0.1 s, whatever floating point says."""


@dataclass(frozen=True)
class Speed:
    """How long a plan of certain units takes a device.

    Attributes:
        step_s: seconds of a local step.
        fixed_s: seconds from issue to report beside the steps.
        known: whether the device has reported; before that both are forecasts.
    """

    step_s: float
    fixed_s: float
    known: bool = True

    def duration_s(self, steps: int) -> float:
        """Seconds from issue to report."""
        return self.fixed_s + steps * self.step_s

    def steps_in(self, seconds: float) -> int:
        """Steps of a plan that is reported after so many seconds; 0 where there is no time."""
        left = max(0.0, seconds - self.fixed_s)
        if left >= STEPS_MAX * self.step_s:
            return STEPS_MAX
        return math.floor(left / self.step_s + ROUNDING)
