"""The run as its decisions tell it: a fold of the decision log.

Invariants: state changes by `apply` alone, live and on a restart alike; versions rise by one; a
plan ends once (whatever would end it again is refused here, so no caller can break it).
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p import messages as m
from cos2p.cost import CostModel
from cos2p.errors import DivergedError
from cos2p_planner.arrivals import Arrivals
from cos2p_planner.choosers.question import Choice
from cos2p_planner.holdings import Holdings


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What stays known of every plan, in a few words."""

    worker_id: str
    incarnation: int
    base_version: int
    issued_s: float
    local_steps: int
    peak_bytes: int
    flops: int
    """Of one sample's training step."""
    trained: bytes
    """The units, as packed bits (see `packed`)."""
    group: int = 0
    """Of arrival; 0 for none."""


def packed(units: Sequence[int], unit_count: int) -> bytes:
    """Units as one bit each: every plan's are kept for the whole run."""
    mask = np.zeros(unit_count, np.uint8)
    mask[list(units)] = 1
    return np.packbits(mask).tobytes()


def unpacked(bits: bytes, unit_count: int) -> NDArray[np.bool_]:
    """True for the units that `packed` was given, shape (units,)."""
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=unit_count)
    return mask.astype(np.bool_)


class Run:
    """What a started run adds: settings, model, coverage."""

    def __init__(self, started: m.RunStarted, now: float) -> None:
        self.config = started.config
        self.task = started.task
        self.table = started.units.table()
        self.costs = CostModel.of(self.table, started.config)
        self.holdings = Holdings(self.costs, self.config.plans.coverage_floor)
        self.arrivals = Arrivals()
        self.window: deque[tuple[NDArray[np.int64], float]] = deque(
            maxlen=started.config.rounds.coverage_window
        )
        self.intervals: deque[float] = deque(maxlen=9)
        """Seconds that the last versions took."""
        self.ends_s = now + (started.config.rounds.horizon_s or math.inf)
        """When the run ends, whatever its version."""
        self._started_s = now
        self.opened_s = now
        """When the open version opened: the first with the first plan, others with the last one."""
        self.open_coverage = np.zeros(len(self.table), np.int64)
        self.open_share = 0.0
        self.open_staleness: list[int] = []

    def progress(self, version: int, now: float) -> float:
        """Share of the run that is done, 0 to 1: of its versions or of its time."""
        rounds = self.config.rounds
        done = version / rounds.versions
        if rounds.horizon_s is not None:
            done = max(done, (now - self._started_s) / rounds.horizon_s)
        return min(1.0, max(0.0, done))

    @property
    def update_count(self) -> int:
        """Updates admitted since the last version."""
        return len(self.open_staleness)

    def admit(self, plan: m.Plan, staleness: int, now: float) -> None:
        """A plan's update counts in the open version."""
        self.open_coverage[list(plan.trained)] += 1
        self.open_share += self.costs.share(plan.trained)
        self.open_staleness.append(staleness)
        self.arrivals.landed(plan, now)

    def close(self, now: float) -> None:
        """The open version is closed, the next one opens."""
        self.arrivals.closed(now)
        self.window.append((self.open_coverage, self.open_share))
        self.intervals.append(now - self.opened_s)
        self.opened_s = now
        self.open_coverage = np.zeros(len(self.table), np.int64)
        self.open_share = 0.0
        self.open_staleness = []

    def coverage(self) -> tuple[int, float]:
        """N* and its bound over the window, were the open version closed now.

        N* is the least number of admitted updates of any prunable unit; the bound is what an even
        spread of the same updates' cost would give.
        """
        prunable = self._counts()[self.table.prunable]
        least = int(prunable.min()) if len(prunable) else self.update_count
        return least, self.open_share + sum(share for _, share in self._past())

    def covered(self, times: int) -> float:
        """Share of the prunable cost that so many updates of the window, or more, have trained."""
        counts = self._counts()
        return self.costs.share(np.flatnonzero(counts >= times))

    def _counts(self) -> NDArray[np.int64]:
        """Updates of the window that trained each unit, shape (units,)."""
        return self.open_coverage + sum(counts for counts, _ in self._past())

    def _past(self) -> list[tuple[NDArray[np.int64], float]]:
        """The closed versions of the window."""
        length = self.config.rounds.coverage_window - 1
        return list(self.window)[-length:] if length else []


class Ledger:
    """Plans, versions and outcomes of the run."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.version = 0
        self.plan_count = 0
        self.open: dict[str, m.Plan] = {}
        self.open_of: dict[str, str] = {}
        """The open plan of each worker that has one."""
        self.facts: dict[str, PlanFacts] = {}
        self.endings: dict[str, m.Outcome] = {}
        self.outcomes: dict[str, Counter[m.Outcome]] = {}
        self.accepted_count = 0
        self.newest: dict[str, PlanFacts] = {}
        """The last plan of each worker that has had one."""
        self.hurried: dict[str, float] = {}
        """Open plans whose workers were asked for what they have, and when."""
        self.ended: m.RunEnded | None = None
        self.fleet_offset = 0
        self.progress_s = 0.0
        """When the run started or last got a version."""

    def apply(self, decision: m.Decision, now: float) -> None:
        """Take the next decision.

        Raises:
            DivergedError: it contradicts the ones before it.
        """
        self.fleet_offset = max(self.fleet_offset, decision.fleet_offset)
        match decision:
            case m.RunStarted():
                self.run = Run(decision, now)
                self.progress_s = now
            case m.PlanIssued():
                self._issue(decision.plan, now)
            case m.UpdateAdmitted():
                plan = self._end(decision.plan_id, m.Outcome.ACCEPTED)
                self._started().admit(plan, decision.staleness, now)
                self.accepted_count += 1
            case m.PlanHurried():
                self.hurried[decision.plan_id] = now
            case m.PlanCancelled():
                self._end(decision.plan_id, decision.outcome)
            case m.UpdateRefused(outcome=m.Outcome.DUPLICATE):
                self._count(decision.worker_id, m.Outcome.DUPLICATE)
            case m.UpdateRefused():
                self._end(decision.plan_id, decision.outcome)
            case m.RoundClosed():
                self._close(decision, now)
            case m.RunEnded():
                self.ended = decision

    def outcomes_of(self, worker_id: str) -> Counter[m.Outcome]:
        """How a worker's plans have ended."""
        return self.outcomes.get(worker_id, Counter())

    def _issue(self, plan: m.Plan, now: float) -> None:
        run = self._started()
        if plan.plan_id in self.facts or plan.worker_id in self.open_of:
            raise DivergedError(
                f"the decision log issues {plan.plan_id} while {plan.worker_id} has a plan"
            )
        if not self.plan_count:
            run.opened_s = now
        self.plan_count += 1
        self.open[plan.plan_id] = plan
        self.open_of[plan.worker_id] = plan.plan_id
        self.newest[plan.worker_id] = self.facts[plan.plan_id] = PlanFacts(
            plan.worker_id,
            plan.incarnation,
            plan.base_version,
            now,
            plan.local_steps,
            plan.peak_bytes,
            run.costs.training_flops(plan.trained, plan.frozen),
            packed(plan.trained, len(run.table)),
            plan.group,
        )
        run.holdings.issue(plan.worker_id, Choice(plan.trained, plan.frozen))
        run.arrivals.issued(plan, now)

    def _end(self, plan_id: str, outcome: m.Outcome) -> m.Plan:
        plan = self.open.pop(plan_id, None)
        if plan is None:
            raise DivergedError(f"the decision log ends {plan_id} ({outcome}), which is not open")
        del self.open_of[plan.worker_id]
        self.hurried.pop(plan_id, None)
        run = self._started()
        run.arrivals.ended(plan)
        if outcome in (m.Outcome.EXPIRED, m.Outcome.CANCELLED):
            run.holdings.release(plan.worker_id)
        self.endings[plan_id] = outcome
        self._count(plan.worker_id, outcome)
        return plan

    def _close(self, closed: m.RoundClosed, now: float) -> None:
        if closed.version != self.version + 1:
            raise DivergedError(
                f"the decision log closes version {closed.version} after {self.version}"
            )
        self.version = closed.version
        self.progress_s = now
        self._started().close(now)

    def _count(self, worker_id: str, outcome: m.Outcome) -> None:
        self.outcomes.setdefault(worker_id, Counter())[outcome] += 1

    def _started(self) -> Run:
        if self.run is None:
            raise DivergedError("the decision log plans before its RunStarted")
        return self.run
