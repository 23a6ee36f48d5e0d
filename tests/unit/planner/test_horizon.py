"""A run may be given time instead of versions."""

from collections.abc import Callable
from typing import Any

import pytest

from cos2p.log import messages as m

New = Callable[..., Any]
HORIZON = {"rounds": {"versions": 1000, "horizon_s": 20.0}}


def test_a_run_ends_at_its_horizon(new_stage: New) -> None:
    stage = new_stage(HORIZON)
    stage.hello("w1")

    stage.pass_time(19, "w1")
    assert [] == stage.decided(m.RunEnded)

    stage.pass_time(2, "w1")
    assert ["target"] == [d.reason for d in stage.decided(m.RunEnded)]


def test_the_planner_wakes_for_the_horizon(new_stage: New) -> None:
    stage = new_stage(HORIZON)
    started = stage.now

    assert started + 20.0 >= stage.core.wake_at(stage.now + 19.95)


def test_the_schedule_follows_time_where_versions_are_slow(new_stage: New, the_only: Any) -> None:
    stage = new_stage(HORIZON | {"local": {"learning_rate": 1.0, "learning_rate_final": 0.5}})
    stage.hello("w1")
    stage.pass_time(10, "w1")

    plan = the_only(stage.report(stage.plan_of("w1")), m.PlanIssued).plan

    assert pytest.approx(0.5, abs=0.06) == plan.progress
    assert pytest.approx(0.75, abs=0.05) == plan.learning_rate


def test_the_schedule_follows_versions_where_they_are_fast(new_stage: New, the_only: Any) -> None:
    stage = new_stage({"rounds": {"versions": 4, "horizon_s": 1e6}})
    stage.hello("w1")

    plan = the_only(stage.report(stage.plan_of("w1")), m.PlanIssued).plan

    assert 0.25 == plan.progress


def test_a_restarted_planner_keeps_the_horizon(new_stage: New) -> None:
    stage = new_stage(HORIZON)
    stage.hello("w1")
    stage.pass_time(12, "w1")
    stage.restart()

    stage.pass_time(9, "w1")

    assert 1 == len(stage.decided(m.RunEnded))
