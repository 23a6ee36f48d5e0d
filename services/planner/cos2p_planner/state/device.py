"""One device as the planner knows it.

Invariants: a `DeviceRecord` is a function of records and decisions, with no time but that of
decisions, and a snapshot holds it; the rest of a `Device` follows from it, or is what this planner
process heard itself and is lost with it.
"""

from collections import Counter
from dataclasses import dataclass, field

from cos2p.log import messages as m
from cos2p.model.cost import Calibration, Workload
from cos2p_planner.state.speed import Speed

BEFORE_PLANS = -1
"""The version in which a device joined that was there before the run's first plan."""


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
    """The newest version when this incarnation said its first hello; see `BEFORE_PLANS`."""
    calibration: Calibration = field(default_factory=Calibration)
    calibrated_bytes: int = 0
    """Its memory when that began."""
    turnaround_s: float | None = None
    """Issue to report, moving average."""
    overhead_s: float | None = None
    """The part of it beside the training, moving average."""
    gone: str | None = None
    """Why it left; None while it is there."""
    failures: int = 0
    """Reports in a row that brought no update."""
    not_before_s: float = 0.0
    """No plan before that: a device that fails at once must not spin."""
    grown: int = 0
    """The incarnation that was given more memory; what killed the ones before says nothing."""
    reports: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Device(DeviceRecord):
    """One device of the fleet: its record, what follows from it, and who was heard when."""

    heard_s: float = 0.0
    """By this planner's clock; 0 where it was not heard."""
    state: str = "idle"
    idle_since_s: float | None = None
    """Since when it says that it knows of no plan; None while it works."""
    excluded: str = ""
    """Why it gets no plans, as decided; empty where it may."""
    objection: str = ""
    """Why it should get none, as it is known now; a decision follows where the two differ."""
    unserved: str = ""
    """Why it had no plan when it last could have had one; empty where it got one."""
    budget_bytes: int = 0
    """Largest forecast peak to plan."""
    forecast_s: float = 0.0
    """Issue to report of an average submodel, by the cost model."""
    whole_s: float = 0.0
    """The same, by what the device has shown."""

    @property
    def expected_s(self) -> float:
        """Seconds from issue to report: observed, else forecast."""
        return self.forecast_s if self.turnaround_s is None else self.turnaround_s

    def speed(self, step: Workload) -> Speed:
        """How fast it does plans whose steps are like this one: observed, else forecast."""
        fixed_s = (
            step.wire_s(self.profile.bytes_per_s) if self.overhead_s is None else self.overhead_s
        )
        step_s = (
            step.train_s(self.profile.flops_per_s) * self.calibration.seconds_factor / step.steps
        )
        return Speed(step_s, fixed_s, known=self.overhead_s is not None)

    def is_there(self, now: float, lost_after_s: float) -> bool:
        """Whether it has been heard lately and has not left, excluded or not."""
        return self.gone is None and now - self.heard_s <= lost_after_s

    def can_train(self, now: float, lost_after_s: float) -> bool:
        """Whether it is there and may be planned for."""
        return not (self.excluded or self.objection) and self.is_there(now, lost_after_s)
