"""The run as its decisions define it: a fold of the decision log.

Invariants: state changes only by `apply`, live and on a restart alike. Its only times are those
that the decisions carry. Versions rise by one. A plan ends once. A second end is refused here, so
no caller can break this. The state grows with the devices and their open plans, not with the log.
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
    """Operations of one sample's training step."""
    trained: bytes
    """The trained units, as packed bits (see `packed`)."""
    group: int = 0
    """The arrival group; 0 for none."""
    outcome: m.Outcome | None = None
    """The plan's outcome; None while it is open."""
    reported: bool = False
    """Whether something was learned from its report: only the first one counts."""


@lru_cache(maxsize=1024)  # a device holds its units for several plans
def packed(units: tuple[int, ...], unit_count: int) -> bytes:
    """Pack units as one bit each."""
    mask = np.zeros(unit_count, np.uint8)
    mask[list(units)] = 1
    return np.packbits(mask).tobytes()


def unpacked(bits: bytes, unit_count: int) -> NDArray[np.bool_]:
    """Return True for the units that `packed` was given, shape (units,)."""
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=unit_count)
    return mask.astype(np.bool_)


@dataclass
class LedgerState:
    """All that the decision log has defined so far; a snapshot holds it.

    Attributes:
        version: the newest closed version.
        fleet_offset: the next fleet record to handle.
        plan_count: plans issued.
        open: plans that have not ended, by id.
        newest: the last plan of each device that has had one.
        started: the decision that started the run.
        run: what has changed since the start.
        ended: the decision that ended the run.
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
    """Plans, versions and outcomes of the run; attributes as in `LedgerState`."""

    def __init__(self, state: LedgerState | None = None) -> None:
        state = state or LedgerState()
        self.version, self.fleet_offset = state.version, state.fleet_offset
        self.plan_count, self.open, self.newest = state.plan_count, state.open, state.newest
        self._started, self.ended = state.started, state.ended
        self.run = None if self._started is None else Run(self._started, state.run)
        self.open_of = {plan.worker_id: plan_id for plan_id, plan in self.open.items()}
        """The open plan of each worker that has one."""

    @property
    def state(self) -> LedgerState:
        """What a snapshot holds of the ledger."""
        run = None if self.run is None else self.run.state
        return LedgerState(
            self.version,
            self.fleet_offset,
            self.plan_count,
            self.open,
            self.newest,
            self._started,
            run,
            self.ended,
        )

    @property
    def progress_s(self) -> float:
        """When the run started or last got a version."""
        return 0.0 if self.run is None else self.run.state.progress_s

    def handled(self, offset: int) -> None:
        """Note that the fleet record at `offset` was handled."""
        self.fleet_offset = max(self.fleet_offset, offset + 1)

    def apply(self, decision: m.Decision) -> None:
        """Take the next decision.

        Raises:
            DivergedError: the decision contradicts the ones before it.
        """
        self.fleet_offset = max(self.fleet_offset, decision.fleet_offset)
        match decision:
            case m.RunStarted():
                self._started, self.run = decision, Run(decision)
            case m.PlanIssued():
                self._issue(decision.plan, decision.at_s)
            case m.UpdateAdmitted():
                plan = self._end(decision.plan_id, m.Outcome.ACCEPTED)
                self._begun().admit(plan, decision.staleness, decision.at_s)
            case m.PlanCancelled():
                self._end(decision.plan_id, decision.outcome)
            case m.UpdateRefused() if decision.outcome is not m.Outcome.DUPLICATE:
                self._end(decision.plan_id, decision.outcome)
            case m.RoundClosed():
                self._close(decision)
            case m.RunEnded():
                self.ended = decision

    def facts_of(self, plan_id: str, worker_id: str) -> PlanFacts | None:
        """Return the facts of a plan of this device, where it is its newest."""
        facts = self.newest.get(worker_id)
        return facts if facts is not None and facts.plan_id == plan_id else None

    def _issue(self, plan: m.Plan, now: float) -> None:
        run = self._begun()
        if plan.plan_id in self.open or plan.worker_id in self.open_of:
            raise DivergedError(
                f"the decision log issues {plan.plan_id} while {plan.worker_id} has a plan"
            )
        first = not self.plan_count
        self.plan_count += 1
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
            run.flops_of(plan.trained, plan.frozen),
            packed(plan.trained, len(run.table)),
            plan.group,
        )
        run.issue(plan, now, first=first)

    def _end(self, plan_id: str, outcome: m.Outcome) -> m.Plan:
        plan = self.open.pop(plan_id, None)
        if plan is None:
            raise DivergedError(f"the decision log ends {plan_id} ({outcome}), which is not open")
        del self.open_of[plan.worker_id]
        run = self._begun()
        run.state.arrivals.ended(plan)
        if outcome in (m.Outcome.EXPIRED, m.Outcome.CANCELLED):
            run.holdings.release(plan.worker_id)
        self.newest[plan.worker_id].outcome = outcome
        return plan

    def _close(self, closed: m.RoundClosed) -> None:
        if closed.version != self.version + 1:
            raise DivergedError(
                f"the decision log closes version {closed.version} after {self.version}"
            )
        self.version = closed.version
        self._begun().close(closed.at_s)

    def _begun(self) -> Run:
        if self.run is None:
            raise DivergedError("the decision log plans before its RunStarted")
        return self.run
