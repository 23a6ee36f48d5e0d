"""One device over a run: what it announced, what it did, and how its plans ended.

Invariants:
The figures are sums and maxima of values in the log.
Figures from `fleet` do not depend on the decisions read so far.
Figures from decisions do not depend on the `fleet` records read so far.
A device that only a decision names has a row, too.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

from cos2p.history.figure import KEY, REQUIRED, Figure, derived, figure
from cos2p.log import messages as m
from cos2p.log.messages import Outcome

Labels = tuple[int, ...] | None
MERGED = "UpdateAdmitted"
ENDS = f"{MERGED}, UpdateRefused, PlanCancelled"


def natural(worker_id: str) -> tuple[str | int, ...]:
    """The sort key of devices; numbers in their names are compared as numbers."""
    return tuple(int(p) if p.isdigit() else p for p in re.split(r"(\d+)", worker_id))


@dataclass(frozen=True)
class Announced:
    """The samples per label that a device announced.

    `offset` is that of its Hello in `fleet`; `counts` is None if the device withholds them.
    """

    offset: int
    counts: Labels


@dataclass
class DeviceRow:
    """One device; docs/telemetry.md describes each figure.

    Attributes:
        labels: labels that it announced, oldest first. The first entry is the one that the newest
            version counts.
        heard_s: when its newest `fleet` record was appended; None before the first.
        settled_s: when it last began or reported. Older heartbeats do not describe its current
            work.
        left: whether it sent Goodbye and has not come back.
    """

    worker_id: str = figure(REQUIRED, "its name", head="device")
    device_class: str = figure("?", "its class", "", "Hello", "class")
    incarnation: int = figure(0, "rises with every start", "", "Hello")
    starts: int = figure(0, "starts that were seen", "count", "Hello")
    came_s: float | None = figure(None, "when it was first heard", "s", "fleet")
    memory_bytes: int = figure(0, "what training may use", "bytes", "Hello", "budget", metric=True)
    flops_per_s: float = figure(0.0, "measured training speed", "1/s", "Hello")
    bytes_per_s: float = figure(0.0, "bandwidth to the bus", "bytes/s", "Hello")
    sample_count: int = figure(0, "samples that it has", "count", "Hello")
    plan_count: int = figure(0, "plans issued to it", "count", "PlanIssued")
    plan_id: str | None = figure(None, "its open plan", "", "PlanIssued")
    excluded: str | None = figure(
        None, "why it gets no plans", "", "DeviceExcluded, DeviceAdmitted"
    )
    units_held_max: int = figure(0, "most units of a plan", "count", "PlanIssued")
    peak_predicted_bytes: int = figure(
        0, "largest forecast of its plans", "bytes", "PlanIssued", "planned"
    )
    peak_measured_bytes: int = figure(
        0, "largest measured peak of its training", "bytes", "Report", "measured"
    )
    outcomes: Counter[Outcome] = field(
        default_factory=Counter,
        metadata={KEY: Figure("ends of its plans, and surplus reports", "count", ENDS)},
    )
    steps: int = figure(0, "local steps done", "steps", "Report", "steps")
    fetch_s: float = figure(0.0, "fetching weights", "s", "Report")
    train_s: float = figure(0.0, "training", "s", "Report")
    upload_s: float = figure(0.0, "sending deltas", "s", "Report")
    throttle_s: float = figure(0.0, "part of train_s slept to play a slower device", "s", "Report")
    idle_s: float = figure(0.0, "between plans, until the weights were there", "s", "Report")
    waiting_s: float = figure(
        0.0, "of it: from a plan's issue to its last Dispatched", "s", "PlanIssued, Dispatched"
    )
    bytes_down: int = figure(0, "weights fetched", "bytes", "Report", "down")
    bytes_found: int = figure(
        0, "weights that the device had from earlier plans", "bytes", "Report", "found"
    )
    bytes_up: int = figure(0, "deltas sent", "bytes", "Report", "up")
    loss_last: float | None = figure(
        None, "of its newest report that has one", "", "Report", "last loss"
    )
    staleness_last: int | None = figure(None, "of its newest update merged", "versions", MERGED)
    merged_s: float | None = figure(None, "when its newest update was admitted", "s", MERGED)
    labels: list[Announced] = field(default_factory=list)
    heard_s: float | None = None
    settled_s: float = 0.0
    left: bool = False

    @property
    @derived("samples per label; null if it withholds them", "count", "Hello")
    def label_counts(self) -> Labels:
        """The samples per label that it announced last."""
        return self.labels[-1].counts if self.labels else None

    @property
    @derived("fetching, training and sending", "s", "Report")
    def busy_s(self) -> float:
        """Seconds in which it worked."""
        return self.fetch_s + self.train_s + self.upload_s

    @property
    @derived("of the time reported, the part in which it worked", "share", "Report", "busy")
    def busy_share(self) -> float:
        """Share of the reported time in which it worked, in [0, 1]."""
        total = self.busy_s + self.idle_s
        return self.busy_s / total if total else 0.0

    @property
    @derived("its updates merged", "count", MERGED, "merged")
    def merged_count(self) -> int:
        """Number of its updates that were merged."""
        return self.outcomes[Outcome.ACCEPTED]

    @derived("its part of all updates merged", "share", MERGED, "share", metric=True)
    def merged_share(self, staleness: Counter[int]) -> float:
        """Its part of all merged updates, in [0, 1]; `staleness` counts the run's updates."""
        return self.merged_count / max(1, staleness.total())

    @property
    def over_budget(self) -> bool:
        """Whether its training used more memory than its budget."""
        return self.peak_measured_bytes > self.memory_bytes > 0

    def labels_at(self, fleet_offset: int) -> Labels:
        """The labels that it had announced before this record of `fleet`."""
        known = (a.counts for a in reversed(self.labels) if a.offset < fleet_offset)
        return next(known, None)

    # ------------------------------------------------------------ its records in `fleet`

    def note_heard(self, at_s: float) -> None:
        """Take the time of any record from it."""
        self.came_s = at_s if self.came_s is None else self.came_s
        self.heard_s = max(at_s, self.heard_s or 0.0)

    def greet(self, hello: m.Hello, offset: int, at_s: float) -> None:
        """Take its Hello."""
        self.note_heard(at_s)
        profile = hello.profile
        self.device_class, self.memory_bytes = profile.device_class, profile.memory_bytes
        self.flops_per_s, self.bytes_per_s = profile.flops_per_s, profile.bytes_per_s
        self.sample_count = hello.sample_count
        if not self.labels or self.labels[-1].counts != hello.label_counts:
            self.labels.append(Announced(offset, hello.label_counts))
        if hello.incarnation > self.incarnation:
            self.starts += 1
            self.incarnation, self.settled_s, self.left = hello.incarnation, at_s, False

    def report(self, report: m.Report, at_s: float) -> None:
        """Take its report on a plan."""
        self.note_heard(at_s)
        self.settled_s, self.left = at_s, False
        self.fetch_s += report.fetch_s
        self.train_s += report.train_s
        self.upload_s += report.upload_s
        self.throttle_s += report.throttle_s
        self.idle_s += report.idle_s
        self.bytes_down += report.bytes_down
        self.bytes_found += report.bytes_found
        self.bytes_up += report.bytes_up
        self.steps += report.steps_done
        self.peak_measured_bytes = max(self.peak_measured_bytes, report.peak_bytes)
        self.loss_last = report.loss_last if report.loss_last is not None else self.loss_last

    def leave(self, at_s: float) -> None:
        """Take its Goodbye."""
        self.note_heard(at_s)
        self.left = True

    # ------------------------------------------------------------ decisions on it

    def plan(self, plan: m.Plan) -> None:
        """Take a plan issued to it."""
        self.plan_id = plan.plan_id
        self.plan_count += 1
        self.units_held_max = max(self.units_held_max, len(plan.trained) + len(plan.frozen))
        self.peak_predicted_bytes = max(self.peak_predicted_bytes, plan.peak_bytes)

    def end(self, plan_id: str, outcome: Outcome) -> None:
        """Take the end of one of its plans, or of a surplus report (DUPLICATE)."""
        self.outcomes[outcome] += 1
        if outcome is not Outcome.DUPLICATE and self.plan_id == plan_id:
            self.plan_id = None

    def forget_labels_before(self, fleet_offset: int) -> None:
        """Keep only the labels that later versions can count."""
        old = [a for a in self.labels if a.offset < fleet_offset]
        self.labels = old[-1:] + self.labels[len(old) :]
