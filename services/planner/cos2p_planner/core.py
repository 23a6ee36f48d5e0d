"""The planner's core: messages and time in, decisions out. No clock, chance, topics or logging.

Invariants:
- Versions rise by one. Every plan ends in exactly one outcome. A device has at most one open plan.
- A decision is a function of what is known (`fold.py`), of when each device was last heard, and of
  `now`. So a planner restarted from the log continues as the first would have.
- It is level-triggered. `handle` updates what is known and ends plans. `advance` brings the run to
  where it should be by now. Both may be called any number of times.
- A returned decision is already applied. A caller that fails to append it must stop.
"""

from typing import Literal

from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Outcome
from cos2p.log.topics import FLEET
from cos2p_planner.fold import RESTARTED, PlannerFold
from cos2p_planner.planning import issue
from cos2p_planner.rules.admission import judge, wrong_request
from cos2p_planner.rules.closing import IdleDevice, OpenRound
from cos2p_planner.rules.coverage_floor import FloorWatch
from cos2p_planner.rules.update_weight import weigh
from cos2p_planner.rules.waiting import waiting_for, why_expired
from cos2p_planner.state.device import Device
from cos2p_planner.state.fleet import Fleet
from cos2p_planner.state.ledger import Ledger
from cos2p_planner.state.run import Run

INF = float("inf")
SWEEP_S = 0.1
"""How often all devices are checked for silence. A large fleet sends messages more often."""


class PlannerCore:
    """Plans one run.

    Args:
        run_id: the run's id.
        epoch: this planner's epoch; written into every decision.
        updates_topic: full name of the topic that holds deltas.
        known: what is known of the run; None where nothing is.
    """

    def __init__(
        self, run_id: str, epoch: int, *, updates_topic: str, known: PlannerFold | None = None
    ) -> None:
        self.known = known or PlannerFold()
        self._run_id, self.epoch, self._updates_topic = run_id, epoch, updates_topic
        self._floor = FloorWatch()
        self._begun_s = self._heard_s = 0.0
        self._swept_s, self._silence_s, self._retry_s, self._due_s = -INF, INF, INF, INF
        self._advanced_s: float | None = None
        self._out: list[m.Decision] = []

    @property
    def ledger(self) -> Ledger:
        """The run, as its decisions define it."""
        return self.known.ledger

    @property
    def fleet(self) -> Fleet:
        """The devices that have sent a Hello."""
        return self.known.fleet

    # ------------------------------------------------------------ taking over

    def restore(self, letter: Letter) -> None:
        """Take a record that an earlier planner has answered, in canonical order.

        Raises:
            DivergedError: a decision contradicts the ones before it.
        """
        if letter.topic is FLEET:
            self._heard_s = max(self._heard_s, letter.timestamp_s)
        self.known.take(letter)

    def resume(self, now: float) -> None:
        """Begin to advance, after the log is folded and the newest heartbeats are taken.

        Silence since the newest record of any device proves nothing, because no planner listened.
        """
        self._begun_s = self._advanced_s = now
        self.fleet.shift_last_heard(max(0.0, now - self._heard_s))
        self.known.publications.resume(now)
        self.fleet.notices.clear()

    # ------------------------------------------------------------ working

    def handle(self, offset: int, message: m.Message, now: float) -> list[m.Decision]:
        """Take the fleet record at `offset`, and return the decisions made."""
        self._heard_s = max(self._heard_s, now)
        self.known.take_fleet(offset, message, now)
        if self.ledger.ended is None:
            if isinstance(message, m.RunRequested):
                self._start(message, now)
            elif isinstance(message, m.Report):
                self._answer(message, now)
            elif isinstance(message, m.Hello | m.Goodbye):
                self._end_void_plan(message.worker_id, now)
        return self._taken()

    def handle_heartbeat(self, message: m.Message, now: float) -> None:
        """Take a record of `heartbeats`: it shows which device is alive."""
        if isinstance(message, m.Heartbeat):
            self._heard_s = max(self._heard_s, now)
            self.fleet.heartbeat(message, now)

    def handle_model(self, message: m.Message, now: float) -> None:
        """Take a record of `models`: versions published, plans cut, units left out."""
        self.known.take_model(message, now)

    def advance(self, now: float) -> list[m.Decision]:
        """Bring the run to where it should be at `now`, and return the decisions made."""
        run = self.ledger.run
        if run is None or self.ledger.ended is not None:
            return self._taken()
        self._discount_own_downtime(run, now)
        if self.known.stop_reason is not None:
            self._finish("stopped", self.known.stop_reason, now)
            return self._taken()
        self._expire(run, now)
        self._judge_devices(now)
        trainable = self._trainable(run, now)
        state = self._close_round(run, trainable, now)
        if run.progress(self.ledger.version, now) >= 1:
            self._finish("target", "", now)
        elif now - self._progress_s >= run.config.liveness.stall_after_s:
            self._finish("stalled", self.waiting_for(now), now)
        else:
            self._issue(run, trainable, state)
        return self._taken()

    def waiting_for(self, now: float) -> str:
        """Describe what the next version is waiting for, by name."""
        return waiting_for(self.ledger, self.fleet, self.known.publications, now)

    def waits_long(self, now: float) -> bool:
        """Return whether a version takes so long that the operator must be warned."""
        run = self.ledger.run
        if run is None or self.ledger.ended is not None:
            return False
        return now - self._progress_s >= run.config.liveness.patience_s

    def wake_at(self, now: float) -> float:
        """Return the next time at which `advance` may have work although no record arrives."""
        run = self.ledger.run
        if run is None or self.ledger.ended is not None:
            return now + 1.0
        liveness = run.config.liveness
        times = [self._progress_s + liveness.stall_after_s]
        times.append(max(now + 0.1, self._progress_s + liveness.patience_s))
        if self.ledger.open:
            times.append(max(self._silence_s, self._swept_s + SWEEP_S))
        return min(*times, self._retry_s, self._due_s, run.ends_s)

    # ------------------------------------------------------------ knowledge

    @property
    def _progress_s(self) -> float:
        return max(self.ledger.progress_s, self._begun_s)

    def _discount_own_downtime(self, run: Run, now: float) -> None:
        """Forgive the fleet's silence after this planner was suspended and did not listen."""
        before = now if self._advanced_s is None else self._advanced_s
        self._advanced_s = now
        if now - before > run.config.liveness.lost_after_s / 2:
            self.fleet.shift_last_heard(now - before)

    def _trainable(self, run: Run, now: float) -> list[Device]:
        lost_after_s = run.config.liveness.lost_after_s
        return [d for d in self.fleet if d.can_train(now, lost_after_s)]

    # ------------------------------------------------------------ decisions

    def _decide(self, now: float, kind: type[m.Decision], **fields: object) -> None:
        stamp = {
            "run_id": self._run_id,
            "epoch": self.epoch,
            # Folds apply a decision after the fleet records below this offset.
            "fleet_offset": self.ledger.fleet_offset,
            "at_s": now,
        }
        decision = kind.model_validate(stamp | fields)
        self.known.apply(decision)
        self._out.append(decision)

    def _taken(self) -> list[m.Decision]:
        taken, self._out = self._out, []
        return taken

    def _start(self, request: m.RunRequested, now: float) -> None:
        if self.ledger.run is not None:
            self.fleet.notices.append(
                ("run_request_ignored", {"reason": "this prefix already runs a run"})
            )
            return
        wrong = wrong_request(request)
        if wrong:
            self._end_run("failed", wrong, now)
            return
        self._decide(
            now,
            m.RunStarted,
            config=request.config,
            task=request.task,
            units=request.units,
            checkpoint=request.checkpoint,
        )

    def _answer(self, report: m.Report, now: float) -> None:
        run = self.ledger.run
        if run is None:
            return
        device = self.fleet.get(report.worker_id)
        verdict = judge(report, self.ledger, run, device, self._updates_topic)
        if verdict.outcome is Outcome.ACCEPTED:
            self._admit(run, report, verdict.staleness, now)
        else:
            self._decide(
                now,
                m.UpdateRefused,
                plan_id=report.plan_id,
                worker_id=report.worker_id,
                outcome=verdict.outcome,
                reason=verdict.reason[:2000],
            )

    def _admit(self, run: Run, report: m.Report, staleness: int, now: float) -> None:
        assert report.blob is not None
        weight = weigh(report.sample_count, report.steps_done, staleness, run.config)
        self._decide(
            now,
            m.UpdateAdmitted,
            plan_id=report.plan_id,
            worker_id=report.worker_id,
            blob=report.blob,
            weight=weight.weight,
            scale=weight.scale,
            staleness=staleness,
            steps_done=report.steps_done,
        )

    def _cancel(
        self,
        plan: m.Plan,
        outcome: Literal[Outcome.EXPIRED, Outcome.CANCELLED],
        reason: str,
        now: float,
    ) -> None:
        self._decide(
            now,
            m.PlanCancelled,
            plan_id=plan.plan_id,
            worker_id=plan.worker_id,
            outcome=outcome,
            reason=reason[:2000],
        )

    def _end_void_plan(self, worker_id: str, now: float) -> None:
        """Cancel a plan whose incarnation has been replaced or has left."""
        plan = self.ledger.open.get(self.ledger.open_of.get(worker_id, ""))
        device = self.fleet.get(worker_id)
        if plan is None or device is None:
            return
        if device.incarnation > plan.incarnation:
            self._cancel(plan, Outcome.CANCELLED, RESTARTED, now)
        elif device.gone is not None and device.incarnation == plan.incarnation:
            self._cancel(plan, Outcome.CANCELLED, f"the worker left: {device.gone}", now)

    def _expire(self, run: Run, now: float) -> None:
        if 0 <= now - self._swept_s < SWEEP_S:
            return
        self._swept_s = now
        busy = self.ledger.open_of
        heard_s = min((d.heard_s for d in self.fleet if d.worker_id in busy), default=now)
        self._silence_s = heard_s + run.config.liveness.lost_after_s
        for plan in list(self.ledger.open.values()):
            self._end_void_plan(plan.worker_id, now)
            device = self.fleet.get(plan.worker_id)
            heard_s = self._begun_s if device is None else device.heard_s
            reason = why_expired(plan, self.ledger, device, heard_s, self.known.publications, now)
            if reason and plan.plan_id in self.ledger.open:
                self._cancel(plan, Outcome.EXPIRED, reason, now)

    def _judge_devices(self, now: float) -> None:
        """Exclude devices that can't get plans, and admit those that can again."""
        for device in self.fleet.unsettled():
            worker_id, reason = device.worker_id, device.objection[:2000]
            if reason:
                self._decide(now, m.DeviceExcluded, worker_id=worker_id, reason=reason)
            else:
                self._decide(now, m.DeviceAdmitted, worker_id=worker_id)

    def _close_round(self, run: Run, trainable: list[Device], now: float) -> OpenRound:
        """Close the open version if it is time; return the round that is open then."""
        assert self.known.rules is not None
        closing = self.known.rules.closing
        state = OpenRound.of(self.ledger, run, trainable, now)
        reason = closing.reason(state)
        if reason is None:
            return state
        step = closing.step(state)
        self._decide(now, m.RoundClosed, reason=reason, step=step, **state.figures(run, trainable))
        progress = run.progress(self.ledger.version, now)
        self.fleet.notices += self._floor.closed(run, trainable, progress)
        return OpenRound.of(self.ledger, run, trainable, now)

    def _issue(self, run: Run, trainable: list[Device], state: OpenRound) -> None:
        assert self.known.rules is not None
        closing, now = self.known.rules.closing, state.now
        liveness = run.config.liveness
        there = self.fleet.present(now, liveness.lost_after_s)
        if not self.ledger.plan_count and there < liveness.min_workers:
            return
        idle = [d for d in trainable if d.worker_id not in self.ledger.open_of]
        self._retry_s = min((d.not_before_s for d in idle if d.not_before_s > now), default=INF)
        ready = [d for d in idle if d.not_before_s <= now]
        recipients = [
            d for d in ready if closing.may_get_plan(IdleDevice.of(d, self.ledger), state)
        ]
        if closing.fastest_first:
            recipients.sort(key=lambda d: d.whole_s)
        for plan in issue(recipients, trainable, state, self.known.rules, self.ledger, self.fleet):
            self._decide(now, m.PlanIssued, plan=plan)
        self._due_s = closing.due_s(state)

    def _finish(
        self, reason: Literal["target", "stopped", "stalled"], detail: str, now: float
    ) -> None:
        reasons = {"target": "the run has reached its end", "stopped": "the run was stopped"}
        for plan in list(self.ledger.open.values()):
            self._cancel(plan, Outcome.CANCELLED, reasons.get(reason, "the run stalled"), now)
        self._end_run(reason, detail, now)

    def _end_run(
        self, reason: Literal["target", "stopped", "stalled", "failed"], detail: str, now: float
    ) -> None:
        self._decide(
            now,
            m.RunEnded,
            version=self.ledger.version,
            reason=reason,
            detail=detail[:2000],
        )
