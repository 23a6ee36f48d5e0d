"""The coverage floor: its prices, what the planner says of it, and that it holds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from planned_fleet import JETSON16_WEAK, PlannedRun

from cos2p.log import messages as m
from cos2p.model.basket import Choice
from cos2p.model.cost import CostModel
from cos2p.model.units import UnitTable
from cos2p_planner.state.holdings import Holdings
from cos2p_planner.state.prices import PENALTY, STEP, FloorPrices

Tables = Callable[..., UnitTable]
New = Callable[..., Any]


def test_prices_rise_with_each_choice_that_leaves_a_unit_short_and_fall_when_it_is_not() -> None:
    prices = FloorPrices(2, np.array([True, True, True, False]))
    enough = np.full(4, 2.0)

    prices.step(np.array([0, 2, 5, 0]), share_sum=2.5)
    assert [2 * STEP, 0, 0, 0] == prices.of(enough).tolist()
    prices.step(np.array([1, 2, 1, 0]), share_sum=2.5)
    assert [3 * STEP, 0, STEP, 0] == pytest.approx(prices.of(enough).tolist())
    prices.step(np.array([4, 2, 2, 0]), share_sum=2.5)
    assert [STEP, 0, STEP, 0] == pytest.approx(prices.of(enough).tolist())


def test_a_unit_that_the_others_leave_short_is_worth_the_penalty_at_once() -> None:
    prices = FloorPrices(3, np.ones(3, np.bool_))
    prices.step(np.full(3, 3), share_sum=9.0)

    assert [PENALTY, 0, 2 * PENALTY] == prices.of(np.array([2.0, 3.0, 1.0])).tolist()


def test_the_penalty_outweighs_whatever_values_differ_by() -> None:
    prices = FloorPrices(1, np.ones(2, np.bool_))
    prices.step(np.ones(2, np.int64), share_sum=9.0)

    assert [PENALTY + 50, 0] == prices.of(np.array([0.0, 1.0]), spread=50.0).tolist()


def test_the_floor_is_never_over_what_the_devices_hold_together() -> None:
    prices = FloorPrices(5, np.ones(2, np.bool_))
    prices.step(np.zeros(2, np.int64), share_sum=1.9)

    assert 1 == prices.due
    assert [STEP, STEP] == prices.of(np.ones(2)).tolist()


def test_without_a_floor_nothing_has_a_price() -> None:
    prices = FloorPrices(0, np.ones(2, np.bool_))
    prices.step(np.zeros(2, np.int64), share_sum=9.0)

    assert [0, 0] == prices.of(np.zeros(2)).tolist()


def test_a_device_in_trouble_counts_for_no_floor_until_its_next_plan(vit: Tables) -> None:
    table = vit(2)
    costs = CostModel(table, 2, 32)
    whole = Choice(tuple(range(len(table))))
    holdings = Holdings(costs, coverage_floor=2)
    others = np.full(len(table), 1.0)

    def highest_price(worker: str) -> float:
        holdings.issue(worker, whole)
        return float(holdings.prices.of(others).max())

    assert 0 == highest_price("w1")  # one device can hold everything once
    assert PENALTY == highest_price("w2")
    holdings.release("w1")
    holdings.release("w1")
    assert 0 == highest_price("w3") - PENALTY
    assert [whole] * 3 == [holdings.held(w)[0] for w in ("w1", "w2", "w3")]
    holdings.release("w3")
    holdings.issue("w4", Choice(costs.smallest))
    assert 0 == holdings.prices.of(others).max()


def released(holdings: Holdings, fewer: Choice) -> None:
    holdings.release("w1")
    holdings.release("w1")
    holdings.issue("w4", fewer)


def changed(holdings: Holdings, fewer: Choice) -> None:
    holdings.issue("w1", fewer)


@pytest.mark.parametrize("give_up", [released, changed])
def test_a_unit_that_a_device_gives_up_gains_price_with_that_very_choice(
    vit: Tables, give_up: Callable[[Holdings, Choice], None]
) -> None:
    costs = CostModel(vit(2), 2, 32)
    holdings = Holdings(costs, coverage_floor=2)
    units = tuple(range(len(costs.table)))
    given_up = int(np.flatnonzero(costs.table.prunable)[-1])
    whole, fewer = Choice(units), Choice(tuple(u for u in units if u != given_up))
    for worker, choice in {"w1": whole, "w2": whole, "w3": fewer}.items():
        holdings.issue(worker, choice)
    enough = np.full(len(units), 2.0)
    assert 0 == holdings.prices.of(enough).max()

    give_up(holdings, fewer)

    assert {given_up: STEP} == {u: p for u, p in enumerate(holdings.prices.of(enough)) if p}


def refused(outcome: m.Outcome) -> Callable[[Any], Any]:
    status = {m.Outcome.CANCELLED: "failed", m.Outcome.INVALID: "done"}[outcome]
    return lambda stage: stage.report(stage.plan_of("w1"), status=status, steps_done=0)


@pytest.mark.parametrize(
    ("end", "holders"),
    [
        (lambda stage: stage.pass_time(16, "w2"), ["w2"]),
        (lambda stage: stage.goodbye("w1"), ["w2"]),
        (refused(m.Outcome.CANCELLED), ["w2"]),
        (refused(m.Outcome.INVALID), ["w1", "w2"]),
        (lambda stage: stage.report(stage.plan_of("w1")), ["w1", "w2"]),
    ],
    ids=["silent", "left", "failed", "refused", "updated"],
)
def test_a_device_counts_for_the_floor_until_its_plan_ends_without_an_answer(
    new_stage: New, end: Callable[[Any], Any], holders: list[str]
) -> None:
    stage = new_stage({"rounds": {"update_fraction": 1.0}})
    stage.hello("w1")
    stage.hello("w2")

    end(stage)

    assert holders == sorted(stage.core.ledger.run.holdings.state.present)


# ---------------------------------------------------------------- what the planner says


def floor_events(stage: Any) -> list[str]:
    found = [event for event, _ in stage.core.fleet.notices if event.startswith("coverage")]
    stage.core.fleet.notices.clear()
    return found


def test_a_floor_over_the_budgets_is_told_once_with_the_figures_and_the_units(
    new_stage: New,
) -> None:
    stage = new_stage({"plans": {"coverage_floor": 3}})
    stage.hello("w1", 0.6)
    stage.hello("w2", 0.6)
    for _ in range(3):
        stage.report(stage.plan_of("w1"))

    [(event, fields)] = [n for n in stage.core.fleet.notices if n[0].startswith("coverage")]
    assert "coverage_short" == event
    assert "the 2 devices that can train make 1.2" in fields["reason"]
    assert "held 1 times at most" in fields["reason"]
    assert "(0)" in fields["units"] or "(1)" in fields["units"]
    assert "coverage_floor is 3" in stage.core.waiting_for(stage.now)


def test_a_fleet_that_grows_until_the_floor_is_met_says_so(new_stage: New) -> None:
    stage = new_stage({"plans": {"coverage_floor": 2}, "rounds": {"update_count": 1}})
    stage.hello("w1", 1.0)
    stage.report(stage.plan_of("w1"))
    assert ["coverage_short"] == floor_events(stage)
    stage.hello("w2", 1.0)
    stage.report(stage.plan_of("w1"))
    assert ["coverage_floor_met"] == floor_events(stage)
    stage.report(stage.plan_of("w1"))
    assert [] == floor_events(stage)
    assert "coverage_floor" not in stage.core.waiting_for(stage.now)


def test_a_version_tells_how_many_devices_hold_every_unit(new_stage: New) -> None:
    stage = new_stage({"rounds": {"update_count": 1}})
    for worker in ("w1", "w2", "w3"):
        stage.hello(worker, 1.0)
    stage.report(stage.plan_of("w1"))
    stage.goodbye("w3")
    stage.report(stage.plan_of("w1"))

    assert [3, 2] == [d.coverage_planned for d in stage.decided(m.RoundClosed)]


# ---------------------------------------------------------------- what it is worth


def skewed(table: UnitTable) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Squared scores that all devices agree on and that differ a lot."""
    return np.exp(2 * np.random.default_rng(1).standard_normal((len(table), 10)))


@pytest.mark.parametrize("kind", ["vit", "cnn"])
def test_rotation_alone_merges_every_unit_often_enough_in_every_window(
    vit: Tables, cnn: Tables, kind: str
) -> None:
    """The issue's goal: N* over 70 % of floor(sum r), here of 7, in windows of four versions."""
    table = (vit if kind == "vit" else cnn)(6)
    run = PlannedRun(table, JETSON16_WEAK, {"rounds": {"versions": 40}})
    run.play()

    assert 7 == run.bound
    assert 0.7 * run.bound <= min(run.merged_in_windows(first=6))


def test_importance_alone_breaks_the_goal_and_the_floor_keeps_it(vit: Tables) -> None:
    table = vit(6)
    least = {}
    for floor in (0, 5):
        plans = {"importance": "gate", "importance_weight": 12.0, "coverage_floor": floor}
        run = PlannedRun(
            table,
            JETSON16_WEAK,
            {"rounds": {"versions": 60}, "plans": plans},
            scores=skewed(table),
        )
        run.play()
        planned = [c.coverage_planned for c in run.closed[12:]]
        least[floor] = min(planned), min(run.merged_in_windows(first=12))

    assert max(least[0]) < 5
    assert min(least[5]) >= 5
