"""What is known of each device, from its own records and from what `models` reports of its work.

Invariants: what a snapshot holds (`DeviceRecord`, `FleetState`) is a function of the records and of
the decisions. Its only times are those of decisions. When each device was heard is this planner's
own knowledge and is lost with it. An older incarnation's records change nothing. A device may get
plans, or is excluded by a decision with a reason that a person can act on.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from cos2p.log import messages as m
from cos2p.model.cost import FLOAT_BYTES, Calibration, Workload
from cos2p_planner.state.device import Device, DeviceRecord
from cos2p_planner.state.ledger import PlanFacts
from cos2p_planner.state.lost_devices import LostPlans
from cos2p_planner.state.run import Run

TURNAROUND_EMA = 0.3
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 30.0
RESIZED_MIN = 0.05
"""A device whose memory differs by more than this share is a different one for the cost model."""
GROWTH_MIN = 1.1
"""A device with this many times the memory of its last start was given more memory."""
Notice = tuple[str, dict[str, str]]
"""A notice for the operator's log: an event's name and its fields."""


@dataclass
class FleetState:
    """What a snapshot holds of the fleet.

    Attributes:
        devices: all devices that ever sent a Hello, in that order.
        strikes: updates that failed checks, by device; a restart of the device does not reset them.
        struck: plans that were counted in `strikes`, by the version that they were left out of.
            Several shards may report a plan, and a version may be published twice.
        excluded: devices that get no plans, and why; possibly from before their Hello.
        deaths: plans lost with their device.
    """

    devices: list[DeviceRecord] = field(default_factory=list)
    strikes: Counter[str] = field(default_factory=Counter)
    struck: dict[int, set[str]] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    deaths: LostPlans = field(default_factory=LostPlans)


class Fleet:
    """All devices that ever sent a Hello, in that order."""

    def __init__(self, state: FleetState | None = None) -> None:
        self._state = state or FleetState()
        known = [f.name for f in fields(DeviceRecord)]
        self._devices = {
            d.worker_id: Device(**{name: getattr(d, name) for name in known})
            for d in self._state.devices
        }
        self.notices: list[Notice] = []
        """Notices that the shell logs and clears."""
        self._run: Run | None = None
        self._least_bytes = 0
        self._unsettled: dict[str, None] = {}
        """Devices whose exclusion and objection may differ, oldest first."""

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def state(self) -> FleetState:
        """What a snapshot holds of the fleet."""
        state = self._state
        state.devices = list(self._devices.values())
        # Decisions and versions both add strikes, and are read in no common order.
        state.strikes = Counter(dict(sorted(state.strikes.items())))
        return state

    def get(self, worker_id: str) -> Device | None:
        """Return the device, where it has sent a Hello."""
        return self._devices.get(worker_id)

    def present(self, now: float, lost_after_s: float) -> int:
        """Return how many devices are there."""
        return sum(d.is_there(now, lost_after_s) for d in self)

    def adopt(self, run: Run, least_bytes: int) -> None:
        """Take the started run; `least_bytes` is the smallest budget that its policy plans for."""
        self._run, self._least_bytes = run, least_bytes
        for device in self:
            self._assess(device)

    # ------------------------------------------------------------ records

    def hello(self, hello: m.Hello, now: float, joined_version: int) -> None:
        """Take a Hello; `joined_version` is the newest version, or `BEFORE_PLANS`."""
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
                joined_version,
            )
        elif hello.incarnation < device.incarnation:
            return
        elif hello.incarnation > device.incarnation:
            if hello.profile.memory_bytes > GROWTH_MIN * device.profile.memory_bytes:
                device.grown = hello.incarnation
            device.incarnation, device.joined_version = hello.incarnation, joined_version
            device.failures, device.not_before_s = 0, 0.0
            device.idle_since_s, device.state, device.gone = None, "idle", None
        # What a worker's own process leaves of a limit differs by some bytes at each start. Then
        # the speed and peaks that it has shown still hold. Only with another size may units fit now
        # that did not fit before. The change is measured from where the calibration began, so that
        # small changes add up.
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
        """Note that a device is alive."""
        device = self._current(beat.worker_id, beat.incarnation)
        if device is None:
            return
        # At a start, heartbeats are read after the fleet's records, which may be newer.
        device.heard_s, device.state = max(now, device.heard_s), beat.state
        if beat.state != "idle":
            device.idle_since_s = None
        elif device.idle_since_s is None:
            device.idle_since_s = now

    def goodbye(self, goodbye: m.Goodbye, now: float) -> None:
        """Note that a device leaves; only a newer incarnation's Hello brings it back."""
        device = self._current(goodbye.worker_id, goodbye.incarnation)
        if device is not None:
            device.heard_s, device.gone = now, goodbye.reason or "said goodbye"

    def note_heard(self, worker_id: str, incarnation: int, now: float) -> None:
        """Note that a device wrote some other record."""
        device = self._current(worker_id, incarnation)
        if device is not None:
            device.heard_s = now

    def report(self, report: m.Report, facts: PlanFacts | None, at_s: float) -> bool:
        """Learn pace, peak and failures from a report that was answered at `at_s`.

        Returns whether there was something to learn: the first report of the device's newest plan.
        """
        device = self._current(report.worker_id, report.incarnation)
        if device is None or facts is None or facts.reported:
            return False
        facts.reported = True
        device.reports[report.status] += 1
        if report.status == "done":
            device.failures = 0
            self._learn_pace(device, report, facts, at_s)
        else:
            _back_off(device, at_s)
        if report.status == "out_of_memory":
            device.calibration = device.calibration.after_out_of_memory(facts.peak_bytes)
            device.not_before_s = at_s
        self._assess(device)
        return True

    def shift_last_heard(self, seconds: float) -> None:
        """Forgive a silence in which this planner did not listen."""
        for device in self:
            device.heard_s += seconds

    # ------------------------------------------------------------ decisions and versions

    def count_failed_check(self, worker_id: str) -> None:
        """Count an update of the device that failed checks."""
        self._state.strikes[worker_id] += 1
        self._assess_known(worker_id)

    def left_out(self, published: m.VersionPublished, oldest: int) -> None:
        """Count the updates of a version that had units left out, each update once.

        Versions below `oldest` are never published again.
        """
        struck = self._state.struck.setdefault(published.version, set())
        for unit in published.left_out:
            if unit.plan_id not in struck:
                struck.add(unit.plan_id)
                self.count_failed_check(unit.worker_id)
        self._state.struck = {v: p for v, p in self._state.struck.items() if p and v >= oldest}

    def reset_failed_checks(self, worker_id: str) -> None:
        """Forget a device's strikes, because an operator has asked to admit it."""
        self._state.strikes.pop(worker_id, None)
        self._assess_known(worker_id)

    def lost(self, facts: PlanFacts) -> None:
        """Note that a plan ended because its device was silent, or restarted."""
        self._state.deaths.lost(facts)
        self._assess_known(facts.worker_id)

    def answered(self, facts: PlanFacts) -> None:
        """Note that a plan's update was admitted."""
        self._state.deaths.answered(facts)

    def exclude(self, worker_id: str, reason: str) -> None:
        """Apply a decision: the device gets no plans, or may again if `reason` is empty."""
        if reason:
            self._state.excluded[worker_id] = reason
        else:
            self._state.excluded.pop(worker_id, None)
        self._assess_known(worker_id)

    def unsettled(self) -> list[Device]:
        """Return devices whose exclusion must be decided again."""
        return [self._devices[worker_id] for worker_id in self._unsettled]

    # ------------------------------------------------------------ inside

    def _current(self, worker_id: str, incarnation: int) -> Device | None:
        device = self._devices.get(worker_id)
        return device if device is not None and device.incarnation == incarnation else None

    def _learn_pace(self, device: Device, report: m.Report, facts: PlanFacts, at_s: float) -> None:
        took_s = max(0.0, at_s - facts.issued_s)
        device.turnaround_s = _smoothed(device.turnaround_s, took_s)
        device.overhead_s = _smoothed(device.overhead_s, max(0.0, took_s - report.train_s))
        if self._run is None or not report.steps_done:
            return
        work = Workload(facts.flops, self._run.costs.batch_size, report.steps_done, 0, 0)
        device.calibration = device.calibration.with_seconds(
            report.train_s, work.train_s(device.profile.flops_per_s)
        ).with_peak(report.peak_bytes, facts.peak_bytes)

    def _assess_known(self, worker_id: str) -> None:
        device = self._devices.get(worker_id)
        if device is not None:
            self._assess(device)

    def _assess(self, device: Device) -> None:
        run = self._run
        if run is None:
            return
        device.excluded = self._state.excluded.get(device.worker_id, "")
        device.budget_bytes = self._budget_bytes(device, run)
        usual = _usual_work(device, run)
        device.forecast_s = usual.train_s(device.profile.flops_per_s) + usual.wire_s(
            device.profile.bytes_per_s
        )
        device.whole_s = device.speed(usual).duration_s(usual.steps)
        device.objection = self._objection(device, run)
        if device.objection == device.excluded:
            self._unsettled.pop(device.worker_id, None)
        else:
            self._unsettled[device.worker_id] = None

    def _objection(self, device: Device, run: Run) -> str:
        strikes = self._state.strikes[device.worker_id]
        if device.protocol != m.PROTOCOL:
            return (
                f"it uses protocol {device.protocol}, this planner {m.PROTOCOL}: "
                "their images are of different versions"
            )
        if device.units_digest != run.table.digest:
            return "its model differs from the run's (units digest)"
        if strikes >= run.config.liveness.strikes_max:
            return (
                f"{strikes} of its updates failed checks; once the cause is repaired: "
                f"`cos2p admit {device.worker_id}`"
            )
        if device.budget_bytes < self._least_bytes:
            margin = run.config.plans.memory_margin
            what = f"its memory less a margin of {margin:.0%}" if margin else "its memory"
            return run.costs.budget_text(device.budget_bytes, what, self._least_bytes)
        return "" if device.sample_count else "it has no samples"

    def _budget_bytes(self, device: Device, run: Run) -> int:
        if not run.config.plans.enforce_memory:
            return run.costs.whole_bytes
        budget_bytes = device.calibration.budget_bytes(
            device.profile.memory_bytes, run.config.plans.memory_margin, self._least_bytes
        )
        deaths = self._state.deaths
        ceiling_bytes = deaths.ceiling(device.worker_id, device.incarnation, device.grown)
        if ceiling_bytes is None:
            return budget_bytes
        if ceiling_bytes < min(budget_bytes, device.budget_bytes):
            fields = {"worker_id": device.worker_id, "largest_peak_bytes": str(ceiling_bytes)}
            self.notices.append(("device_died_at_work", fields))
        return min(budget_bytes, ceiling_bytes)


def _back_off(device: Device, now: float) -> None:
    device.not_before_s = now + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**device.failures)
    device.failures = min(device.failures + 1, 30)


def _smoothed(before: float | None, value: float) -> float:
    return value if before is None else before + TURNAROUND_EMA * (value - before)


def _usual_work(device: Device, run: Run) -> Workload:
    """Return the work of a plan with the run's E and the device's share of the model."""
    share = run.costs.fraction_of(device.budget_bytes)
    moved = int(share * FLOAT_BYTES * run.table.parameter_count)
    return Workload(
        int(share * run.costs.whole_flops),
        run.costs.batch_size,
        run.config.local.steps,
        moved,
        moved,
    )
