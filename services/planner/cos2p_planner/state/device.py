"""One device as the planner knows it.

Invariants: a `DeviceRecord` is a function of records and decisions, and a snapshot holds it. Its
only times are those of decisions. The rest of a `Device` follows from it, or is what this planner
process heard itself. What the process heard is lost with it.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from cos2p.log import messages as m
from cos2p.model.cost import Calibration, Workload

BEFORE_PLANS = -1
"""`joined_version` of a device that was there before the run's first plan."""
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


@dataclass(slots=True)
class DeviceRecord:
    """What a snapshot holds of a device."""

    worker_id: str
    incarnation: int
    profile: m.DeviceProfile
    sample_count: int
    label_counts: tuple[int, ...] | None
    units_digest: bytes
    protocol: int
    joined_version: int
    """The newest version when this incarnation sent its first Hello; see `BEFORE_PLANS`."""
    calibration: Calibration = field(default_factory=Calibration)
    calibrated_bytes: int = 0
    """The device's memory in bytes when its calibration began."""
    turnaround_s: float | None = None
    """Seconds from issue to report, moving average."""
    overhead_s: float | None = None
    """The part of the turnaround outside the training, moving average."""
    gone: str | None = None
    """Why the device left; None while it is there."""
    failures: int = 0
    """Reports in a row that brought no update."""
    not_before_s: float = 0.0
    """No plan is issued before this time, so that a device that fails at once can't spin."""
    grown: int = 0
    """The incarnation that was given more memory; deaths of the incarnations before it do not
    count."""
    reports: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Device(DeviceRecord):
    """One device of the fleet: its record, what follows from the record, and when it was heard."""

    heard_s: float = 0.0
    """When the device was last heard, by this planner's clock; 0 where it was not heard."""
    state: str = "idle"
    idle_since_s: float | None = None
    """Since when the device has reported that it knows of no plan; None while it works."""
    excluded: str = ""
    """Why the device gets no plans, as decided; empty where it may get them."""
    objection: str = ""
    """Why the device should get no plans, as known now; where it differs from `excluded`, a
    decision follows."""
    no_plan_reason: str = ""
    """Why the device had no plan when it last could have had one; empty where it got one."""
    budget_bytes: int = 0
    """The largest forecast peak to plan."""
    forecast_s: float = 0.0
    """Seconds from issue to report of an average submodel, by the cost model."""
    whole_s: float = 0.0
    """Seconds from issue to report of an average submodel, by what the device has shown."""

    @property
    def expected_s(self) -> float:
        """Seconds from issue to report: observed, else forecast."""
        return self.forecast_s if self.turnaround_s is None else self.turnaround_s

    def speed(self, step: Workload) -> Speed:
        """Return how fast it does plans whose steps are like this one: observed, else forecast."""
        fixed_s = (
            step.wire_s(self.profile.bytes_per_s) if self.overhead_s is None else self.overhead_s
        )
        step_s = (
            step.train_s(self.profile.flops_per_s) * self.calibration.seconds_factor / step.steps
        )
        return Speed(step_s, fixed_s, known=self.overhead_s is not None)

    def is_there(self, now: float, lost_after_s: float) -> bool:
        """Return whether it was heard recently and has not left, excluded or not."""
        return self.gone is None and now - self.heard_s <= lost_after_s

    def can_train(self, now: float, lost_after_s: float) -> bool:
        """Return whether it is there and may get plans."""
        return not (self.excluded or self.objection) and self.is_there(now, lost_after_s)
