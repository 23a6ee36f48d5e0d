"""How a planner takes a run over: from its newest snapshot, or from the start of its log.

Invariants: a snapshot saves time only; one that does not fit is passed over with one log line; the
new epoch is opened before anything is decided; records come one by one, and none is kept.
"""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cos2p.errors import FencedError
from cos2p.history.follow import beats_kept, first_row_kept
from cos2p.history.read import RunLog, Tape
from cos2p.history.run import RunHistory
from cos2p.history.state import HistoryState
from cos2p.log import messages as m
from cos2p.log.bus import Record
from cos2p.log.mailbox import Check, Mailbox, Outbox, Refusal
from cos2p.log.snapshots import Position, fitting_snapshots, next_number, snapshots_of
from cos2p.log.state_codec import StateError, unpack
from cos2p.log.topics import DECISIONS, FLEET, HEARTBEATS, MODELS, UPDATES, Topic
from cos2p.service.role import RoleContext
from cos2p_planner.core import PlannerCore
from cos2p_planner.fold import PlannerFold, PlannerState

CheckerFactory = Callable[[dict[str, int]], Check]
"""Makes what each record of a topic must pass, given the last number of each signer."""


def _unchecked(record: Record, message: m.Message) -> None:
    """Where every record is accepted."""


@dataclass(frozen=True)
class Intake:
    """How a planner reads: from its context, with its checks.

    Attributes:
        context: the planner's surroundings.
        checker: makes what each record of `fleet` must pass; None accepts all.
        refused: of each topic, called with each record that is refused.
    """

    context: RoleContext
    checker: CheckerFactory | None = None
    refused: Mapping[Topic, Callable[[Refusal], None]] = field(default_factory=dict)

    def heard(
        self,
        topic: Topic,
        *,
        run_id: str | None = None,
        offset: int = 0,
        bury_from: int | None = 0,
        sequences: dict[str, int] | None = None,
    ) -> Mailbox:
        """What devices and operators write, checked as this planner checks it."""
        return Mailbox(
            self.context.bus,
            self.context.prefix,
            topic,
            reader="planner",
            run_id=run_id,
            offset=offset,
            check=_unchecked
            if self.checker is None
            else self.checker({} if sequences is None else sequences),
            bury_from=bury_from,
            refused=self.refused.get(topic, lambda refusal: None),
        )

    def read(self, topic: Topic, run_id: str, offset: int = 0) -> Mailbox:
        """What planners and aggregators write."""
        bus, prefix = self.context.bus, self.context.prefix
        return Mailbox(bus, prefix, topic, reader="planner", run_id=run_id, offset=offset)


@dataclass(frozen=True)
class Start:
    """Where the folds begin.

    Attributes:
        state: what the planner knows there.
        history: what people see of the run there.
        positions: how far each topic was folded, by its name.
        snapshot: number of the snapshot; None for the log's start.
    """

    state: PlannerState = field(default_factory=PlannerState)
    history: RunHistory = field(default_factory=RunHistory)
    positions: Mapping[str, Position] = field(default_factory=dict)
    snapshot: int | None = None

    def offset(self, topic: Topic) -> int:
        """The first record of a topic to fold."""
        position = self.positions.get(topic.name)
        return 0 if position is None else position.offset


@dataclass
class TakenOver:
    """A run that this planner leads.

    Attributes:
        core: as of the end of the log.
        history: as of there, too.
        pending: decisions on records that no planner had answered, to be appended.
        log: the run's three topics, at their ends.
        heartbeats: at the end of its topic.
        snapshot_number: of the next snapshot.
        record_count: records folded since the last one.
    """

    core: PlannerCore
    history: RunHistory
    pending: list[m.Decision]
    log: RunLog
    heartbeats: Mailbox
    snapshot_number: int
    record_count: int


async def take_over(intake: Intake, run_id: str, planner_id: str) -> TakenOver:
    """Fold the log and open a new epoch.

    Raises:
        FencedError: a newer planner has taken over meanwhile.
        DivergedError: the decision log contradicts itself.
        SettingsError: the run names a policy that this program lacks.
        What the bus raises.
    """
    context = intake.context
    bus, prefix, clock = context.bus, context.prefix, context.clock
    start = await _start(intake, run_id)
    known = PlannerFold(start.state)
    start.history.rows_from = await first_row_kept(bus, prefix, run_id)
    log = await _log(intake, run_id, start, known)
    name = f"{planner_id}.{uuid.uuid4().hex[:12]}"[:63]
    core = PlannerCore(run_id, 0, updates_topic=UPDATES.full_name(prefix), known=known)
    record_count, decided_s = 0, core.ledger.progress_s
    while not core.epoch:
        await log.extend()
        async for letter in log.decided():
            record_count += 1
            core.restore(letter)
            start.history.take_letter(letter)
            message = letter.message
            if not isinstance(message, m.EpochStarted):
                decided_s = max(decided_s, getattr(message, "at_s", 0.0))
            elif message.planner_id == name:
                core.epoch = message.epoch
        if not core.epoch:
            await _open_epoch(intake, run_id, name, core)
    if core.epoch != log.epoch:
        raise FencedError(f"a newer planner has taken over the run {run_id}; this one leaves")
    context.log.info(
        "epoch_started",
        run_id=run_id,
        epoch=core.epoch,
        planner_id=name,
        version=core.ledger.version,
        plans_open=len(core.ledger.open),
        snapshot=start.snapshot,
        records=record_count,
    )
    pending: list[m.Decision] = []
    now = clock.now()
    async for letter in log.said():
        start.history.take_letter(letter)
        # What waited for a planner was done when it was written: the pace of a device must not
        # contain the planner's absence. A clock that is wrong can't leave the log's time.
        at_s = min(now, max(decided_s, letter.timestamp_s))
        pending += core.handle(letter.offset, letter.message, at_s)
    heartbeats = await _heartbeats(intake, run_id, core, start.history)
    core.resume(clock.now())
    context.watch.shows(start.history)
    number = await next_number(bus, prefix)
    return TakenOver(core, start.history, pending, log, heartbeats, number, record_count)


async def _heartbeats(
    intake: Intake, run_id: str, core: PlannerCore, history: RunHistory
) -> Mailbox:
    """Take the newest heartbeats; where later ones come from."""
    end = await intake.read(HEARTBEATS, run_id).end()
    mailbox = intake.heard(HEARTBEATS, run_id=run_id, bury_from=end)
    await mailbox.end()
    mailbox.offset = max(mailbox.offset, end - beats_kept(len(core.fleet)))
    while mailbox.offset < end and (letters := await mailbox.poll()):
        for letter in letters:
            core.handle_heartbeat(letter.message, letter.timestamp_s)
            history.beat(letter.message, letter.timestamp_s)
    return mailbox


async def _start(intake: Intake, run_id: str) -> Start:
    """The newest snapshots of both folds at one point of the log; else the log's start."""

    def skipped(number: int, reason: str) -> None:
        intake.context.log.warning("snapshot_skipped", number=number, reason=reason)

    bus, prefix = intake.context.bus, intake.context.prefix
    faults: dict[int, str] = {}
    shown = {s.number: s for s in await snapshots_of(bus, prefix, "history", faults.__setitem__)}
    async for snapshot in fitting_snapshots(bus, prefix, "planner", run_id, skipped):
        history = shown.get(snapshot.number)
        if history is None or history.positions != snapshot.positions:
            fault = faults.get(snapshot.number, "it is not there")
            skipped(snapshot.number, f"the history's does not count: {fault}")
            continue
        try:
            state = unpack(PlannerState, snapshot.state)
            seen = unpack(HistoryState, history.state)
        except StateError as error:
            skipped(snapshot.number, str(error))
            continue
        positions = snapshot.positions
        return Start(state, RunHistory.from_state(seen, positions), positions, snapshot.number)
    return Start()


async def _log(intake: Intake, run_id: str, start: Start, known: PlannerFold) -> RunLog:
    fleet = intake.heard(
        FLEET,
        run_id=run_id,
        offset=start.offset(FLEET),
        bury_from=await _handled_before(intake),
        sequences=known.sequences,
    )
    return RunLog(
        Tape(fleet),
        Tape(intake.read(DECISIONS, run_id, start.offset(DECISIONS))),
        Tape(intake.read(MODELS, run_id, start.offset(MODELS))),
        known.epoch,
    )


async def _handled_before(intake: Intake) -> int:
    """How far an earlier planner has read `fleet`, by its last decision."""
    decisions = Mailbox(intake.context.bus, intake.context.prefix, DECISIONS, reader="planner")
    decisions.offset = max(0, await decisions.end() - 1)
    made = [letter.message for letter in await decisions.poll()]
    return max((d.fleet_offset for d in made if isinstance(d, m.Decision)), default=0)


async def _open_epoch(intake: Intake, run_id: str, name: str, core: PlannerCore) -> None:
    epoch = m.EpochStarted(
        run_id=run_id,
        epoch=core.known.epoch + 1,
        fleet_offset=core.ledger.fleet_offset,
        at_s=intake.context.clock.now(),
        planner_id=name,
    )
    await Outbox(intake.context.bus, intake.context.prefix, DECISIONS).send(epoch)
