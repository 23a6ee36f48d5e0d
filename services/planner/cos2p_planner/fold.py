"""What the planner knows of its run: one fold of `fleet`, `decisions` and `models`.

Invariants:
- Nothing is decided here.
- The state is a function of the records below three offsets, if each decision is applied after the
  fleet records below its `fleet_offset`. Records of `models` may come at any time after the
  decisions that they carry out.
- The same code makes the state live, at a restart and in a replay. So a snapshot of one equals the
  fold of the others to the byte.
- When this process last heard each device is not part of the state.
"""

from dataclasses import dataclass, field

from cos2p.history.run import RunHistory
from cos2p.history.state import HistoryState
from cos2p.log import messages as m
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Outcome
from cos2p.log.snapshots import Fold, Snapshot
from cos2p.log.state_codec import pack, unpack
from cos2p.log.topics import FLEET, MODELS
from cos2p_planner.planning import Rules
from cos2p_planner.state.device import BEFORE_PLANS
from cos2p_planner.state.fleet import Fleet, FleetState
from cos2p_planner.state.importance import ImportanceState
from cos2p_planner.state.ledger import Ledger, LedgerState
from cos2p_planner.state.publications import Publications, PublicationsState

RESTARTED = "the worker was restarted"
"""Reason for a cancelled plan whose device came back with another incarnation."""


@dataclass
class PlannerState:
    """What a snapshot holds.

    Attributes:
        epoch: the newest epoch that was opened.
        ledger: the fold of `decisions`.
        fleet: the fold of `fleet`, and of what became of the devices' plans.
        publications: the fold of `models`.
        importance: what units are worth; None before the run started.
        stop_reason: why an operator asked for the end; None where none did.
        sequences: the last number that each signer of `fleet` has used.
    """

    epoch: int = 0
    ledger: LedgerState = field(default_factory=LedgerState)
    fleet: FleetState = field(default_factory=FleetState)
    publications: PublicationsState = field(default_factory=PublicationsState)
    importance: ImportanceState | None = None
    stop_reason: str | None = None
    sequences: dict[str, int] = field(default_factory=dict)


class PlannerFold:
    """The fold of one run's records; they must arrive in canonical order.

    Raises:
        SettingsError: the run names a policy that this program lacks.
    """

    def __init__(self, state: PlannerState | None = None) -> None:
        state = state or PlannerState()
        self.epoch = state.epoch
        self.ledger = Ledger(state.ledger)
        self.fleet = Fleet(state.fleet)
        self.publications = Publications(state.publications)
        self.stop_reason = state.stop_reason
        self.sequences = state.sequences
        """The last number of each signer, shared with the code that checks signatures."""
        self.rules: Rules | None = None
        self._report: m.Report | None = None
        """The newest fleet record, where it is a report: the next decision may answer it."""
        self._adopt(state.importance)

    @property
    def state(self) -> PlannerState:
        """What a snapshot holds. It shares the fold's parts, so pack it before the next record."""
        return PlannerState(
            self.epoch,
            self.ledger.state,
            self.fleet.state,
            self.publications.state,
            None if self.rules is None else self.rules.importance.state,
            self.stop_reason,
            self.sequences,
        )

    def take(self, letter: Letter) -> None:
        """Take the next record of the log in canonical order; void decisions change nothing.

        Raises:
            DivergedError: a decision contradicts the ones before it.
        """
        message, at_s = letter.message, letter.timestamp_s
        if letter.topic is FLEET:
            self.take_fleet(letter.offset, message, at_s)
        elif letter.topic is MODELS:
            self.take_model(message, at_s)
        elif isinstance(message, m.Decision) and EpochFence(self.epoch).admits(message):
            self.apply(message)

    def take_fleet(self, offset: int, message: m.Message, now: float) -> None:
        """Take the fleet record at `offset`, heard at `now`."""
        self.ledger.handled(offset)
        self._report = None
        match message:
            case m.Hello():
                joined = self.ledger.version if self.ledger.plan_count else BEFORE_PLANS
                self.fleet.hello(message, now, joined)
            case m.Goodbye():
                self.fleet.goodbye(message, now)
            case m.Report():
                self.fleet.note_heard(message.worker_id, message.incarnation, now)
                self._report = message
            case m.StopRequested():
                self.stop_reason = message.reason or "asked to stop"
            case m.AdmitRequested():
                self.fleet.reset_failed_checks(message.worker_id)
            case _:
                pass

    def take_model(self, message: m.Message, now: float) -> None:
        """Take a record of `models`, seen at `now`."""
        if isinstance(message, m.VersionPublished):
            self.publications.published(message)
            if self.rules is not None:
                self.rules.importance.weigh(message)
            self.fleet.left_out(message, self.publications.oldest)
        elif isinstance(message, m.Dispatched) and message.plan.plan_id in self.ledger.open:
            self.publications.dispatched(message, now)

    def apply(self, decision: m.Decision) -> None:
        """Take the next decision that the epoch fence admits.

        Raises:
            DivergedError: the decision contradicts the ones before it.
        """
        self.ledger.apply(decision)
        match decision:
            case m.EpochStarted():
                self.epoch = decision.epoch
            case m.RunStarted():
                self._adopt(None)
            case m.DeviceExcluded():
                self.fleet.exclude(decision.worker_id, decision.reason)
            case m.DeviceAdmitted():
                self.fleet.exclude(decision.worker_id, "")
            case m.UpdateAdmitted():
                self.fleet.answered(self.ledger.newest[decision.worker_id])
            case m.UpdateRefused(outcome=Outcome.INVALID):
                self.fleet.count_failed_check(decision.worker_id)
            case m.PlanCancelled(outcome=outcome, reason=reason) if (
                outcome is Outcome.EXPIRED or reason == RESTARTED
            ):
                self.fleet.lost(self.ledger.newest[decision.worker_id])
            case _:
                pass
        if isinstance(decision, m.PlanCancelled | m.UpdateAdmitted | m.UpdateRefused):
            # A refused duplicate ends nothing: its plan may still be open.
            if decision.plan_id not in self.ledger.open:
                self.publications.forget(decision.plan_id)
            self._learn(decision)

    def _learn(self, answer: m.PlanCancelled | m.UpdateAdmitted | m.UpdateRefused) -> None:
        """Learn from the report that a decision answers, with the decision's time."""
        report = self._report
        if report is None or report.plan_id != answer.plan_id or self.rules is None:
            return
        facts = self.ledger.facts_of(report.plan_id, report.worker_id)
        if not self.fleet.report(report, facts, answer.at_s) or facts is None:
            return
        fault = self.rules.importance.learn(report, facts, self.fleet.get(report.worker_id))
        if fault:
            fields = {"worker_id": report.worker_id, "plan_id": report.plan_id, "reason": fault}
            self.fleet.notices.append(("scores_refused", fields))

    def _adopt(self, known: ImportanceState | None) -> None:
        run = self.ledger.run
        if run is not None:
            self.rules = Rules.of(run, known)
            self.fleet.adopt(run, self.rules.chooser.least_bytes)


class Folds:
    """Both folds of one log: what the planner knows, and what people see of the run."""

    def __init__(self) -> None:
        self.known, self.history = PlannerFold(), RunHistory()

    def begin_with(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of either fold.

        Raises:
            StateError: the snapshot can't be read.
        """
        if snapshot.of == "planner":
            self.known = PlannerFold(unpack(PlannerState, snapshot.state))
        else:
            state = unpack(HistoryState, snapshot.state)
            self.history = RunHistory.from_state(state, snapshot.positions)

    def packed(self, of: Fold) -> bytes:
        """Return what a snapshot would hold now."""
        if of == "planner":
            return pack(PlannerState, self.known.state)
        return pack(HistoryState, self.history.state)
