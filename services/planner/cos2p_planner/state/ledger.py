"""The run as its decisions tell it: a fold of the decision log.

Invariants: state changes by `apply` alone, live and on a restart alike; its only times are those
that the decisions carry; versions rise by one; a plan ends once (whatever would end it again is
refused here, so no caller can break it); it grows with the devices and their open plans, not with
the log.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import DivergedError
from cos2p.log import messages as m
from cos2p_planner.state.run import Run, RunState


@dataclass(slots=True)
class PlanFacts:
    """What stays known of the newest plan of a device, also after its end."""

    plan_id: str
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
    outcome: m.Outcome | None = None
    """None while it is open."""
    reported: bool = False
    """Whether something was learned from its report: only the first one counts."""


@lru_cache(maxsize=1024)  # a device holds its units for several plans
def packed(units: tuple[int, ...], unit_count: int) -> bytes:
    """Units as one bit each."""
    mask = np.zeros(unit_count, np.uint8)
    mask[list(units)] = 1
    return np.packbits(mask).tobytes()


def unpacked(bits: bytes, unit_count: int) -> NDArray[np.bool_]:
    """True for the units that `packed` was given, shape (units,)."""
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=unit_count)
    return mask.astype(np.bool_)


@dataclass
class LedgerState:
    """All that the decision log has told so far; a snapshot holds it.

    Attributes:
        version: the newest closed.
        fleet_offset: the next fleet record to handle.
        plan_count: plans issued.
        open: plans that have not ended, by id.
        newest: the last plan of each device that has had one.
        started: the run's beginning.
        run: what has changed since.
        ended: the run's end.
    """

    version: int = 0
    fleet_offset: int = 0
    plan_count: int = 0
    open: dict[str, m.Plan] = field(default_factory=dict)
    newest: dict[str, PlanFacts] = field(default_factory=dict)
    started: m.RunStarted | None = None
    run: RunState | None = None
    ended: m.RunEnded | None = None


class Ledger:
    """Plans, versions and outcomes of the run.

    Args:
        state: what a snapshot held.
    """

    def __init__(self, state: LedgerState | None = None) -> None:
        self._state = state or LedgerState()
        started = self._state.started
        self.run = None if started is None else Run(started, self._state.run)
        self.open_of = {plan.worker_id: plan_id for plan_id, plan in self.open.items()}
        """The open plan of each worker that has one."""

    @property
    def state(self) -> LedgerState:
        """What a snapshot holds of it."""
        self._state.run = None if self.run is None else self.run.state
        return self._state

    @property
    def version(self) -> int:
        """The newest closed version."""
        return self._state.version

    @property
    def fleet_offset(self) -> int:
        """The next fleet record to handle."""
        return self._state.fleet_offset

    @property
    def plan_count(self) -> int:
        """Plans issued."""
        return self._state.plan_count

    @property
    def open(self) -> dict[str, m.Plan]:
        """Plans that have not ended, by id."""
        return self._state.open

    @property
    def newest(self) -> dict[str, PlanFacts]:
        """The last plan of each worker that has had one."""
        return self._state.newest

    @property
    def ended(self) -> m.RunEnded | None:
        """The run's end; None before."""
        return self._state.ended

    @property
    def progress_s(self) -> float:
        """When the run started or last got a version."""
        return 0.0 if self.run is None else self.run.progress_s

    def handled(self, offset: int) -> None:
        """The fleet record at `offset` was handled."""
        self._state.fleet_offset = max(self._state.fleet_offset, offset + 1)

    def apply(self, decision: m.Decision) -> None:
        """Take the next decision.

        Raises:
            DivergedError: it contradicts the ones before it.
        """
        self._state.fleet_offset = max(self._state.fleet_offset, decision.fleet_offset)
        match decision:
            case m.RunStarted():
                self._state.started = decision
                self.run = Run(decision)
            case m.PlanIssued():
                self._issue(decision.plan, decision.at_s)
            case m.UpdateAdmitted():
                plan = self._end(decision.plan_id, m.Outcome.ACCEPTED)
                self._started().admit(plan, decision.staleness, decision.at_s)
            case m.PlanCancelled():
                self._end(decision.plan_id, decision.outcome)
            case m.UpdateRefused() if decision.outcome is not m.Outcome.DUPLICATE:
                self._end(decision.plan_id, decision.outcome)
            case m.RoundClosed():
                self._close(decision)
            case m.RunEnded():
                self._state.ended = decision

    def facts_of(self, plan_id: str, worker_id: str) -> PlanFacts | None:
        """A plan of this device, where it is its newest."""
        facts = self.newest.get(worker_id)
        return facts if facts is not None and facts.plan_id == plan_id else None

    def _issue(self, plan: m.Plan, now: float) -> None:
        run = self._started()
        if plan.plan_id in self.open or plan.worker_id in self.open_of:
            raise DivergedError(
                f"the decision log issues {plan.plan_id} while {plan.worker_id} has a plan"
            )
        first = not self.plan_count
        self._state.plan_count += 1
        self.open[plan.plan_id] = plan
        self.open_of[plan.worker_id] = plan.plan_id
        self.newest[plan.worker_id] = PlanFacts(
            plan.plan_id,
            plan.worker_id,
            plan.incarnation,
            plan.base_version,
            now,
            plan.local_steps,
            plan.peak_bytes,
            run.flops_of(plan),
            packed(plan.trained, len(run.table)),
            plan.group,
        )
        run.issue(plan, now, first=first)

    def _end(self, plan_id: str, outcome: m.Outcome) -> m.Plan:
        plan = self.open.pop(plan_id, None)
        if plan is None:
            raise DivergedError(f"the decision log ends {plan_id} ({outcome}), which is not open")
        del self.open_of[plan.worker_id]
        run = self._started()
        run.arrivals.ended(plan)
        if outcome in (m.Outcome.EXPIRED, m.Outcome.CANCELLED):
            run.holdings.release(plan.worker_id)
        self.newest[plan.worker_id].outcome = outcome
        return plan

    def _close(self, closed: m.RoundClosed) -> None:
        if closed.version != self.version + 1:
            raise DivergedError(
                f"the decision log closes version {closed.version} after {self.version}"
            )
        self._state.version = closed.version
        self._started().close(closed.at_s)

    def _started(self) -> Run:
        if self.run is None:
            raise DivergedError("the decision log plans before its RunStarted")
        return self.run
