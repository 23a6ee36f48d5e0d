"""What one device did over a run, counted from its own words and the decisions on it.

Invariant: sums and maxima of what was told, no judgement; a device that was never heard has a tally
all the same if a decision names it.
"""

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field

from cos2p import messages as m
from cos2p.messages import Outcome


class Presence:
    """When a device was there: from a word of it until it left, or had been silent for too long."""

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._ends: list[float] = []

    def heard(self, at_s: float, patience_s: float) -> None:
        """It said something at `at_s`; silent for `patience_s` from then on, it counts as gone."""
        if not self._ends or at_s >= self._ends[-1]:
            self._starts.append(at_s)
            self._ends.append(at_s + patience_s)
        self._ends[-1] = max(self._ends[-1], at_s + patience_s)

    def left(self, at_s: float) -> None:
        """It said that it goes."""
        if self._ends:
            self._ends[-1] = min(self._ends[-1], at_s)

    @property
    def begun_s(self) -> float | None:
        """When it came; None where it never did."""
        return self._starts[0] if self._starts else None

    def at(self, time_s: float) -> bool:
        """Whether it was there."""
        stretch = bisect_right(self._starts, time_s) - 1
        return stretch >= 0 and time_s < self._ends[stretch]

    def begun_by(self, time_s: float) -> bool:
        """Whether it had come by then, there or not."""
        return bool(self._starts) and self._starts[0] <= time_s


@dataclass
class DeviceTally:
    """One device.

    Attributes:
        worker_id: its name.
        device_class: as its newest Hello says; so are memory, speed, bandwidth and samples.
        memory_bytes: what training may use.
        flops_per_s: training speed.
        bytes_per_s: to the bus.
        sample_count: it has.
        label_counts: samples per label; None where it keeps them to itself.
        plan_count: plans issued to it.
        units_held_max: most units that one of them named.
        outcomes: ends of its plans, and surplus reports (DUPLICATE).
        peak_predicted: largest forecast of its plans, bytes (Plan.peak_bytes).
        peak_measured: largest measured peak, bytes (Report.peak_bytes).
        fetch_s: seconds fetching; train_s, upload_s alike (Report).
        throttle_s: seconds of train_s slept to play a slower device.
        idle_s: seconds between plans, of plans reported (Report.idle_s).
        waiting_s: seconds from a plan's issue until its weights were there whole (PlanIssued to the
            last Dispatched, by the records' times): part of idle_s.
        bytes_down: weights fetched.
        bytes_up: deltas sent.
        steps: local steps done.
        loss_last: of its newest report that has one.
        staleness_last: of its newest update merged.
        merged_s: when that was admitted; None before the first.
        presence: when it was there.
    """

    worker_id: str
    device_class: str = "?"
    memory_bytes: int = 0
    flops_per_s: float = 0.0
    bytes_per_s: float = 0.0
    sample_count: int = 0
    label_counts: tuple[int, ...] | None = None
    plan_count: int = 0
    units_held_max: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    peak_predicted: int = 0
    peak_measured: int = 0
    fetch_s: float = 0.0
    train_s: float = 0.0
    upload_s: float = 0.0
    throttle_s: float = 0.0
    idle_s: float = 0.0
    waiting_s: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    steps: int = 0
    loss_last: float | None = None
    staleness_last: int | None = None
    merged_s: float | None = None
    presence: Presence = field(default_factory=Presence, repr=False)

    @property
    def busy_s(self) -> float:
        """Seconds in which it worked: fetching, training, sending."""
        return self.fetch_s + self.train_s + self.upload_s

    @property
    def busy_share(self) -> float:
        """Share of the reported time in which it worked, in [0, 1]."""
        total = self.busy_s + self.idle_s
        return self.busy_s / total if total else 0.0

    def greet(self, hello: m.Hello) -> None:
        """It said what it is."""
        profile = hello.profile
        self.device_class, self.memory_bytes = profile.device_class, profile.memory_bytes
        self.flops_per_s, self.bytes_per_s = profile.flops_per_s, profile.bytes_per_s
        self.sample_count, self.label_counts = hello.sample_count, hello.label_counts

    def plan(self, plan: m.Plan) -> None:
        """It was asked for something."""
        self.plan_count += 1
        self.units_held_max = max(self.units_held_max, len(plan.trained) + len(plan.frozen))
        self.peak_predicted = max(self.peak_predicted, plan.peak_bytes)

    def report(self, report: m.Report) -> None:
        """It said what came of a plan."""
        self.fetch_s += report.fetch_s
        self.train_s += report.train_s
        self.upload_s += report.upload_s
        self.throttle_s += report.throttle_s
        self.idle_s += report.idle_s
        self.bytes_down += report.bytes_down
        self.bytes_up += report.bytes_up
        self.steps += report.steps_done
        self.peak_measured = max(self.peak_measured, report.peak_bytes)
        self.loss_last = report.loss_last if report.loss_last is not None else self.loss_last
