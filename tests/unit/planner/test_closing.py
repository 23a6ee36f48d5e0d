"""The closing rules on plain state, each against a case worked by hand."""

from dataclasses import replace
from typing import Any

import pytest

from cos2p.log.messages import Plan
from cos2p.run_config import LocalConfig, RoundConfig
from cos2p_planner.rules.closing import Closing, IdleDevice, OpenRound, PlanTerms, closing_of
from cos2p_planner.rules.pace import Pace
from cos2p_planner.state.arrivals import Arrivals
from cos2p_planner.state.device import Speed

INF = float("inf")


def rule(closing: str, local: dict[str, Any] | None = None, **rounds: Any) -> Closing:
    steps = LocalConfig.model_validate({"align_steps": False} | (local or {}))
    return closing_of(RoundConfig.model_validate({"closing": closing} | rounds), steps)


def state(**changes: Any) -> OpenRound:
    base = OpenRound(
        now=100.0,
        version=3,
        opened_s=95.0,
        update_count=0,
        open_count=0,
        trainable_count=10,
        pace=Pace(deadline_s=8.0, typical_s=4.0, aligned_s=8.0, intervals_s=()),
        arrivals=Arrivals(),
    )
    return replace(base, **changes)


# ---------------------------------------------------------------- semi-async


@pytest.mark.parametrize(
    ("devices", "needed"), [(0, 1), (1, 1), (2, 1), (3, 2), (5, 2), (8, 4), (16, 7)]
)
def test_a_share_of_the_devices_closes_a_version(devices: int, needed: int) -> None:
    semi = rule("semi-async", update_fraction=0.4)

    assert semi.reason(state(trainable_count=devices, update_count=needed - 1)) is None
    assert "count" == semi.reason(state(trainable_count=devices, update_count=needed))


def test_k_min_may_be_a_number() -> None:
    semi = rule("semi-async", update_count=6)

    assert semi.reason(state(update_count=5, trainable_count=2)) is None
    assert "count" == semi.reason(state(update_count=6, trainable_count=99))


def test_a_version_with_too_few_updates_closes_at_the_deadline() -> None:
    """Opened at 95, with a deadline of 8 s: at 103."""
    semi = rule("semi-async", update_count=4)
    low = state(update_count=3)

    assert semi.reason(replace(low, now=102.9)) is None
    assert 103.0 == semi.due_s(low)
    assert "deadline" == semi.reason(replace(low, now=103.0))


def test_the_deadline_never_closes_an_empty_version() -> None:
    semi = rule("semi-async")

    assert semi.reason(state(now=1e9)) is None
    assert semi.due_s(state()) == INF


def test_semi_async_plans_are_no_longer_than_their_updates_stay_fresh() -> None:
    """Four deadlines of 8 s before the pace is known: 15 steps of 2 s and 2 s beside them."""
    semi = rule("semi-async", local={"steps": 20})

    assert PlanTerms(15, 8.0) == semi.terms(Speed(2.0, 2.0), 1, state())


# ---------------------------------------------------------------- synchronous


def test_a_barrier_waits_for_every_plan_and_for_one_update() -> None:
    barrier = rule("synchronous")

    assert barrier.reason(state(update_count=9, open_count=1, now=1e9)) is None
    assert barrier.reason(state(update_count=0, open_count=0)) is None
    assert "all" == barrier.reason(state(update_count=1, open_count=0))
    assert barrier.due_s(state(update_count=9, open_count=1)) == INF


def test_behind_a_barrier_a_device_has_one_plan_for_each_version() -> None:
    barrier = rule("synchronous")
    open_round = state(update_count=1, open_count=2)

    assert barrier.may_get_plan(IdleDevice(joined_version=2, base_version=2), open_round)
    assert not barrier.may_get_plan(IdleDevice(joined_version=2, base_version=3), open_round)


def test_who_joins_a_barrier_late_waits_for_the_next_version() -> None:
    """Version 3 is closed, the next one open."""
    barrier = rule("synchronous")
    open_round = state(open_count=2)

    assert barrier.may_get_plan(IdleDevice(joined_version=2), open_round)
    assert not barrier.may_get_plan(IdleDevice(joined_version=3), open_round)


def test_if_every_plan_of_a_version_failed_all_are_asked_again() -> None:
    barrier = rule("synchronous")
    failed = state(update_count=0, open_count=0)

    assert barrier.may_get_plan(IdleDevice(joined_version=2, base_version=3), failed)
    assert barrier.may_get_plan(IdleDevice(joined_version=3), failed)


@pytest.mark.parametrize("closing", ["synchronous", "buffer"])
def test_published_rules_ask_the_slowest_for_all_steps(closing: str) -> None:
    assert 10 == rule(closing, local={"steps": 10}).terms(Speed(1e4, 1.0), 1, state()).steps


# ---------------------------------------------------------------- buffer


def test_a_buffer_closes_when_it_is_full_and_at_no_other_time() -> None:
    fedbuff = rule("buffer", update_count=3)

    assert fedbuff.reason(state(update_count=2, now=1e9)) is None
    assert "count" == fedbuff.reason(state(update_count=3))
    assert fedbuff.due_s(state(update_count=2)) == INF


def test_a_buffer_of_one_closes_at_each_arrival() -> None:
    assert "count" == rule("buffer", update_count=1).reason(state(update_count=1))


@pytest.mark.parametrize("closing", ["semi-async", "buffer"])
def test_who_has_answered_is_asked_again_at_once(closing: str) -> None:
    answered = IdleDevice(joined_version=3, base_version=3)

    assert rule(closing).may_get_plan(answered, state(update_count=1, open_count=5))


# ---------------------------------------------------------------- compass


class Bay:
    """Groups of arrival under the rule with Q_min 20 and Q_max 100, fed with its own orders."""

    def __init__(self) -> None:
        self.rule = rule("compass", local={"steps": 100, "steps_min": 20})
        self.arrivals = Arrivals()
        self.plans: list[Plan] = []

    def at(self, now: float, **changes: Any) -> OpenRound:
        return state(now=now, arrivals=self.arrivals, **changes)

    def plan(self, now: float, step_s: float, fixed_s: float = 0.0) -> Plan:
        number = len(self.plans) + 1
        order = self.rule.terms(Speed(step_s, fixed_s), number, self.at(now))
        plan = Plan(
            plan_id=f"p{number}",
            worker_id=f"w{number}",
            incarnation=1,
            base_version=0,
            trained=(0,),
            local_steps=order.steps,
            batch_size=1,
            learning_rate=1.0,
            seed=0,
            deadline_s=order.deadline_s,
            peak_bytes=0,
            group=order.group,
        )
        self.plans.append(plan)
        self.arrivals.issued(plan, now)
        return plan

    def update(self, plan: Plan, now: float) -> None:
        self.arrivals.ended(plan)
        self.arrivals.landed(plan, now)

    def lost(self, plan: Plan) -> None:
        self.arrivals.ended(plan)

    def reason(self, now: float) -> str | None:
        return self.rule.reason(self.at(now))

    def waits(self, plan: Plan, now: float) -> bool:
        return not self.rule.may_get_plan(IdleDevice(0, 0, plan.group), self.at(now))


def test_the_first_device_founds_a_group_with_most_steps() -> None:
    """100 steps of 1 s from 0: expected at 100, waited for until 150."""
    bay = Bay()

    founder = bay.plan(0.0, step_s=1.0)

    assert (100, 1, 150.0) == (founder.local_steps, founder.group, founder.deadline_s)


def test_a_slower_device_joins_with_the_steps_that_end_with_the_group() -> None:
    """At 10 there are 90 s left: 45 steps of 2 s; the group is waited for 140 s more."""
    bay = Bay()
    bay.plan(0.0, step_s=1.0)

    joined = bay.plan(10.0, step_s=2.0)

    assert (45, 1, 140.0) == (joined.local_steps, joined.group, joined.deadline_s)


def test_of_two_groups_the_one_with_more_steps_is_joined() -> None:
    """Expected at 100 and at 250 (the next test says why): at 20, 32 or 92 steps of 2.5 s."""
    bay = Bay()
    bay.plan(0.0, step_s=1.0)
    bay.plan(0.0, step_s=10.0)

    joined = bay.plan(20.0, step_s=2.5)

    assert (2, 92) == (joined.group, joined.local_steps)


def test_a_device_too_slow_for_a_group_founds_one_that_the_fast_may_meet() -> None:
    """20 steps of 10 s don't end by 100. The fastest of the first group, waited for until 150,
    may then do 100 steps of 1 s: 25 steps of 10 s end at 250 with them.
    """
    bay = Bay()
    bay.plan(0.0, step_s=1.0)

    slow = bay.plan(0.0, step_s=10.0)

    assert (25, 2, 1.5 * 250.0) == (slow.local_steps, slow.group, slow.deadline_s)


def test_a_device_too_fast_for_every_group_founds_one_with_most_steps() -> None:
    """100 steps of 0.1 s end at 10, long before 100."""
    bay = Bay()
    bay.plan(0.0, step_s=1.0)

    fast = bay.plan(0.0, step_s=0.1)

    assert (100, 2) == (fast.local_steps, fast.group)


def test_a_group_closes_when_all_of_it_has_arrived() -> None:
    bay = Bay()
    first, second = bay.plan(0.0, step_s=1.0), bay.plan(0.0, step_s=2.0)

    bay.update(first, 98.0)
    assert bay.reason(98.0) is None
    assert bay.waits(first, 98.0)
    bay.update(second, 99.0)

    assert "group" == bay.reason(99.0)
    assert not bay.waits(first, 99.0)


def test_a_group_is_not_waited_for_beyond_its_last_moment_and_the_late_come_with_the_next() -> None:
    """The first group is due at 100 and late at 150; the one founded then arrives at 250."""
    bay = Bay()
    first, late = bay.plan(0.0, step_s=1.0), bay.plan(0.0, step_s=2.0)
    bay.update(first, 100.0)

    assert bay.reason(149.9) is None
    assert 150.0 == bay.rule.due_s(bay.at(149.9))
    assert "group" == bay.reason(150.0)
    bay.arrivals.closed(150.0)
    again = bay.plan(150.0, step_s=1.0)
    bay.update(late, 160.0)

    assert bay.reason(160.0) is None
    assert not bay.waits(late, 160.0)
    bay.update(again, 250.0)
    assert "group" == bay.reason(250.0)


def test_a_member_that_is_lost_is_not_waited_for() -> None:
    bay = Bay()
    first, second = bay.plan(0.0, step_s=1.0), bay.plan(0.0, step_s=2.0)
    bay.update(first, 98.0)

    bay.lost(second)

    assert "group" == bay.reason(98.0)


def test_a_group_of_which_all_were_lost_closes_nothing_and_no_other_group_early() -> None:
    bay = Bay()
    lost = bay.plan(0.0, step_s=10.0)
    first, second = bay.plan(950.0, step_s=1.0), bay.plan(950.0, step_s=2.0)
    bay.lost(lost)

    assert bay.reason(951.0) is None
    bay.update(first, 1040.0)
    assert bay.reason(1040.0) is None
    bay.update(second, 1045.0)
    assert "group" == bay.reason(1045.0)


def test_devices_that_are_always_late_still_make_versions() -> None:
    """A late update waits in the buffer; the last moment of the next group merges it."""
    bay = Bay()
    first = bay.plan(0.0, step_s=1.0)
    bay.update(first, 200.0)
    assert bay.reason(200.0) is None

    bay.plan(200.0, step_s=1.0)

    assert bay.reason(349.0) is None
    assert "group" == bay.reason(350.0)


def test_a_device_of_unknown_speed_shows_it_with_fewest_steps_and_a_version_of_its_own() -> None:
    bay = Bay()

    order = bay.rule.terms(Speed(1.0, 0.0, known=False), 1, bay.at(0.0))
    assert (20, 0) == (order.steps, order.group)
    unknown = bay.plan(0.0, step_s=1.0).model_copy(update={"group": 0})
    bay.update(unknown, 5.0)

    assert "group" == bay.reason(5.0)


def test_short_plans_have_half_a_second_to_spare() -> None:
    bay = Bay()

    hasty = bay.plan(0.0, step_s=0.001)

    assert pytest.approx(0.1 + 0.5) == hasty.deadline_s


def test_what_a_plan_needs_beside_its_steps_is_counted_once() -> None:
    """At 0, 100 s to go: 10 s of fetching and sending, then 45 steps of 2 s."""
    bay = Bay()
    bay.plan(0.0, step_s=1.0)

    assert 45 == bay.plan(0.0, step_s=2.0, fixed_s=10.0).local_steps


def test_a_group_moves_the_model_by_its_share_of_the_devices() -> None:
    """Published is the sum of s(tau) * delta / n: a mean of 2 updates of 10 devices counts .2."""
    assert 0.2 == rule("compass").step(state(update_count=2, trainable_count=10))
    assert 1.0 == rule("buffer").step(state(update_count=2, trainable_count=10))
