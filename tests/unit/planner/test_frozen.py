"""Frozen prefixes: what a weak device runs forward only, so that it can train deep blocks."""

from collections.abc import Callable
from typing import Any

import numpy as np
from any_table import tables
from hypothesis import given, settings
from hypothesis import strategies as st

from cos2p.log import messages as m
from cos2p.model.cost import CostModel
from cos2p.model.units import UnitTable
from cos2p_planner.choosers.choice_request import ChoiceRequest
from cos2p_planner.choosers.frozen import FrozenPrefixRule
from cos2p_planner.choosers.knapsack import KnapsackRule

Tables = Callable[..., UnitTable]
New = Callable[..., Any]


def request(table: UnitTable, budget: int, seed: int) -> ChoiceRequest:
    coverage = np.random.default_rng(seed).integers(0, 5, len(table)).astype(np.float64)
    zeros = np.zeros(len(table))
    return ChoiceRequest(budget, coverage, zeros, zeros, phase=seed, width_min=0.5)


@settings(max_examples=150, deadline=None)
@given(tables(), st.floats(0, 1), st.integers(0, 1000))
def test_a_prefix_is_everything_before_the_first_trained_block_and_paid_for(
    table: UnitTable, fraction: float, seed: int
) -> None:
    costs = CostModel(table, 2, 8)
    rule = FrozenPrefixRule(costs)
    budget = costs.memory_for_fraction(fraction)

    choice = rule.choose(request(table, budget, seed))

    if choice is None:
        assert budget < costs.smallest_bytes
        return
    assert costs.peak_bytes(choice.trained, choice.frozen) <= budget
    assert table.close([*choice.trained, *choice.frozen]) == tuple(
        sorted([*choice.trained, *choice.frozen])
    )
    if choice.frozen:
        first = min(u for u in choice.trained if table.units[u].block >= 0)
        assert tuple(range(len(choice.frozen))) == choice.frozen
        assert table.units[len(choice.frozen)].block == table.units[first].block
        assert table.units[len(choice.frozen)].block > 0


def test_a_device_that_can_keep_all_blocks_freezes_nothing(vit: Tables) -> None:
    table = vit(4)
    costs = CostModel(table, 2, 32)
    question = request(table, costs.memory_for_fraction(0.7), seed=1)

    choice = FrozenPrefixRule(costs).choose(question)

    assert KnapsackRule(costs).choose(question) == choice


def test_the_blocks_that_others_cover_least_are_trained_over_a_frozen_prefix(vit: Tables) -> None:
    """Blocks 2 and 3 are wanted: the embedding, 0 and 1 are frozen, the head is trained."""
    table = vit(4)
    costs = CostModel(table, 2, 32)
    coverage = np.where(table.blocks >= 2, 0.0, 3.0)
    zeros = np.zeros(len(table))
    budget = costs.memory_for_fraction(0.4)

    choice = FrozenPrefixRule(costs).choose(
        ChoiceRequest(budget, coverage, zeros, zeros, 0, width_min=0.5)
    )

    assert choice is not None
    assert [-1, 0, 1] == np.unique(table.blocks[list(choice.frozen)]).tolist()
    assert [-1, 2, 3] == np.unique(table.blocks[list(choice.trained)]).tolist()
    assert "embed" == table.units[choice.frozen[0]].name
    assert "classifier" == table.units[choice.trained[-1]].name


def test_a_weak_device_trains_every_block_in_time_and_keeps_its_prefix_while_it_holds(
    new_stage: New, vit: Tables
) -> None:
    stage = new_stage({"plans": {"depth": "frozen-prefix", "hold_plans": 2}}, vit(4))
    stage.hello("weak", 0.3)
    for _ in range(40):
        stage.report(stage.plan_of("weak"))

    plans = [d.plan for d in stage.decided(m.PlanIssued)]
    trained = {stage.table.units[u].block for p in plans for u in p.trained}
    assert {-1, 0, 1, 2, 3} == trained
    assert any(p.frozen for p in plans)
    for first, second in zip(plans[::2], plans[1::2], strict=False):
        assert (first.trained, first.frozen) == (second.trained, second.frozen)
    for plan in plans:
        assert plan.peak_bytes == stage.costs.peak_bytes(plan.trained, plan.frozen)
        assert plan.peak_bytes <= stage.costs.memory_for_fraction(0.3)
