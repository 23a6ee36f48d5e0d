"""The core under each closing rule: who is planned when, and what closes."""

from collections.abc import Callable
from typing import Any

import pytest

from cos2p.log import messages as m
from cos2p.log.messages import Outcome

New = Callable[..., Any]
Only = Callable[..., Any]
BARRIER = {"rounds": {"closing": "synchronous"}}


def issued(decisions: list[m.Decision]) -> list[str]:
    """Whose plans these are."""
    return [d.plan.worker_id for d in decisions if isinstance(d, m.PlanIssued)]


@pytest.fixture
def barrier(new_stage: New) -> Any:
    """Three devices with a plan each, a second ago, behind a barrier."""
    stage = new_stage(BARRIER | {"liveness": {"min_workers": 3}})
    for worker in ("w1", "w2", "w3"):
        stage.hello(worker)
    stage.tick(1.0)
    return stage


# ---------------------------------------------------------------- synchronous


def test_behind_a_barrier_the_last_answer_closes_the_version_and_all_are_asked_again(
    barrier: Any, the_only: Only
) -> None:
    for worker in ("w1", "w2"):
        decided = barrier.report(barrier.plan_of(worker))
        assert [m.UpdateAdmitted] == [type(d) for d in decided]

    decided = barrier.report(barrier.plan_of("w3"))

    closed = the_only(decided, m.RoundClosed)
    assert (1, "all", 3) == (closed.version, closed.reason, closed.update_count)
    assert ["w1", "w2", "w3"] == issued(decided)


def test_a_barrier_waits_however_long_the_slowest_takes(barrier: Any) -> None:
    for worker in ("w1", "w2"):
        barrier.report(barrier.plan_of(worker))

    assert [] == barrier.pass_time(100.0, "w1", "w2", "w3")


def test_no_update_behind_a_barrier_is_ever_stale(new_stage: New) -> None:
    stage = new_stage({"rounds": {"closing": "synchronous", "staleness_max": 0}})
    for worker in ("w1", "w2"):
        stage.hello(worker)
    for _ in range(5):
        stage.tick(1.0)
        for worker in ("w2", "w1"):
            if worker in stage.core.ledger.open_of:
                stage.report(stage.plan_of(worker))

    admitted = stage.decided(m.UpdateAdmitted)
    assert 5 <= len(admitted)
    assert {0} == {d.staleness for d in admitted}
    assert [] == stage.decided(m.UpdateRefused)


def test_a_device_that_falls_silent_is_not_waited_for_longer_than_that(
    barrier: Any, the_only: Only
) -> None:
    for worker in ("w1", "w2"):
        barrier.report(barrier.plan_of(worker))

    decided = barrier.pass_time(20.0, "w1", "w2")

    assert (Outcome.EXPIRED, "w3") == (
        (cancelled := the_only(decided, m.PlanCancelled)).outcome,
        cancelled.worker_id,
    )
    assert 2 == the_only(decided, m.RoundClosed).update_count
    assert ["w1", "w2"] == issued(decided)


def test_a_device_that_joins_late_is_planned_with_the_next_version(barrier: Any) -> None:
    assert [] == issued(barrier.hello("w4"))
    for worker in ("w1", "w2"):
        barrier.report(barrier.plan_of(worker))

    decided = barrier.report(barrier.plan_of("w3"))

    assert {"w1", "w2", "w3", "w4"} == set(issued(decided))


def test_a_worker_restarted_within_a_version_waits_for_the_next(barrier: Any) -> None:
    assert [] == issued(barrier.hello("w3", incarnation=2))
    barrier.report(barrier.plan_of("w1"))

    decided = barrier.report(barrier.plan_of("w2"))

    assert {"w1", "w2", "w3"} == set(issued(decided))


def test_a_failed_plan_counts_as_an_answer_and_not_as_an_update(
    barrier: Any, the_only: Only
) -> None:
    for worker in ("w1", "w2"):
        barrier.report(barrier.plan_of(worker))

    decided = barrier.report(barrier.plan_of("w3"), status="out_of_memory")

    assert 2 == the_only(decided, m.RoundClosed).update_count
    assert {"w1", "w2", "w3"} == set(issued(decided))


def test_a_version_to_which_nobody_brought_an_update_is_asked_for_again(barrier: Any) -> None:
    for worker in ("w1", "w2", "w3"):
        decided = barrier.report(barrier.plan_of(worker), status="failed")
    assert [] == issued(decided)

    decided = barrier.pass_time(1.0, "w1", "w2", "w3", step_s=0.1)

    assert {"w1", "w2", "w3"} == set(issued(decided))
    assert [] == barrier.decided(m.RoundClosed)


def test_behind_a_barrier_the_slow_do_all_steps(new_stage: New) -> None:
    stage = new_stage(BARRIER | {"liveness": {"min_workers": 2}})
    stage.hello("fast")
    stage.hello("slow", flops_per_s=1e5)

    assert stage.config.local.steps == stage.plan_of("slow").local_steps


def test_a_planner_that_dies_while_it_asks_the_fleet_asks_the_rest(barrier: Any) -> None:
    """The version is closed and one of three plans is in the log."""
    for worker in ("w1", "w2"):
        barrier.report(barrier.plan_of(worker))

    made = barrier.deliver(barrier.report_of(barrier.plan_of("w3")), survivors=3)

    assert ["w1", "w2", "w3"] == issued(made)


# ---------------------------------------------------------------- semi-async


def test_with_aligned_steps_all_arrive_at_about_the_same_time(new_stage: New) -> None:
    local = {"align_steps": True, "steps": 10, "steps_min": 2}
    stage = new_stage({"local": local, "liveness": {"min_workers": 4}})
    speeds = {"w1": 2e8, "w2": 1.6e8, "w3": 1.3e8, "w4": 1e8}
    for worker, flops_per_s in speeds.items():
        stage.hello(worker, 0.5, flops_per_s=flops_per_s)

    durations = []
    for worker in speeds:
        plan, device = stage.plan_of(worker), stage.core.fleet.get(worker)
        step_s = device.forecast_s / stage.config.local.steps
        durations.append(plan.local_steps * step_s)

    assert len({stage.plan_of(w).local_steps for w in speeds}) > 2
    assert max(durations) < 1.2 * min(durations)


# ---------------------------------------------------------------- buffer


def test_with_a_buffer_of_one_each_update_makes_a_version(new_stage: New) -> None:
    stage = new_stage({"rounds": {"closing": "buffer", "update_count": 1, "staleness_max": 99}})
    for worker in ("w1", "w2"):
        stage.hello(worker)
    late = stage.plan_of("w2")
    for _ in range(8):
        stage.report(stage.plan_of("w1"))
    stage.report(late)

    assert [1] * 9 == [d.update_count for d in stage.decided(m.RoundClosed)]
    assert 8 == stage.decided(m.UpdateAdmitted)[-1].staleness


# ---------------------------------------------------------------- compass


@pytest.fixture
def compass(new_stage: New) -> Any:
    """Two devices with the speeds of 1 and 2 s a step, known after their first plans."""
    stage = new_stage(
        {
            "rounds": {"closing": "compass", "staleness_max": 99},
            "local": {"steps": 50, "steps_min": 10},
        }
    )
    for worker in ("slow", "fast"):
        stage.hello(worker, 0.5)
    assert [10, 10] == [stage.plan_of(w).local_steps for w in ("slow", "fast")]
    stage.pass_time(10.0, "slow", "fast")
    stage.report(stage.plan_of("fast"), train_s=10.0)
    stage.pass_time(10.0, "slow", "fast")
    return stage


def test_the_first_update_of_a_device_is_a_version_and_its_next_plan_founds_a_group(
    compass: Any,
) -> None:
    [closed] = compass.decided(m.RoundClosed)
    founder = compass.plan_of("fast")

    assert ("group", 1) == (closed.reason, closed.update_count)
    assert (3, 50) == (founder.group, founder.local_steps)
    assert pytest.approx(1.5 * 50.0) == founder.deadline_s


def test_devices_of_a_group_do_the_steps_that_end_together_and_close_the_version(
    compass: Any, the_only: Only
) -> None:
    """At 20 the fast one's group is due at 60: 20 steps of 2 s. It then waits for the slow one."""
    compass.report(compass.plan_of("slow"), train_s=20.0)
    fast, slow = compass.plan_of("fast"), compass.plan_of("slow")
    assert (fast.group, 20) == (slow.group, slow.local_steps)

    compass.pass_time(40.0, "slow", "fast")
    early = compass.report(fast, train_s=50.0)
    decided = compass.report(slow, train_s=40.0)

    assert [m.UpdateAdmitted] == [type(d) for d in early]
    closed = the_only(decided, m.RoundClosed)
    assert ("group", 2, 1.0) == (closed.reason, closed.update_count, closed.step)
    assert ["fast", "slow"] == issued(decided)


def test_a_group_that_is_late_closes_without_its_last_member_who_comes_with_the_next(
    compass: Any, the_only: Only
) -> None:
    """The group was founded at 10 with 75 s to its last moment."""
    compass.report(compass.plan_of("slow"), train_s=20.0)
    late = compass.plan_of("slow")
    compass.pass_time(40.0, "slow", "fast")
    compass.report(compass.plan_of("fast"), train_s=50.0)

    assert [] == compass.pass_time(24.9, "slow", "fast")
    assert compass.core.wake_at(compass.now) <= compass.now + 0.2
    closed = the_only(compass.pass_time(0.2, "slow", "fast"), m.RoundClosed)
    assert ("group", 1, 0.5) == (closed.reason, closed.update_count, closed.step)
    decided = compass.report(late, train_s=60.0)
    assert [m.UpdateAdmitted, m.PlanIssued] == [type(d) for d in decided]


def test_a_restarted_planner_knows_the_groups(compass: Any) -> None:
    compass.report(compass.plan_of("slow"), train_s=20.0)
    fast, slow = compass.plan_of("fast"), compass.plan_of("slow")
    compass.pass_time(40.0, "slow", "fast")
    compass.report(fast, train_s=50.0)

    assert [] == compass.restart()
    decided = compass.report(slow, train_s=40.0)

    assert ["group"] == [d.reason for d in decided if isinstance(d, m.RoundClosed)]
