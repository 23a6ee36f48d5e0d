"""What a run's log says so far, folded for the checkers apart from the production code's folds.

Invariant: it holds what was told, right or wrong; judging is the checkers' part.
"""

from dataclasses import dataclass, field

from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.model.units import UnitTable


@dataclass(frozen=True)
class Ending:
    """How a plan ended, and where the log says so."""

    outcome: Outcome
    offset: int


@dataclass
class History:
    """The run as its records tell it.

    Attributes:
        hellos: newest Hello of each (worker, incarnation).
        reports: of each plan.
        fleet_next: offset after the last fleet record.
        plans: issued, by id.
        endings: of plans.
        answered: (plan, fleet offset) of each report that was admitted or refused.
        version: the newest closed.
        closed_at: offset of the decision that made each version.
        merged: updates admitted to each version, the open one (`version` + 1) included.
        published: of each (shard, version), the first record.
        dispatched: (plan, shard) pairs.
        asked_for: of each plan, its worker and its base version.
    """

    hellos: dict[tuple[str, int], m.Hello] = field(default_factory=dict)
    reports: dict[str, list[m.Report]] = field(default_factory=dict)
    fleet_next: int = 0
    started: m.RunStarted | None = None
    plans: dict[str, m.Plan] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)
    answered: set[tuple[str, int]] = field(default_factory=set)
    version: int = 0
    fleet_offset: int = 0
    closed_at: dict[int, int] = field(default_factory=dict)
    merged: dict[int, list[m.UpdateAdmitted]] = field(default_factory=dict)
    ended: m.RunEnded | None = None
    opened: bool = False
    published: dict[tuple[int, int], m.VersionPublished] = field(default_factory=dict)
    whole: set[tuple[int, int]] = field(default_factory=set)
    dispatched: set[tuple[str, int]] = field(default_factory=set)
    asked_for: set[tuple[str, int]] = field(default_factory=set)
    finished: m.RunFinished | None = None
    _table: UnitTable | None = None

    @property
    def table(self) -> UnitTable:
        """The model's units, once the run has started."""
        assert self.started is not None
        if self._table is None:
            self._table = self.started.units.table()
        return self._table

    @property
    def shards(self) -> int:
        """Aggregator shards of the run."""
        return self.started.config.merge.shards if self.started else 0

    @property
    def open_plans(self) -> set[str]:
        """Plans that have not ended."""
        return set(self.plans) - set(self.endings)

    def open_plan_of(self, worker_id: str) -> str | None:
        """The plan that a worker has and that has not ended."""
        for plan_id, plan in self.plans.items():
            if plan.worker_id == worker_id and plan_id not in self.endings:
                return plan_id
        return None

    def take_fleet(self, offset: int, message: m.Message) -> None:
        """The next record of `fleet`."""
        self.fleet_next = offset + 1
        if isinstance(message, m.Hello):
            self.hellos[message.worker_id, message.incarnation] = message
        elif isinstance(message, m.Report):
            self.reports.setdefault(message.plan_id, []).append(message)

    def take_decision(self, offset: int, decision: m.Decision) -> None:
        """The next decision that the fence admits."""
        self.fleet_offset = decision.fleet_offset
        if isinstance(decision, m.UpdateAdmitted | m.UpdateRefused):
            self.answered.add((decision.plan_id, decision.fleet_offset - 1))
        match decision:
            case m.RunStarted():
                self.started = decision
                self.closed_at[0] = offset
            case m.PlanIssued(plan=plan):
                self.plans[plan.plan_id] = plan
                self.asked_for.add((plan.worker_id, plan.base_version))
            case m.UpdateAdmitted():
                self.merged.setdefault(self.version + 1, []).append(decision)
                self.endings[decision.plan_id] = Ending(Outcome.ACCEPTED, offset)
            case m.UpdateRefused() | m.PlanCancelled():
                if decision.outcome is not Outcome.DUPLICATE:
                    self.endings[decision.plan_id] = Ending(Outcome(decision.outcome), offset)
            case m.RoundClosed():
                self.version = decision.version
                self.closed_at[decision.version] = offset
            case m.RunEnded():
                self.ended = decision
            case _:
                pass

    def take_model(self, message: m.Message) -> None:
        """The next record of `models`."""
        match message:
            case m.RunOpened():
                self.opened = True
            case m.Dispatched():
                self.dispatched.add((message.plan.plan_id, message.shard))
            case m.VersionPublished():
                self.published.setdefault((message.shard, message.version), message)
                if message.checkpoint is not None:
                    self.whole.add((message.shard, message.version))
            case m.RunFinished():
                self.finished = message
            case _:
                pass
