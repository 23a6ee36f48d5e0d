"""How a planner takes over a run: from its newest snapshot, or from the start of its log.

Invariants: a snapshot only saves time. One that does not fit is skipped with one log line. The new
epoch is opened before anything is decided. Records come one by one, and none is kept.
"""

import uuid
from dataclasses import dataclass

from cos2p.errors import FencedError
from cos2p.history.follow import beats_kept, first_row_kept
from cos2p.history.read import RunLog, Tape
from cos2p.history.run import RunHistory
from cos2p.log import messages as m
from cos2p.log.mailbox import Mailbox, Outbox
from cos2p.log.snapshots import fitting_snapshots, next_number, snapshots_of
from cos2p.log.state_codec import StateError
from cos2p.log.topics import DECISIONS, FLEET, HEARTBEATS, MODELS, UPDATES
from cos2p_planner.core import PlannerCore
from cos2p_planner.fold import Folds
from cos2p_planner.intake import Intake


@dataclass
class TakenOver:
    """A run that this planner leads.

    Attributes:
        core: the core at the end of the log.
        folds: what is known, and the history, at the end of the log.
        pending: decisions on records that no planner had answered, to be appended.
        log: the run's three topics, at their ends.
        heartbeats: the mailbox at the end of its topic.
        snapshot_number: number of the next snapshot.
        record_count: records folded since the last snapshot.
    """

    core: PlannerCore
    folds: Folds
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
    folds, snapshot = await _start(intake, run_id)
    history = folds.history
    history.rows_from = await first_row_kept(bus, prefix, run_id)
    log = await _log(intake, run_id, folds)
    # Unique, so that this process recognises its own `EpochStarted`.
    name = f"{planner_id}.{uuid.uuid4().hex[:12]}"[:63]
    core = PlannerCore(run_id, 0, updates_topic=UPDATES.full_name(prefix), known=folds.known)
    record_count, decided_s = 0, core.ledger.progress_s
    while not core.epoch:
        await log.extend()
        async for letter in log.decided():
            record_count += 1
            core.restore(letter)
            history.take(letter)
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
        snapshot=snapshot,
        records=record_count,
    )
    pending: list[m.Decision] = []
    now = clock.now()
    async for letter in log.fleet_letters():
        history.take(letter)
        # What waited for a planner was done when it was written: the pace of a device must not
        # contain the planner's absence. The bounds keep a wrong clock within the log's time.
        at_s = min(now, max(decided_s, letter.timestamp_s))
        pending += core.handle(letter.offset, letter.message, at_s)
    heartbeats = await _heartbeats(intake, run_id, core, history)
    core.resume(clock.now())
    context.watch.show_history(history)
    number = await next_number(bus, prefix)
    return TakenOver(core, folds, pending, log, heartbeats, number, record_count)


async def _heartbeats(
    intake: Intake, run_id: str, core: PlannerCore, history: RunHistory
) -> Mailbox:
    """Take the newest heartbeats; return the mailbox that later ones come from."""
    end = await intake.read(HEARTBEATS, run_id).end()
    mailbox = intake.open_mailbox(HEARTBEATS, run_id=run_id, dead_letters_from=end)
    await mailbox.end()
    mailbox.offset = max(mailbox.offset, end - beats_kept(len(core.fleet)))
    while mailbox.offset < end and (letters := await mailbox.poll()):
        for letter in letters:
            core.handle_heartbeat(letter.message, letter.timestamp_s)
            history.beat(letter.message, letter.timestamp_s)
    return mailbox


async def _start(intake: Intake, run_id: str) -> tuple[Folds, int | None]:
    """Return the folds of the newest snapshots at one point of the log, and their number."""

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
        folds = Folds()
        try:
            folds.begin_with(snapshot)
            folds.begin_with(history)
        except StateError as error:
            skipped(snapshot.number, str(error))
            continue
        return folds, snapshot.number
    return Folds(), None


async def _log(intake: Intake, run_id: str, folds: Folds) -> RunLog:
    """Return the run's log from where the folds end."""
    fleet = intake.open_mailbox(
        FLEET,
        run_id=run_id,
        offset=folds.history.offset(FLEET.name),
        dead_letters_from=await _handled_before(intake),
        sequences=folds.known.sequences,
    )
    decisions, models = (
        Tape(intake.read(topic, run_id, folds.history.offset(topic.name)))
        for topic in (DECISIONS, MODELS)
    )
    return RunLog(Tape(fleet), decisions, models, folds.known.epoch)


async def _handled_before(intake: Intake) -> int:
    """Return how far an earlier planner has read `fleet`, by its last decision."""
    decisions = intake.read(DECISIONS)
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
