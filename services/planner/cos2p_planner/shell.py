"""The planner's shell: takes a run over, feeds the core from the bus, appends what it decides.

Invariants: decisions are appended in order, and one that could not be appended ends the process
(a restart folds the log again); of two planners the older leaves with `FencedError`; nothing is
polled on a timer, so a report is decided as soon as the bus shows it.
"""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cos2p import messages as m
from cos2p.bus import Bus, Record
from cos2p.clock import Clock
from cos2p.errors import FencedError, RunFailedError
from cos2p.fence import EpochFence
from cos2p.logs import Log
from cos2p.mailbox import Check, Letter, Mailbox, Outbox, Refusal
from cos2p.monitoring.watch import Watch
from cos2p.run_request import require_run
from cos2p.topics import DECISIONS, FLEET, HEARTBEATS, MODELS, UPDATES, Topic
from cos2p_planner.core import PlannerCore
from cos2p_planner.refusals import Refusals

T = TypeVar("T")

READ_WAIT_S = 1.0
WAKE_MAX_S = 1.0
WAKE_MIN_S = 0.002


@dataclass(frozen=True)
class Place:
    """Where a planner works."""

    bus: Bus
    clock: Clock
    log: Log
    prefix: str
    watch: Watch
    checker: Callable[[], Check] | None = None
    refused: Callable[[Refusal], None] = lambda refusal: None

    def heard(
        self, topic: Topic, offset: int, run_id: str | None = None, bury_from: int | None = 0
    ) -> Mailbox:
        """What devices and operators say from an offset on, checked as this planner checks it."""
        return Mailbox(
            self.bus,
            self.prefix,
            topic,
            reader="planner",
            run_id=run_id,
            offset=offset,
            check=_unchecked if self.checker is None else self.checker(),
            bury_from=bury_from,
            refused=self.refused,
        )


def _unchecked(record: Record, message: m.Message) -> None:
    """Where anybody may say anything."""


async def run_planner(
    bus: Bus,
    clock: Clock,
    log: Log,
    stop: asyncio.Event,
    *,
    prefix: str,
    planner_id: str,
    run_id: str | None = None,
    watch: Watch | None = None,
    checker: Callable[[], Check] | None = None,
) -> None:
    """Plan the prefix's run until it ends, or until `stop` is set.

    Args:
        bus: the log.
        clock: of the bus.
        log: for operators.
        stop: asks it to leave.
        prefix: of the run's topics.
        planner_id: its name in the log.
        run_id: the run that it is for; None takes the one it finds.
        watch: hears what the planner reads and decides, and whether the run stalls.
        checker: makes what each record of `fleet` must pass, for one reading of the log.

    Raises:
        FencedError: a newer planner has taken over.
        RunExistsError: another run than `run_id` has this prefix.
        RunFailedError: the run ended short of its target; the text says what was missing.
        DivergedError: the decision log contradicts itself.
        What the bus raises.
    """
    watch = watch or Watch()
    place = Place(bus, clock, log, prefix, watch, checker, Refusals(watch, log))
    found = await _find_run(place, stop)
    if found is None:
        return
    require_run(run_id, found, prefix)
    name = f"{planner_id}.{uuid.uuid4().hex[:12]}"[:63]
    core, decisions, admitted = await _take_over(place, found, name)
    if core.ledger.ended is None:
        await _Session(place, core, decisions, found).work(stop, admitted)
    _raise_if_failed(core.ledger.ended)


def _raise_if_failed(ended: m.RunEnded | None) -> None:
    if ended is not None and ended.reason in ("stalled", "failed"):
        raise RunFailedError(
            f"the run {ended.run_id} {ended.reason} at version {ended.version}: {ended.detail}"
        )


async def _first_offset(place: Place, topic: Topic) -> int:
    ends = await place.bus.end_offsets(topic.full_name(place.prefix))
    return ends[0].first


async def _find_run(place: Place, stop: asyncio.Event) -> str | None:
    """The run of this prefix: named by its decisions, else by the first request; None on stop."""
    decisions = Mailbox(place.bus, place.prefix, DECISIONS, reader="planner")
    if await decisions.poll():
        return decisions.run_id
    place.log.info("run_awaited")
    # What is refused here is read again, and buried, once the run is known.
    fleet = place.heard(FLEET, await _first_offset(place, FLEET), bury_from=None)
    while not stop.is_set():
        fleet.run_id = None  # any run's letters, until one is asked for
        for letter in await _unless(stop, fleet.poll(READ_WAIT_S)) or []:
            if isinstance(letter.message, m.RunRequested):
                return letter.message.run_id
    return None


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result, or None where `stop` is set first."""
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


async def _take_over(
    place: Place, run_id: str, name: str
) -> tuple[PlannerCore, Mailbox, list[tuple[float, m.Decision]]]:
    """Open a new epoch; the core as of its record, the decisions from there on, and until then."""
    decisions = Mailbox(place.bus, place.prefix, DECISIONS, reader="planner", run_id=run_id)
    outbox = Outbox(place.bus, place.prefix, DECISIONS)
    fence = EpochFence()
    admitted: list[tuple[float, m.Decision]] = []
    while True:
        for letter in await decisions.drain():
            if isinstance(letter.message, m.Decision) and fence.admits(letter.message):
                admitted.append((letter.timestamp_s, letter.message))
        opened = [d for _, d in admitted if isinstance(d, m.EpochStarted)]
        if opened and opened[-1].planner_id == name:
            break
        if any(d.planner_id == name for d in opened):
            raise FencedError(f"planner {opened[-1].planner_id} has taken over")
        started = m.EpochStarted(
            run_id=run_id,
            epoch=fence.epoch + 1,
            fleet_offset=max((d.fleet_offset for _, d in admitted), default=0),
            at_s=place.clock.now(),
            planner_id=name,
        )
        await outbox.send(started)
    core = PlannerCore(run_id, fence.epoch, updates_topic=UPDATES.full_name(place.prefix))
    core.restore(admitted)
    place.log.info(
        "epoch_started",
        run_id=run_id,
        epoch=fence.epoch,
        planner_id=name,
        version=core.ledger.version,
        plans_open=len(core.ledger.open),
    )
    return core, decisions, admitted


class _Session:
    """One planner at work on one run."""

    def __init__(self, place: Place, core: PlannerCore, decisions: Mailbox, run_id: str) -> None:
        self._place, self._core = place, core
        self._log = place.log.bind(run_id=run_id)
        self._decisions = decisions
        self._outbox = Outbox(place.bus, place.prefix, DECISIONS)
        self._run_id = run_id
        self._warned_version = -1
        self._pending: list[m.Decision] = []

    async def work(self, stop: asyncio.Event, admitted: list[tuple[float, m.Decision]]) -> None:
        """Until the run has ended or `stop` is set.

        Args:
            stop: asks it to leave.
            admitted: the decisions so far, with their times.
        """
        fleet, heartbeats, models = await self._catch_up(admitted)
        reads = {
            "fleet": fleet,
            "heartbeats": heartbeats,
            "models": models,
            "decisions": self._decisions,
        }
        tasks: dict[str, asyncio.Future[Any]] = {}
        try:
            while self._core.ledger.ended is None and not stop.is_set():
                for name, mailbox in reads.items():
                    if name not in tasks:
                        tasks[name] = asyncio.ensure_future(mailbox.poll(READ_WAIT_S))
                if "stop" not in tasks:
                    tasks["stop"] = asyncio.ensure_future(stop.wait())
                await self._wait(tasks)
                for name in reads:
                    if name in tasks and tasks[name].done():
                        self._take(name, tasks.pop(name).result())
                await self._append()
        finally:
            await _cancel(list(tasks.values()))

    async def _wait(self, tasks: dict[str, asyncio.Future[Any]]) -> None:
        """Until something was read or time has something to say."""
        now = self._place.clock.now()
        pause_s = min(WAKE_MAX_S, max(WAKE_MIN_S, self._core.wake_at(now) - now))
        timer = asyncio.ensure_future(self._place.clock.sleep(pause_s))
        try:
            await asyncio.wait((*tasks.values(), timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    async def _catch_up(self, admitted: list[tuple[float, m.Decision]]) -> tuple[Mailbox, ...]:
        """Hear what was said so far; the mailboxes, at the ends of their logs."""
        place, core, watch = self._place, self._core, self._place.watch
        due = core.ledger.fleet_offset
        fleet = place.heard(FLEET, await _first_offset(place, FLEET), self._run_id, due)
        beats = await _first_offset(place, HEARTBEATS)
        heartbeats = place.heard(HEARTBEATS, beats, self._run_id, bury_from=None)
        models = await self._models()
        said, made = await fleet.drain(), await models.drain()
        for letter in said:
            watch.saw(letter.message, letter.timestamp_s)
        for at_s, decision in admitted:
            watch.saw(decision, at_s)
        for letter in made:
            watch.saw(letter.message, letter.timestamp_s)
        core.observe((each.timestamp_s, each.message) for each in said if each.offset < due)
        for letter in made:
            core.handle_model(letter.message, letter.timestamp_s)
        for letter in said:
            if letter.offset >= due:
                self._pending += core.handle(letter.offset, letter.message, letter.timestamp_s)
        for letter in await heartbeats.drain():
            core.handle_heartbeat(letter.message, letter.timestamp_s)
        core.resume(place.clock.now())
        await self._append()
        return fleet, heartbeats, models

    async def _models(self) -> Mailbox:
        place = self._place
        return Mailbox(
            place.bus,
            place.prefix,
            MODELS,
            reader="planner",
            run_id=self._run_id,
            offset=await _first_offset(place, MODELS),
        )

    def _take(self, name: str, letters: Sequence[Letter]) -> None:
        """Hand what was read to the core."""
        now = self._place.clock.now()
        for letter in letters:
            if name != "decisions":  # heard when they are appended
                self._place.watch.saw(letter.message, letter.timestamp_s)
            if name == "fleet":
                self._pending += self._core.handle(letter.offset, letter.message, now)
                if isinstance(letter.message, m.Report):  # or K updates might come to be K + 1
                    self._pending += self._core.advance(now)
            elif name == "heartbeats":
                self._core.handle_heartbeat(letter.message, now)
            elif name == "models":
                self._core.handle_model(letter.message, now)
            elif isinstance(letter.message, m.EpochStarted):
                self._check_epoch(letter.message)

    def _check_epoch(self, started: m.EpochStarted) -> None:
        if started.epoch > self._core.epoch:
            raise FencedError(
                f"planner {started.planner_id} has taken over the run {started.run_id} "
                f"(epoch {started.epoch}); this one leaves"
            )

    async def _append(self) -> None:
        """Advance the core, then append what it has decided."""
        now = self._place.clock.now()
        self._pending += self._core.advance(now)
        decisions, self._pending = self._pending, []
        await self._outbox.send(*decisions)
        for decision in decisions:
            self._tell(decision)
            self._place.watch.saw(decision, now)
        for event, fields in self._core.notices:
            self._log.warning(event, **fields)
        self._core.notices.clear()
        self._mind_stall(now)

    def _mind_stall(self, now: float) -> None:
        """Say once per version, by name, who is waited for; blocked until there is a new one."""
        version = self._core.ledger.version
        if not self._core.waits_long(now):
            self._place.watch.freed("run")
        elif version != self._warned_version:
            self._warned_version = version
            detail = self._core.waiting_for(now)
            self._place.watch.blocked("run", f"no version after {version}: {detail}")
            self._log.warning("run_stalled", version=version, detail=detail)

    def _tell(self, decision: m.Decision) -> None:
        """One line per decision that an operator may look for."""
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
