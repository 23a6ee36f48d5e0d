"""What people look at: a pure fold of a run's messages into what goes on, and its telemetry.

One fold serves status, the live screen, the demo's summary and the report; versions and tallies of
devices are `cos2p.telemetry`'s. Invariants: no clock and no bus in here, time comes with each
message; decisions that the epoch fence refuses leave no trace; messages of one topic must come in
their order, topics may be interleaved as `Telemetry` says.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p import messages as m
from cos2p.device_tally import DeviceTally
from cos2p.messages import Message, Outcome
from cos2p.run_config import RunConfig
from cos2p.telemetry import Telemetry
from cos2p.units import UnitTable
from cos2p.version_row import AccuracyPoint, VersionRow

Phase = Literal["empty", "requested", "running", "ending", "finished"]
Activity = Literal["idle", "fetch", "train", "upload"]
RECENT_VERSIONS = 8
"""The ETA is extrapolated from so many of the newest versions."""


@dataclass(frozen=True)
class Span:
    """One stretch of one device's time."""

    worker_id: str
    activity: Activity
    start_s: float
    end_s: float


@dataclass
class WorkerRow:
    """What one device does now, and what it did (`tally`)."""

    tally: DeviceTally
    incarnation: int = 0
    start_count: int = 0
    state: str = "unknown"
    last_seen_s: float = 0.0
    plan: m.Plan | None = None
    steps_done: int = 0
    detail: str = ""
    refused: str = ""
    """Why the planner gives it no plans; empty where it may have some."""

    @property
    def worker_id(self) -> str:
        """Its name."""
        return self.tally.worker_id

    def shown_state(self, now_s: float, lost_after_s: float) -> str:
        """Its state; `lost` where it has been silent for too long, `planned` before it begins.

        One that the planner refuses is `refused`, once it has no plan any more.
        """
        if self.state in ("left", "unknown"):
            return self.state
        if now_s - self.last_seen_s > lost_after_s:
            return "lost"
        if self.plan is None:
            return "refused" if self.refused else self.state
        return "planned" if self.state == "idle" else self.state


class RunView:
    """The fold. Feed it with `apply`, read its attributes.

    Args:
        rows_max: of so many of the newest versions the rows are kept; None keeps all.
    """

    def __init__(self, *, rows_max: int | None = None) -> None:
        self.telemetry = Telemetry(rows_max=rows_max)
        self.run_id = ""
        self.task = ""
        self.phase: Phase = "empty"
        self.started_s: float | None = None
        self.last_s = 0.0
        self.end_reason = ""
        self.end_detail = ""
        self.ended_s: float | None = None
        self.planner_last_s: float | None = None
        self.aggregator_last_s: float | None = None
        self.epoch = 0
        self.published = -1
        self.workers: dict[str, WorkerRow] = {}
        self.spans: list[Span] = []
        self.unjudged = ""
        """Why it is not known which devices are refused; empty where it is."""

    # ------------------------------------------------------------ what it says

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return self.telemetry.config

    @property
    def table(self) -> UnitTable | None:
        """The model's units; None before the run is known."""
        return self.telemetry.table

    @property
    def versions(self) -> list[VersionRow]:
        """The versions closed, oldest first, as far as they are kept."""
        return self.telemetry.rows

    @property
    def accuracy(self) -> list[AccuracyPoint]:
        """Verdicts, by version."""
        return self.telemetry.accuracy

    def exits(self, point: AccuracyPoint) -> list[tuple[str, float]]:
        """Accuracy of each inner exit and of the mean of all heads, with its name."""
        if self.table is None or not point.exits:
            return []
        blocks = self.table.block_count
        rows = [
            (f"exit after {block + 1} of {blocks} blocks", accuracy)
            for block, accuracy in zip(self.table.exits, point.exits, strict=False)
        ]
        return rows if point.mean is None else [*rows, ("mean of all heads", point.mean)]

    @property
    def staleness(self) -> Counter[int]:
        """Updates merged, by versions late."""
        return self.telemetry.staleness

    @property
    def version(self) -> int:
        """The newest closed version; 0 before the first."""
        newest = self.newest
        return newest.version if newest else 0

    @property
    def target(self) -> int:
        """The version after which the run ends."""
        return self.config.rounds.versions

    @property
    def newest(self) -> VersionRow | None:
        """The newest version's row."""
        return next(reversed(self.versions), None)

    @property
    def plan_count(self) -> int:
        """Plans issued so far."""
        return sum(w.tally.plan_count for w in self.workers.values())

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Ends of plans and surplus reports, over all devices."""
        total: Counter[Outcome] = Counter()
        for worker in self.workers.values():
            total.update(worker.tally.outcomes)
        return total

    @property
    def elapsed_s(self) -> float:
        """Seconds from the run's start to its end, or to the last message."""
        if self.started_s is None:
            return 0.0
        return max(0.0, (self.ended_s or self.last_s) - self.started_s)

    def eta_s(self, now_s: float) -> float | None:
        """Seconds to the target at the pace of the newest versions; None while unknown."""
        recent = self.versions[-RECENT_VERSIONS - 1 :]
        if self.phase != "running" or len(recent) < 2:
            return None
        pace = (recent[-1].closed_s - recent[0].closed_s) / (len(recent) - 1)
        waited = max(0.0, now_s - recent[-1].closed_s)
        return max(0.0, pace * (self.target - self.version) - min(waited, pace))

    def staleness_of(self, worker: WorkerRow) -> int | None:
        """How many versions its plan's base is behind now; None without a plan."""
        return None if worker.plan is None else max(0, self.version - worker.plan.base_version)

    def coverage(self) -> NDArray[np.int16]:
        """Merged updates per unit and version, shape (units, versions)."""
        rows = self.versions
        if not rows:
            return np.zeros((0 if self.table is None else len(self.table), 0), np.int16)
        return np.stack([row.counts for row in rows], axis=1)

    # ------------------------------------------------------------ the fold

    def apply(self, message: Message, at_s: float) -> None:
        """Take the next message, appended at `at_s` (seconds since the epoch)."""
        self.last_s = max(self.last_s, at_s)
        self.run_id = self.run_id or message.run_id
        if not self.telemetry.take(message, at_s):
            return
        if isinstance(message, m.Decision):
            self.planner_last_s = at_s
            self.epoch = message.epoch
            self._decision(message, at_s)
        elif isinstance(message, (m.RunOpened, m.Dispatched, m.VersionPublished, m.RunFinished)):
            self.aggregator_last_s = at_s
            self._made(message, at_s)
        else:
            self._said(message, at_s)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Set why the planner gives devices no plans, by worker id; of others nothing is known."""
        for worker_id, row in self.workers.items():
            row.refused = reasons.get(worker_id, "")

    def _decision(self, message: m.Decision, at_s: float) -> None:
        match message:
            case m.RunStarted():
                self.task = message.task
                self.started_s, self.phase = at_s, "running"
            case m.PlanIssued():
                self._worker(message.plan.worker_id).plan = message.plan
            case m.UpdateAdmitted():
                self._end(message.plan_id, message.worker_id)
            case m.PlanCancelled() | m.UpdateRefused():
                self._end(message.plan_id, message.worker_id).detail = message.reason
            case m.RunEnded():
                self.phase = "ending" if self.phase != "finished" else self.phase
                self.end_reason, self.end_detail = message.reason, message.detail
                self.ended_s = at_s
            case _:
                pass

    def _end(self, plan_id: str, worker_id: str) -> WorkerRow:
        row = self._worker(worker_id)
        if row.plan is not None and row.plan.plan_id == plan_id:
            row.plan = None
        return row

    def _made(self, message: Message, at_s: float) -> None:
        match message:
            case m.VersionPublished():
                self.published = max(self.published, message.version)
            case m.RunFinished():
                self.phase = "finished"
                self.ended_s = self.ended_s or at_s
            case _:
                pass

    def _said(self, message: Message, at_s: float) -> None:
        match message:
            case m.RunRequested():
                self.task = message.task
                self.phase = "requested" if self.phase == "empty" else self.phase
            case m.Hello():
                self._greet(message, at_s)
            case m.Heartbeat():
                row = self._worker(message.worker_id, at_s)
                row.state, row.steps_done = message.state, message.steps_done
            case m.Report():
                self._report(message, at_s)
            case m.Goodbye():
                row = self._worker(message.worker_id, at_s)
                row.state, row.detail = "left", message.reason
            case _:
                pass

    def _greet(self, message: m.Hello, at_s: float) -> None:
        row = self._worker(message.worker_id, at_s)
        if message.incarnation > row.incarnation:
            row.start_count += 1
            row.incarnation, row.state = message.incarnation, "idle"

    def _report(self, message: m.Report, at_s: float) -> None:
        row = self._worker(message.worker_id, at_s)
        row.state, row.steps_done = "idle", 0
        end = at_s
        stretches: tuple[tuple[Activity, float], ...] = (
            ("upload", message.upload_s),
            ("train", message.train_s),
            ("fetch", message.fetch_s),
            ("idle", message.idle_s),
        )
        for activity, seconds in stretches:
            if seconds > 0:
                self.spans.append(Span(message.worker_id, activity, end - seconds, end))
            end -= seconds

    def _worker(self, worker_id: str, seen_s: float = 0.0) -> WorkerRow:
        row = self.workers.setdefault(worker_id, WorkerRow(self.telemetry.device(worker_id)))
        row.last_seen_s = max(row.last_seen_s, seen_s)
        return row
