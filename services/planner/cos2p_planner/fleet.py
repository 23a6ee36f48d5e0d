"""What is known of each device from what it says on `fleet` (and what `models` says of its work).

Invariants: a function of the messages heard and of the plans they refer to; no decision depends on
anything else of a device. An older incarnation's words change nothing. A device is `barred` with a
reason that a person can act on, or may be planned for.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cos2p import messages as m
from cos2p.cost import FLOAT_BYTES, Calibration, Workload
from cos2p_planner.deaths import Deaths
from cos2p_planner.ledger import PlanFacts, Run
from cos2p_planner.pace import Speed

TURNAROUND_EMA = 0.3
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
RESIZED_MIN = 0.05
"""A device whose memory differs by more than this share is another one to the cost model."""
GROWTH_MIN = 1.1
"""A device with so many times the memory of its last start was given more."""

Notice = tuple[str, dict[str, str]]
"""Something to tell the operator: an event's name and its fields."""


@dataclass(slots=True)
class Device:
    """One device of the fleet."""

    worker_id: str
    incarnation: int
    profile: m.DeviceProfile
    sample_count: int
    label_counts: tuple[int, ...] | None
    units_digest: bytes
    protocol: int
    heard_s: float
    calibration: Calibration = field(default_factory=Calibration)
    calibrated_bytes: int = 0
    """Its memory when that began."""
    turnaround_s: float | None = None
    """Issue to report, moving average; of a plan that was hurried, what the whole had taken."""
    overhead_s: float | None = None
    """The part of it beside the training, moving average."""
    state: str = "idle"
    idle_since_s: float | None = None
    """Since when it says that it knows of no plan; None while it works."""
    gone: str | None = None
    """Why it left; None while it is there."""
    failures: int = 0
    """Reports in a row that brought no update."""
    not_before_s: float = 0.0
    """No plan before that: a device that fails at once must not spin."""
    strikes: int = 0
    """Updates of this incarnation that failed checks."""
    joined_s: float = 0.0
    """When it said the first hello of this incarnation."""
    grown: int = 0
    """The incarnation that was given more memory; what killed the ones before says nothing."""
    barred: str = ""
    """Why it gets no plans; empty where it may."""
    unserved: str = ""
    """Why it had no plan when it last could have had one; empty where it got one."""
    budget_bytes: int = 0
    """Largest forecast peak to plan."""
    reports: Counter[str] = field(default_factory=Counter)
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
        fixed_s = step.wire_s(self.profile) if self.overhead_s is None else self.overhead_s
        step_s = step.train_s(self.profile) * self.calibration.seconds_factor / step.steps
        return Speed(step_s, fixed_s, known=self.overhead_s is not None)

    def is_there(self, now: float, lost_after_s: float) -> bool:
        """Whether it has been heard lately and has not left, barred or not."""
        return self.gone is None and now - self.heard_s <= lost_after_s

    def can_train(self, now: float, lost_after_s: float) -> bool:
        """Whether it is there and may be planned for."""
        return not self.barred and self.is_there(now, lost_after_s)


class Fleet:
    """All devices that ever said hello, in that order."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self.notices: list[Notice] = []
        """What the shell logs and clears."""
        self._run: Run | None = None
        self._least_bytes = 0
        self._reported: set[str] = set()
        self._struck: set[str] = set()
        self._strikes: Counter[tuple[str, int]] = Counter()
        """By worker and incarnation: known before the device is, on a restart."""
        self._deaths = Deaths()

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def __len__(self) -> int:
        return len(self._devices)

    def get(self, worker_id: str) -> Device | None:
        """The device, where it has said hello."""
        return self._devices.get(worker_id)

    def present(self, now: float, lost_after_s: float) -> int:
        """How many devices are there."""
        return sum(d.is_there(now, lost_after_s) for d in self)

    def adopt(self, run: Run, least_bytes: int) -> None:
        """The run has started: devices can be measured against it.

        Args:
            run: the run.
            least_bytes: budget of the smallest submodel that its policy plans.
        """
        self._run, self._least_bytes = run, least_bytes
        for device in self:
            self._assess(device)

    def hello(self, hello: m.Hello, now: float) -> None:
        """A device is there, anew or still."""
        device = self._devices.get(hello.worker_id)
        if device is None:
            device = self._devices[hello.worker_id] = Device(
                hello.worker_id,
                hello.incarnation,
                hello.profile,
                hello.sample_count,
                hello.label_counts,
                hello.units_digest,
                hello.protocol,
                now,
                joined_s=now,
            )
        elif hello.incarnation < device.incarnation:
            return
        elif hello.incarnation > device.incarnation:
            if hello.profile.memory_bytes > GROWTH_MIN * device.profile.memory_bytes:
                device.grown = hello.incarnation
            device.incarnation, device.joined_s = hello.incarnation, now
            device.failures, device.not_before_s = 0, 0.0
            device.idle_since_s, device.state, device.gone = None, "idle", None
        # What a worker's own process leaves of a limit differs by some bytes with each start: what
        # it has shown of its speed and peaks is as true as before. Only with another size may what
        # did not fit before fit now. Measured from where the calibration began, so that small
        # changes add up.
        change = abs(hello.profile.memory_bytes - device.calibrated_bytes)
        if change > RESIZED_MIN * device.calibrated_bytes:
            device.calibration = Calibration()
            device.calibrated_bytes = hello.profile.memory_bytes
        device.profile = hello.profile
        device.sample_count, device.label_counts = hello.sample_count, hello.label_counts
        device.units_digest, device.protocol = hello.units_digest, hello.protocol
        device.heard_s = now
        self._assess(device)

    def heartbeat(self, beat: m.Heartbeat, now: float) -> None:
        """A device is alive."""
        device = self._current(beat.worker_id, beat.incarnation)
        if device is None:
            return
        device.heard_s, device.state = now, beat.state
        if beat.state != "idle":
            device.idle_since_s = None
        elif device.idle_since_s is None:
            device.idle_since_s = now

    def goodbye(self, goodbye: m.Goodbye, now: float) -> None:
        """A device leaves; only a newer incarnation's hello brings it back."""
        device = self._current(goodbye.worker_id, goodbye.incarnation)
        if device is not None:
            device.heard_s, device.gone = now, goodbye.reason or "said goodbye"

    def report(self, report: m.Report, facts: PlanFacts | None, now: float) -> bool:
        """Learn from what came of a plan: pace, peak, failures.

        Returns:
            Whether there was something to learn: the device's first report of its own plan.
        """
        device = self._current(report.worker_id, report.incarnation)
        if device is None:
            return False
        device.heard_s = now
        if facts is None or facts.worker_id != report.worker_id:
            return False
        if report.plan_id in self._reported:
            return False
        self._reported.add(report.plan_id)
        device.reports[report.status] += 1
        if report.status == "done":
            device.failures = 0
            self._learn_pace(device, report, facts, now)
        else:
            self._back_off(device, now)
        if report.status == "out_of_memory":
            device.calibration = device.calibration.after_out_of_memory(facts.peak_bytes)
            device.not_before_s = now
        self._assess(device)
        return True

    def strike(self, worker_id: str, plan_id: str, incarnation: int) -> None:
        """A plan's update failed checks; counted once a plan."""
        if plan_id in self._struck:
            return
        self._struck.add(plan_id)
        self._strikes[worker_id, incarnation] += 1
        self._assess_known(worker_id)

    def lost(self, facts: PlanFacts) -> None:
        """A plan ended because its device was silent, or restarted."""
        self._deaths.lost(facts)
        self._assess_known(facts.worker_id)

    def answered(self, facts: PlanFacts) -> None:
        """A plan's update was admitted."""
        self._deaths.answered(facts)

    def shift(self, seconds: float) -> None:
        """Forgive a silence in which nobody listened."""
        for device in self:
            device.heard_s += seconds

    def _current(self, worker_id: str, incarnation: int) -> Device | None:
        device = self._devices.get(worker_id)
        return device if device is not None and device.incarnation == incarnation else None

    def _learn_pace(self, device: Device, report: m.Report, facts: PlanFacts, now: float) -> None:
        took_s = max(0.0, now - facts.issued_s)
        left_out_s = 0.0
        if report.steps_done:
            left_out = max(0, facts.local_steps - report.steps_done)
            left_out_s = report.train_s / report.steps_done * left_out
        device.turnaround_s = _smoothed(device.turnaround_s, took_s + left_out_s)
        device.overhead_s = _smoothed(device.overhead_s, max(0.0, took_s - report.train_s))
        if self._run is None or not report.steps_done:
            return
        work = Workload(facts.flops, self._run.costs.batch_size, report.steps_done, 0, 0)
        device.calibration = device.calibration.with_seconds(
            report.train_s, work.train_s(device.profile)
        ).with_peak(report.peak_bytes, facts.peak_bytes)

    def _back_off(self, device: Device, now: float) -> None:
        device.not_before_s = now + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**device.failures)
        device.failures = min(device.failures + 1, 30)

    def _assess_known(self, worker_id: str) -> None:
        device = self._devices.get(worker_id)
        if device is not None:
            self._assess(device)

    def _assess(self, device: Device) -> None:
        run = self._run
        if run is None:
            return
        barred = device.barred
        device.strikes = self._strikes[device.worker_id, device.incarnation]
        device.budget_bytes = self._budget_bytes(device, run)
        usual = _usual_work(device, run)
        device.forecast_s = usual.train_s(device.profile) + usual.wire_s(device.profile)
        device.whole_s = device.speed(usual).duration_s(usual.steps)
        if device.protocol != m.PROTOCOL:
            device.barred = (
                f"it speaks protocol {device.protocol}, this planner {m.PROTOCOL}: "
                "their images are of different versions"
            )
        elif device.units_digest != run.table.digest:
            device.barred = "its model differs from the run's (units digest)"
        elif device.strikes >= run.config.liveness.strikes_max:
            device.barred = f"{device.strikes} of its updates failed checks"
        elif device.budget_bytes < self._least_bytes:
            margin = run.config.plans.memory_margin
            what = f"its memory less a margin of {margin:.0%}" if margin else "its memory"
            device.barred = run.costs.budget_text(device.budget_bytes, what, self._least_bytes)
        elif not device.sample_count:
            device.barred = "it has no samples"
        else:
            device.barred = ""
        if device.barred and device.barred != barred:
            fields = {"worker_id": device.worker_id, "reason": device.barred}
            self.notices.append(("device_refused", fields))

    def _budget_bytes(self, device: Device, run: Run) -> int:
        if not run.config.plans.enforce_memory:
            return run.costs.whole_bytes
        budget_bytes = device.calibration.budget_bytes(
            device.profile.memory_bytes, run.config.plans.memory_margin, self._least_bytes
        )
        ceiling_bytes = self._deaths.ceiling(device.worker_id, device.incarnation, device.grown)
        if ceiling_bytes is None:
            return budget_bytes
        if ceiling_bytes < min(budget_bytes, device.budget_bytes):
            fields = {"worker_id": device.worker_id, "largest_peak_bytes": str(ceiling_bytes)}
            self.notices.append(("device_died_at_work", fields))
        return min(budget_bytes, ceiling_bytes)


def _smoothed(before: float | None, value: float) -> float:
    return value if before is None else before + TURNAROUND_EMA * (value - before)


def _usual_work(device: Device, run: Run) -> Workload:
    """A plan with the run's E and the device's share of the model."""
    share = run.costs.fraction_of(device.budget_bytes)
    moved = int(share * FLOAT_BYTES * run.table.parameter_count)
    return Workload(
        int(share * run.costs.training_flops(range(len(run.table)))),
        run.costs.batch_size,
        run.config.local.steps,
        moved,
        moved,
    )
