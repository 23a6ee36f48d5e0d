"""The state of a run, folded from its log for the checkers.

This fold is separate from the production code's folds.
Invariant: it holds every record's content, right or wrong. The checkers judge it.
"""

from dataclasses import dataclass, field

from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.log.topics import FLEET
from cos2p.model.units import UnitTable


@dataclass
class History:
    """The state of a run according to its records.

    Attributes:
        hellos: the newest Hello of each (worker, incarnation).
        reports: the reports of each plan, by plan id.
        fleet_next: the offset after the last fleet record.
        plan_ends: how each ended plan ended, by plan id.
        answered: (plan id, fleet offset) of each report that was admitted or refused.
        version: the newest closed version.
        fleet_offset: how far the newest decision has read `fleet`.
        closed_at: the offset of the decision that made each version.
        merged: the updates admitted to each version, including the open one (`version` + 1).
        published: the first VersionPublished of each (shard, version).
        whole: the (shard, version) pairs that have a checkpoint.
        dispatched: the (plan id, shard) pairs of all dispatches.
        weights: all dispatches.
        asked_for: the (worker id, base version) pairs of all plans.
    """

    hellos: dict[tuple[str, int], m.Hello] = field(default_factory=dict)
    reports: dict[str, list[m.Report]] = field(default_factory=dict)
    fleet_next: int = 0
    started: m.RunStarted | None = None
    plans: dict[str, m.Plan] = field(default_factory=dict)
    plan_ends: dict[str, Outcome] = field(default_factory=dict)
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
    weights: list[m.Dispatched] = field(default_factory=list)
    asked_for: set[tuple[str, int]] = field(default_factory=set)
    finished: m.RunFinished | None = None
    _table: UnitTable | None = None

    @property
    def table(self) -> UnitTable:
        """The model's unit table. The run must have started."""
        assert self.started is not None
        if self._table is None:
            self._table = self.started.units.table()
        return self._table

    @property
    def shards(self) -> int:
        """The number of aggregator shards of the run; 0 before the run has started."""
        return self.started.config.merge.shards if self.started else 0

    @property
    def open_plans(self) -> set[str]:
        """The ids of the plans that have not ended."""
        return set(self.plans) - set(self.plan_ends)

    def open_plan_of(self, worker_id: str) -> str | None:
        """Return the id of a worker's open plan; None where it has none."""
        return next((p for p in self.open_plans if self.plans[p].worker_id == worker_id), None)

    def take(self, topic: str, offset: int, message: m.Message) -> None:
        """Fold the next record of a topic; of the decisions those that the fence admits."""
        if topic == FLEET.name:
            self.fleet_next = offset + 1
        if isinstance(message, m.Decision):
            self.fleet_offset = message.fleet_offset
        if isinstance(message, m.UpdateAdmitted | m.UpdateRefused):
            # `fleet_offset` is the next record to read, so the answered report is one before it.
            self.answered.add((message.plan_id, message.fleet_offset - 1))
        match message:
            case m.Hello():
                self.hellos[message.worker_id, message.incarnation] = message
            case m.Report():
                self.reports.setdefault(message.plan_id, []).append(message)
            case m.RunStarted():
                self.started = message
                self.closed_at[0] = offset
            case m.PlanIssued(plan=plan):
                self.plans[plan.plan_id] = plan
                self.asked_for.add((plan.worker_id, plan.base_version))
            case m.UpdateAdmitted():
                self.merged.setdefault(self.version + 1, []).append(message)
                self.plan_ends[message.plan_id] = Outcome.ACCEPTED
            case m.UpdateRefused() | m.PlanCancelled():
                if message.outcome is not Outcome.DUPLICATE:
                    self.plan_ends[message.plan_id] = Outcome(message.outcome)
            case m.RoundClosed():
                self.version = message.version
                self.closed_at[message.version] = offset
            case m.RunEnded():
                self.ended = message
            case m.RunOpened():
                self.opened = True
            case m.Dispatched():
                self.dispatched.add((message.plan.plan_id, message.shard))
                self.weights.append(message)
            case m.VersionPublished():
                self.published.setdefault((message.shard, message.version), message)
                if message.checkpoint is not None:
                    self.whole.add((message.shard, message.version))
            case m.RunFinished():
                self.finished = message
            case _:
                pass
