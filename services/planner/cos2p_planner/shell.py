"""The planner's shell: feeds the core from the bus, appends what it decides, writes snapshots.

Invariants: decisions are appended in order. A decision that could not be appended ends the process;
a restart folds the log again. Of two planners, the older leaves with `FencedError`. Nothing is
polled on a timer, so a report is decided as soon as the bus delivers it.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from cos2p.errors import FencedError, RunFailedError
from cos2p.log import messages as m
from cos2p.log.mailbox import Letter, Outbox
from cos2p.log.run_request import require_run
from cos2p.log.topics import DECISIONS, FLEET, HEARTBEATS, MODELS, Topic
from cos2p.service.role import RoleContext
from cos2p_planner.intake import CheckerFactory, Intake
from cos2p_planner.snapshotting import RECORDS_MIN, Snapshots
from cos2p_planner.take_over import TakenOver, take_over

T = TypeVar("T")

READ_WAIT_S = 1.0
WAKE_MAX_S = 1.0
WAKE_MIN_S = 0.002


async def run_planner(
    context: RoleContext,
    *,
    planner_id: str,
    checker: CheckerFactory | None = None,
    snapshot_records: int = RECORDS_MIN,
) -> None:
    """Plan the prefix's run until it ends, or until the planner is asked to stop.

    Args:
        context: the planner's context; its watch learns whether the run stalls.
        planner_id: the planner's name in the log.
        checker: makes the check that each record of `fleet` must pass, for one reading of the log.
        snapshot_records: records folded between two snapshots, at least.

    Raises:
        FencedError: a newer planner has taken over.
        RunExistsError: another run than the context's has this prefix.
        RunFailedError: the run ended short of its target; the text names what was missing.
        DivergedError: the decision log contradicts itself.
        What the bus raises.
    """
    intake = Intake(context, checker)
    found = await _find_run(intake)
    if found is None:
        return
    require_run(context.run_id, found, context.prefix)
    taken = await take_over(intake, found, planner_id)
    if taken.core.ledger.ended is None:
        await _Session(context, taken, found, snapshot_records).work()
    _raise_if_failed(taken.core.ledger.ended)


def _raise_if_failed(ended: m.RunEnded | None) -> None:
    if ended is not None and ended.reason in ("stalled", "failed"):
        raise RunFailedError(
            f"the run {ended.run_id} {ended.reason} at version {ended.version}: {ended.detail}"
        )


async def _find_run(intake: Intake) -> str | None:
    """Find the prefix's run: named by its decisions, else by the first request; None on stop."""
    context = intake.context
    decisions = intake.read(DECISIONS)
    if await decisions.poll(bytes_max=1):
        return decisions.run_id
    context.log.info("run_awaited")
    # What is refused here is read again, and buried, once the run is known.
    fleet = intake.open_mailbox(FLEET, dead_letters_from=None)
    await fleet.end()
    while not context.stop.is_set():
        fleet.run_id = None  # read letters of any run until a request arrives
        for letter in await _run_until_stop(context.stop, fleet.poll(READ_WAIT_S)) or []:
            if isinstance(letter.message, m.RunRequested):
                return letter.message.run_id
    return None


async def _run_until_stop(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the work's result, or None where `stop` is set first."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _cancel((working, stopping))


async def _cancel(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Session:
    """One planner at work on one run."""

    def __init__(
        self, context: RoleContext, taken: TakenOver, run_id: str, snapshot_records: int
    ) -> None:
        self._context, self._core, self._folds = context, taken.core, taken.folds
        self._log = context.log.bind(run_id=run_id)
        self._reads = {
            FLEET: taken.log.fleet.mailbox,
            HEARTBEATS: taken.heartbeats,
            MODELS: taken.log.models.mailbox,
            DECISIONS: taken.log.decisions.mailbox,
        }
        self._made: deque[Letter] = deque()
        """Records of `models` whose decisions have not been read back yet."""
        self._outbox = Outbox(context.bus, context.prefix, DECISIONS)
        self._snapshots = Snapshots(context, taken.snapshot_number, snapshot_records)
        self._snapshots.folded(taken.record_count)
        self._run_id = run_id
        self._folded = {topic: mailbox.offset for topic, mailbox in self._reads.items()}
        """The next record to fold, by topic."""
        self._appended = self._folded[DECISIONS]
        """The record after the last own decision."""
        self._warned_version = -1
        self._pending = taken.pending
        self._run_log = taken.log

    async def work(self) -> None:
        """Work until the run has ended or the planner is asked to stop."""
        stop = self._context.stop
        self._take_rest()
        await self._append()
        tasks: dict[Topic, asyncio.Future[Any]] = {}
        stopping = asyncio.ensure_future(stop.wait())
        try:
            while self._core.ledger.ended is None and not stop.is_set():
                for topic, mailbox in self._reads.items():
                    if topic not in tasks:
                        tasks[topic] = asyncio.ensure_future(mailbox.poll(READ_WAIT_S))
                await self._wait([*tasks.values(), stopping])
                for topic in self._reads:
                    if tasks[topic].done():
                        self._take(topic, tasks.pop(topic).result())
                await self._append()
                await self._snapshot()
            await self._snapshots.finish()
        finally:
            await self._snapshots.cancel()
            await _cancel([*tasks.values(), stopping])

    def _take_rest(self) -> None:
        """Take what arrived while the run was taken over."""
        log = self._run_log
        for topic, tape in ((FLEET, log.fleet), (DECISIONS, log.decisions), (MODELS, log.models)):
            self._take(topic, tape.rest())

    async def _wait(self, tasks: Sequence[asyncio.Future[Any]]) -> None:
        """Wait until something was read or time alone may cause a decision."""
        now = self._context.clock.now()
        pause_s = min(WAKE_MAX_S, max(WAKE_MIN_S, self._core.wake_at(now) - now))
        timer = asyncio.ensure_future(self._context.clock.sleep(pause_s))
        try:
            await asyncio.wait((*tasks, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    def _take(self, topic: Topic, letters: Sequence[Letter]) -> None:
        """Give the records that were read to the core."""
        now = self._context.clock.now()
        self._folded[topic] = self._reads[topic].offset
        if topic is not HEARTBEATS:
            self._snapshots.folded(len(letters))
        for letter in letters:
            self._show(topic, letter)
            if topic is FLEET:
                self._pending += self._core.handle(letter.offset, letter.message, now)
                if isinstance(letter.message, m.Report):  # else K updates might become K + 1
                    self._pending += self._core.advance(now)
            elif topic is HEARTBEATS:
                self._core.handle_heartbeat(letter.message, now)
            elif topic is MODELS:
                self._core.handle_model(letter.message, now)
            elif isinstance(letter.message, m.EpochStarted):
                self._check_epoch(letter.message)

    def _show(self, topic: Topic, letter: Letter) -> None:
        """Feed the history, which needs decisions before what the aggregator made of them."""
        history = self._folds.history
        if topic is HEARTBEATS:
            history.beat(letter.message, letter.timestamp_s)
        elif topic is MODELS:
            self._made.append(letter)
        else:
            history.take(letter)
        obeyed = history.offset(DECISIONS.name)
        while self._made and _obeys(self._made[0]) <= obeyed:
            history.take(self._made.popleft())

    async def _snapshot(self) -> None:
        """Write a snapshot where one is due and what is known equals what the log holds."""
        offsets = {topic: self._folded[topic] for topic in (FLEET, DECISIONS, MODELS)}
        # Own decisions are folded before they are appended. The log's other records must have been
        # read, or another planner's epoch might lie between them.
        whole = self._folded[DECISIONS] >= self._appended
        # A poll that is under way may have advanced the signers' numbers already.
        still = self._reads[FLEET].offset == self._folded[FLEET]
        if self._snapshots.is_due and whole and still and not self._made:
            await self._snapshots.take(self._run_id, self._folds, offsets)

    def _check_epoch(self, started: m.EpochStarted) -> None:
        if started.epoch > self._core.epoch:
            raise FencedError(
                f"planner {started.planner_id} has taken over the run {started.run_id} "
                f"(epoch {started.epoch}); this one leaves"
            )

    async def _append(self) -> None:
        """Advance the core, then append its decisions."""
        now = self._context.clock.now()
        self._pending += self._core.advance(now)
        decisions, self._pending = self._pending, []
        offsets = await self._outbox.send(*decisions)
        self._appended = offsets[-1] + 1 if offsets else self._appended
        for decision in decisions:
            self._log_decision(decision)
        for event, fields in self._core.fleet.notices:
            self._log.warning(event, **fields)
        self._core.fleet.notices.clear()
        self._log_stall(now)

    def _log_stall(self, now: float) -> None:
        """Warn once per version about what the run waits for; blocked until a new version."""
        version = self._core.ledger.version
        if not self._core.waits_long(now):
            self._context.watch.unblocked("run")
        elif version != self._warned_version:
            self._warned_version = version
            detail = self._core.waiting_for(now)
            self._context.watch.blocked("run", f"no version after {version}: {detail}")
            self._log.warning("run_stalled", version=version, detail=detail)

    def _log_decision(self, decision: m.Decision) -> None:
        """Log one line per decision that an operator may look for."""
        log = self._log
        match decision:
            case m.RunStarted():
                log.info("run_started", task=decision.task, units=len(decision.units.name))
            case m.PlanIssued():
                log.debug(
                    "plan_issued",
                    plan_id=decision.plan.plan_id,
                    worker_id=decision.plan.worker_id,
                    units=len(decision.plan.trained),
                )
            case m.UpdateRefused() | m.PlanCancelled():
                log.info(
                    "plan_refused" if isinstance(decision, m.UpdateRefused) else "plan_cancelled",
                    plan_id=decision.plan_id,
                    worker_id=decision.worker_id,
                    outcome=decision.outcome.value,
                    reason=decision.reason,
                )
            case m.RoundClosed():
                log.info(
                    "version_closed",
                    version=decision.version,
                    reason=decision.reason,
                    updates=decision.update_count,
                    coverage_min=decision.coverage_min,
                )
            case m.RunEnded():
                log.info("run_ended", version=decision.version, reason=decision.reason)
            case _:
                pass


def _obeys(made: Letter) -> int:
    """Return the offset after the decision that a record of `models` carries out."""
    assert isinstance(made.message, m.AggregatorMessage)
    return made.message.decisions_offset
