"""Whatever happens, in whatever order: invariants of the log, and restarts that change nothing."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cos2p.log import messages as m
from cos2p.log.state_codec import pack
from cos2p.model.unit_wire import UnitScores
from cos2p_planner.core import PlannerCore
from cos2p_planner.fold import PlannerState

New = Callable[..., Any]
WORKERS = ("w1", "w2", "w3", "w4")
EVENTS = (
    *("done",) * 4,
    *("beat", "time") * 2,
    *("hello", "start", "damaged", "repeat", "goodbye", "publish", "request"),
)
FRACTIONS = (0.2, 0.4, 0.6, 1.0)
CONFIG: dict[str, Any] = {
    "rounds": {"versions": 12, "staleness_max": 2, "coverage_window": 2},
    "plans": {"hold_plans": 2, "coverage_floor": 2, "importance": "gate"},
}
LABELS: tuple[tuple[int, ...] | None, ...] = ((40, 30, 30), (99, 1, 0), None, (1, 1, 98))
"""Of each worker; scores of samples without such a label are refused."""
CLOSINGS: tuple[dict[str, Any], ...] = (
    {"closing": "semi-async"},
    {"closing": "synchronous"},
    {"closing": "buffer", "update_count": 2},
    {"closing": "compass", "staleness_max": 50},
)


def config_of(closing: int) -> dict[str, Any]:
    """The run's settings under one of the closing rules."""
    rounds = {**CONFIG["rounds"], **CLOSINGS[closing]}
    return {**CONFIG, "rounds": rounds, "local": {"align_steps": closing == 0}}


DAMAGES: tuple[dict[str, Any], ...] = (
    {"steps_done": 99},
    {"sample_count": 0},
    {"blob": {"byte_count": 3}},
    {"blob": {"partition": 77}},
    {"incarnation": 0},
    {"worker_id": "w1"},
    {"plan_id": "p777777"},
    {"status": "failed"},
    {"status": "abandoned"},
    {"status": "out_of_memory"},
)


class Chaos:
    """Random but seeded events on a stage."""

    def __init__(self, stage: Any, seed: int) -> None:
        self.stage = stage
        self.dice = random.Random(seed)
        self.incarnation = dict.fromkeys(WORKERS, 0)
        self.plans: list[m.Plan] = []

    def step(self, crash_share: float) -> None:
        survivors = self.dice.randrange(4) if self.dice.random() < crash_share else None
        stage, dice = self.stage, self.dice
        worker = dice.choice(WORKERS)
        event = dice.choice(EVENTS)
        stage.now += dice.choice((0.0, 0.01, 0.3))
        if event == "time":
            stage.tick(dice.choice((0.1, 1.0, 5.0)), survivors)
        elif event == "publish":
            self._publish()
        elif event == "beat":
            state = dice.choice(("idle", "training"))
            stage.hear(m.Heartbeat.model_validate(self._who(worker) | {"state": state}))
        else:
            message = self._message(event, worker)
            if message is not None:
                stage.deliver(message, survivors)
        self.plans += [d.plan for d in stage.decided(m.PlanIssued)[len(self.plans) :]]

    def _message(self, event: str, worker: str) -> m.Message | None:
        stage, dice = self.stage, self.dice
        if event == "request":
            found: m.Message = stage.fleet_log[0][1]
            return found
        if event in ("hello", "start"):
            self.incarnation[worker] += event == "start"
            return self._hello(worker)
        if event == "goodbye":
            return m.Goodbye.model_validate(self._who(worker))
        if event == "repeat":
            plan = dice.choice(self.plans) if self.plans else None
            return stage.report_of(plan) if plan else None
        plan_id = stage.core.ledger.open_of.get(worker)
        if plan_id is None:
            return None
        changes = dice.choice(DAMAGES) if event == "damaged" else {}
        plan = stage.core.ledger.open[plan_id]
        report: m.Report = stage.report_of(plan, scores=self._scores(plan), **dict(changes))
        return report

    def _scores(self, plan: m.Plan) -> UnitScores:
        gated = int(self.stage.table.gated[list(plan.trained)].sum())
        sums = np.array([[self.dice.random() for _ in range(3)] for _ in range(gated)], np.float32)
        by_label = LABELS[WORKERS.index(plan.worker_id)] is not None
        return UnitScores.of(sums, np.array([4, 3, 2]), by_label=by_label)

    def _who(self, worker: str) -> dict[str, Any]:
        return {"run_id": "run-1", "worker_id": worker, "incarnation": self.incarnation[worker]}

    def _hello(self, worker: str) -> m.Hello:
        whole = self.stage.costs.memory_for_fraction(FRACTIONS[WORKERS.index(worker)])
        memory = whole * self.dice.choice((99, 100, 101, 110)) // 100
        return m.Hello.model_validate(
            self._who(worker)
            | {"profile": {"memory_bytes": memory, "flops_per_s": 1e9}}
            | {"sample_count": 100, "units_digest": self.stage.table.digest}
            | {"label_counts": LABELS[WORKERS.index(worker)]}
        )

    def _publish(self) -> None:
        admitted = self.stage.decided(m.UpdateAdmitted)
        bad = [
            m.LeftOut(plan_id=d.plan_id, worker_id=d.worker_id, unit=0, reason="norm")
            for d in admitted[-1:]
            if self.dice.random() < 0.2
        ]
        self.stage.publish(self.stage.core.ledger.version, *bad)


def check_log(stage: Any) -> None:
    """The invariants of the decision log, read off the log alone."""
    version, ended = 0, False
    open_of: dict[str, str] = {}
    merged: set[str] = set()
    for _, d in stage.decision_log:
        assert not ended, f"{d} after the end"
        if isinstance(d, m.RoundClosed):
            version += 1
            assert version == d.version
        elif isinstance(d, m.PlanIssued):
            assert d.plan.worker_id not in open_of
            assert d.plan.base_version == version
            assert d.plan.trained == stage.table.close(d.plan.trained)
            open_of[d.plan.worker_id] = d.plan.plan_id
        elif isinstance(d, m.UpdateAdmitted):
            assert d.plan_id not in merged
            assert d.weight > 0
            merged.add(d.plan_id)
            del open_of[d.worker_id]
        elif isinstance(d, m.PlanCancelled) or (
            isinstance(d, m.UpdateRefused) and d.outcome is not m.Outcome.DUPLICATE
        ):
            assert open_of.pop(d.worker_id) == d.plan_id
        elif isinstance(d, m.RunEnded):
            ended = True
            assert not open_of
    assert set(open_of.values()) == set(stage.core.ledger.open)


@pytest.mark.parametrize("seed", range(60))
def test_every_plan_ends_once_and_versions_rise_by_one_whatever_comes(
    new_stage: New, seed: int
) -> None:
    """Bad reports, repeats, restarts of workers, silence, and a planner that dies in mid-append."""
    stage = new_stage(config_of(seed % 4))
    chaos = Chaos(stage, seed)
    for _ in range(100):
        chaos.step(crash_share=0.1)
    stage.deliver(m.StopRequested(run_id="run-1"))

    check_log(stage)
    assert stage.core.ledger.ended is not None
    assert all(1 == len(outcomes) for outcomes in stage.outcomes().values())


def state_of(core: PlannerCore) -> bytes:
    """What a snapshot of the core would hold."""
    return pack(PlannerState, core.known.state)


@pytest.mark.parametrize("seed", range(24))
def test_a_planner_restarted_after_any_event_knows_what_the_one_before_knew(
    new_stage: New, seed: int
) -> None:
    stage = new_stage(config_of(seed % 4))
    chaos = Chaos(stage, 1000 + seed)
    evaluated = m.Evaluated(
        run_id="run-1", evaluator_id="e", version=0, sample_count=1, loss=1.0, accuracy=0.5
    )
    for _ in range(60):
        chaos.step(crash_share=0.0)
        stage.now += 0.2
        stage.deliver(evaluated)
        before = state_of(stage.core)

        assert [] == stage.restart()
        assert before == state_of(stage.core)


@pytest.mark.parametrize("seed", range(12))
def test_a_snapshot_and_the_records_behind_it_make_the_state_of_the_whole_log(
    new_stage: New, seed: int
) -> None:
    """Taken at any event, packed, unpacked and continued to any later event."""
    stage = new_stage(config_of(seed % 4))
    chaos = Chaos(stage, 3000 + seed)
    taken = [stage.snapshot]
    for _ in range(40):
        chaos.step(crash_share=0.05)
        taken.append(stage.snapshot)

        since = stage.folded_to_the_end(chaos.dice.choice(taken))

        assert state_of(stage.folded_to_the_end()) == state_of(since)


@pytest.mark.parametrize("seed", range(12))
def test_the_live_state_is_the_fold_of_the_log(new_stage: New, seed: int) -> None:
    stage = new_stage(config_of(seed % 4))
    chaos = Chaos(stage, 4000 + seed)
    for _ in range(40):
        chaos.step(crash_share=0.0)
        live = state_of(stage.core)

        assert live == state_of(stage.folded_to_the_end())


@pytest.mark.parametrize("seed", range(8))
def test_the_decisions_name_whom_the_planner_gives_no_plans(new_stage: New, seed: int) -> None:
    stage = new_stage(config_of(seed % 4) | {"liveness": {"strikes_max": 1}})
    chaos = Chaos(stage, 2000 + seed)
    excluded: dict[str, str] = {}
    for _ in range(240):
        chaos.step(crash_share=0.05)
    for _, decision in stage.decision_log:
        if isinstance(decision, m.DeviceExcluded):
            excluded[decision.worker_id] = decision.reason
        elif isinstance(decision, m.DeviceAdmitted):
            del excluded[decision.worker_id]

    known = {d.worker_id: d.excluded for d in stage.core.fleet if d.excluded}
    assert known == excluded


def test_the_state_does_not_grow_with_the_log(new_stage: New) -> None:
    """Four devices, hundreds of versions: the same few kilobytes."""
    stage = new_stage({"rounds": {"versions": 100_000}})
    for worker in WORKERS:
        stage.hello(worker)

    def work(rounds: int) -> int:
        for _ in range(rounds):
            for worker in WORKERS:
                stage.report(stage.plan_of(worker))
            stage.publish(stage.core.ledger.version)
        return len(state_of(stage.core))

    early = work(20)
    late = work(100)

    assert late < 1.05 * early


def test_a_decision_lost_in_the_crash_is_made_again(new_stage: New) -> None:
    """The report's admission reached the log, the version and the next plan did not."""
    stage = new_stage()
    stage.hello("w1")
    plan = stage.plan_of("w1")

    made = stage.deliver(stage.report_of(plan), survivors=1)

    assert [m.UpdateAdmitted, m.RoundClosed, m.PlanIssued] == [type(d) for d in made]
    assert {"p000001": [m.Outcome.ACCEPTED], "p000002": []} == stage.outcomes()


def test_a_log_that_ends_a_plan_twice_is_named_as_damaged(stage: Any) -> None:
    from cos2p.errors import DivergedError

    stage.hello("w1")
    stage.report(stage.plan_of("w1"))
    stage.decision_log += [e for e in stage.decision_log if isinstance(e[1], m.UpdateAdmitted)]

    with pytest.raises(DivergedError, match="p000001"):
        stage.restart()
