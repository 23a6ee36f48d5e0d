"""Deadlines and steps: small pure rules."""

import pytest

from cos2p.run_config import LocalConfig, RoundConfig
from cos2p_planner.rules.pace import DEADLINE_FLOOR_S, Pace, deadline_s, steps_for
from cos2p_planner.state.device import Speed

ROUNDS = RoundConfig()
LOCAL = LocalConfig(steps=10, steps_min=2, align_steps=False)
INF = float("inf")


def pace(aligned_s: float = INF) -> Pace:
    return Pace(deadline_s=1.0, typical_s=1.0, aligned_s=aligned_s, intervals_s=())


def test_the_deadline_is_the_median_and_some_deviations() -> None:
    assert 4.0 + 3 * 2.0 == deadline_s([2.0, 4.0, 6.0, 4.0, 1.0, 9.0, 4.0])


def test_the_deadline_has_a_floor() -> None:
    assert DEADLINE_FLOOR_S == deadline_s([0.01, 0.01]) == deadline_s([])


def test_steps_shrink_only_as_far_as_the_limit_and_the_minimum_ask() -> None:
    speed = Speed(step_s=1.0, fixed_s=1.0)

    assert 10 == steps_for(speed, 11.0, pace(), LOCAL)
    assert 6 == steps_for(speed, 7.0, pace(), LOCAL)
    assert 2 == steps_for(speed, 0.1, pace(), LOCAL)
    assert 10 == steps_for(Speed(0.0, 0.0), 0.1, pace(), LOCAL)


def test_as_many_steps_as_fit_are_counted_as_one_would_by_hand() -> None:
    assert 3 == Speed(step_s=0.1, fixed_s=0.0).steps_in(0.3)
    assert 2 == Speed(step_s=2.0, fixed_s=1.0).steps_in(5.9)
    assert 0 == Speed(step_s=2.0, fixed_s=9.0).steps_in(5.0)


def test_aligned_steps_end_when_the_round_does() -> None:
    """Speeds 1, 2 and 4 s a step, half a second beside them, a round of 12.5 s."""
    local = LocalConfig(steps=4, steps_min=2, align_steps=True)
    speeds = [Speed(s, 0.5) for s in (1.0, 2.0, 4.0, 40.0)]

    assert [8, 6, 3, 2] == [steps_for(s, INF, pace(12.5), local) for s in speeds]


def test_aligned_steps_are_no_more_than_twice_e() -> None:
    local = LocalConfig(steps=5, align_steps=True)

    assert 10 == steps_for(Speed(1.0, 0.0), INF, pace(12.5), local)


def test_the_aligned_duration_does_not_follow_what_devices_do_last() -> None:
    """Else rounding down would shorten the round each time: plans of E steps need 10 s here."""
    first = Pace.of([10.0, 10.0], [10.0, 10.0], [])
    later = Pace.of([9.5, 9.5], [10.0, 10.0], [])

    assert first.aligned_s == later.aligned_s > later.deadline_s


def test_a_plan_may_last_some_deadlines_before_the_pace_is_known_and_then_some_versions() -> None:
    early = Pace.of([1.0, 1.0, 1.0], [], [1.0])
    known = Pace.of([1.0, 1.0, 1.0], [], [1.0, 2.0, 3.0])

    assert 4.0 == early.fresh_s(ROUNDS)
    assert pytest.approx(0.7 * 6 * 2.0) == known.fresh_s(ROUNDS)


def test_a_device_of_usual_speed_is_never_asked_for_fewer_steps() -> None:
    """However fast versions follow each other: else all would shrink, and nothing be won."""
    pace = Pace.of([5.0, 5.0, 5.0, 40.0], [], [0.01, 0.01, 0.01])

    assert 5.0 == pace.fresh_s(ROUNDS)
