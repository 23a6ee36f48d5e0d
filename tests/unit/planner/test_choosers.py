"""Published rules of choosing units: index sets worked out by hand, and budgets that bind."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from any_table import tables
from hypothesis import given, settings
from hypothesis import strategies as st

from cos2p.model.cost import CostModel
from cos2p.model.nested import FRACTIONS
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.baselines import depth, width
from cos2p_planner.baselines.magnitude import MagnitudeRule
from cos2p_planner.baselines.policies import BASELINES, Policy, policy_named
from cos2p_planner.baselines.whole import SmallestRule, WholeRule
from cos2p_planner.baselines.width import SkippingWidthRule, WidthRule
from cos2p_planner.choosers.choice_request import ChoiceRequest, ChoiceRule

HEADS, NEURONS = 4, 3
UNIT_BYTES = 80
"""Every unit of the small table: 10 parameters, weights and gradients."""


def small_table(blocks: int = 2) -> UnitTable:
    """0 stem; block 0: 1 core, 2-5 heads, 6-8 neurons; block 1: 9, 10-13, 14-16; last classifier"""
    units = [Unit("stem", "core", -1, 10, 1, 0)]
    for b in range(blocks):
        units.append(Unit(f"{b}.core", "core", b, 10, 1, 0))
        units += [Unit(f"{b}.head{i}", "head", b, 10, 1, 0) for i in range(HEADS)]
        units += [Unit(f"{b}.neurons{i}", "neurons", b, 10, 1, 0) for i in range(NEURONS)]
    units.append(Unit("classifier", "core", -1, 10, 1, 0))
    return UnitTable(tuple(units))


def costs_of(blocks: int = 2) -> CostModel:
    return CostModel(small_table(blocks), slots=0, batch_size=1)


def request(unit_count: int, size: int = 18) -> ChoiceRequest:
    """A budget of so many units."""
    zeros = np.zeros(size)
    return ChoiceRequest(UNIT_BYTES * unit_count, zeros, zeros, zeros, phase=0, width_min=0.5)


def chosen(rule: ChoiceRule, question: ChoiceRequest) -> list[int]:
    choice = rule.choose(question)
    assert choice is not None
    return list(choice.trained)


def cores(*prunable: int) -> list[int]:
    """Two whole blocks' cores, the stem's, and these."""
    return sorted({0, 1, 9, 17, *prunable})


# ---------------------------------------------------------------- the whole model


def test_the_whole_model_or_nothing() -> None:
    rule = WholeRule(costs_of())

    assert list(range(18)) == chosen(rule, request(18))
    assert rule.choose(request(17)) is None
    assert 18 * UNIT_BYTES == rule.least_bytes


@pytest.mark.parametrize(
    ("smallest", "expected"),
    [
        (18, range(18)),
        (13, cores(2, 3, 6, 7, 10, 11, 14, 15)),  # rate 1/2 in both blocks
        (11, [0, 1, 2, 3, 4, 5, 6, 7, 8, 17]),  # one block, whole: two would be under half
        (8, [0, 1, 2, 3, 4, 6, 7, 17]),  # one block at 2/3
        (5, [0, 1, 2, 6, 17]),  # not even half of one block
    ],
)
def test_the_smallest_budget_is_everybodys_submodel(smallest: int, expected: Iterable[int]) -> None:
    budgets = (UNIT_BYTES * smallest, UNIT_BYTES * 18)

    for own in (smallest, 18):
        question = replace(request(own), fleet_budgets=budgets)
        assert list(expected) == chosen(SmallestRule(costs_of()), question)


# ---------------------------------------------------------------- width


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (8, cores(2, 6, 10, 14)),  # rate 1/4: 1 head, ceil(3/4) = 1 neuron group
        (11, cores(2, 3, 6, 10, 11, 14)),  # 1/3: 2 heads, 1 group; 10 units, 12 don't fit
        (12, cores(2, 3, 6, 7, 10, 11, 14, 15)),  # 1/2
        (15, cores(2, 3, 4, 6, 7, 10, 11, 12, 14, 15)),  # 2/3: 14 units, 16 don't fit
        (18, range(18)),
    ],
)
def test_heterofl_keeps_the_first_units_at_the_largest_rate_that_fits(
    budget: int, expected: Iterable[int]
) -> None:
    assert list(expected) == chosen(WidthRule(costs_of(), width.first), request(budget))


def test_heterofl_needs_every_block() -> None:
    rule = WidthRule(costs_of(), width.first)

    assert rule.choose(request(7)) is None
    assert 8 * UNIT_BYTES == rule.least_bytes


@pytest.mark.parametrize(
    ("budget", "heads", "groups"), [(9, 1, 1), (13, 2, 2), (15, 3, 2), (17, 3, 2), (18, 4, 3)]
)
def test_fjord_takes_the_largest_rate_of_its_grid(budget: int, heads: int, groups: int) -> None:
    """0.2 keeps 1 and 1, 0.4 keeps 2 and 2, 0.6 keeps 3 and 2, 0.8 and 1 all."""
    units = chosen(WidthRule(costs_of(), width.first, FRACTIONS), request(budget))

    expected = [*range(2, 2 + heads), *range(6, 6 + groups)]
    assert cores(*expected, *(u + 8 for u in expected)) == units


def test_fedrolex_moves_one_window_by_a_unit_per_version() -> None:
    rule = WidthRule(costs_of(), width.common_window)
    windows = [chosen(rule, replace(request(13), version=v, device=v)) for v in range(5)]

    assert cores(2, 3, 6, 7, 10, 11, 14, 15) == windows[0]
    assert cores(3, 4, 7, 8, 11, 12, 15, 16) == windows[1]
    assert cores(4, 5, 8, 6, 12, 13, 16, 14) == windows[2]
    assert cores(5, 2, 6, 7, 13, 10, 14, 15) == windows[3]
    assert cores(2, 3, 7, 8, 10, 11, 15, 16) == windows[4]


def test_staggered_windows_start_apart_and_move_by_their_own_width() -> None:
    """Device 1: phases 0.618 and 0.988, so heads begin at 2 and 3, neurons at 1 and 2."""
    rule = WidthRule(costs_of(), width.staggered_window)
    first, second = (
        chosen(rule, replace(request(13), device=1, choice=c, version=7)) for c in range(2)
    )

    assert cores(4, 5, 7, 8, 13, 10, 16, 14) == first
    assert cores(2, 3, 6, 7, 11, 12, 15, 16) == second


def test_a_device_too_small_for_a_part_of_every_block_may_move_over_the_depth_too() -> None:
    """Four blocks: 14 units are one of each everywhere, 12 two blocks at half, 7 one block."""
    rule = SkippingWidthRule(costs_of(4), width.staggered_window)

    def blocks(budget: int, choice: int, device: int = 0) -> list[int]:
        units = chosen(rule, replace(request(budget, 34), choice=choice, device=device))
        return sorted({(u - 1) // 8 for u in units} - {-1, 4})

    assert [0, 1, 2, 3] == blocks(14, 0)
    assert [[0, 1], [2, 3], [0, 1]] == [blocks(13, c) for c in range(3)]
    assert [2, 3] == blocks(13, 0, device=1)
    assert [[0], [1], [2], [3], [0]] == [blocks(7, c) for c in range(5)]
    assert 5 * UNIT_BYTES == rule.least_bytes
    assert chosen(WidthRule(costs_of(4), width.staggered_window), request(30, 34)) == chosen(
        rule, request(30, 34)
    )


def test_federated_dropout_draws_anew_for_each_plan_and_ring_from_the_runs_seed() -> None:
    rule = WidthRule(costs_of(), width.random_units(1))
    draws = [chosen(rule, replace(request(13), plan=p)) for p in range(1, 30)]

    for units in draws:
        kept = [sum(a <= u < b for u in units) for a, b in ((2, 6), (6, 9), (10, 14), (14, 17))]
        assert [2, 2, 2, 2] == kept
    assert 20 < len({tuple(d) for d in draws})
    assert any({u + 8 for u in d if 1 < u < 9} != {u for u in d if 9 < u < 17} for d in draws)
    assert draws[0] == chosen(WidthRule(costs_of(), width.random_units(1)), request(13))
    assert draws != [
        chosen(WidthRule(costs_of(), width.random_units(2)), replace(request(13), plan=p))
        for p in range(1, 30)
    ]


# ---------------------------------------------------------------- depth


@pytest.mark.parametrize(("budget", "blocks"), [(10, 1), (17, 1), (18, 2), (33, 3), (34, 4)])
def test_depthfl_keeps_the_first_blocks_whole(budget: int, blocks: int) -> None:
    rule = depth.depthfl(costs_of(4))

    assert [*range(1 + 8 * blocks), 33] == chosen(rule, request(budget, 34))
    assert rule.choose(request(9, 34)) is None


def test_scalefl_keeps_the_largest_of_four_levels() -> None:
    """Four blocks: depths ceil(4/3), 2, 3, 4; heads 2, 3, 3, 4; groups 2, 2, 3, 3."""
    rule = depth.scalefl(costs_of(4))

    def level(blocks: int, heads: int, groups: int) -> list[int]:
        inner = [0, *range(1, 1 + heads), *range(5, 5 + groups)]
        return [0, *(1 + 8 * b + u for b in range(blocks) for u in inner), 33]

    assert level(2, 2, 2) == chosen(rule, request(12, 34))
    assert level(2, 2, 2) == chosen(rule, request(13, 34))
    assert level(2, 3, 2) == chosen(rule, request(14, 34))
    assert level(3, 3, 3) == chosen(rule, request(33, 34))
    assert level(4, 4, 3) == chosen(rule, request(34, 34))
    assert rule.choose(request(11, 34)) is None


# ---------------------------------------------------------------- magnitude


def test_fiarse_keeps_the_largest_magnitudes_of_the_whole_model_with_their_cores() -> None:
    """Largest first: 14, 4, 15, 3. Two units of block 1, its core and the stem's two make five."""
    norms = np.arange(18, dtype=np.float64) / 100
    norms[[14, 4, 15, 3]] = 9, 8, 7, 6
    rule = MagnitudeRule(costs_of())

    assert [0, 9, 14, 17] == chosen(rule, replace(request(4), norms=norms))
    assert [0, 9, 14, 15, 17] == chosen(rule, replace(request(5), norms=norms))
    assert cores(4, 14) == chosen(rule, replace(request(6), norms=norms))
    assert cores(4, 14, 15, 3) == chosen(rule, replace(request(8), norms=norms))


def test_fiarse_compares_units_by_the_size_of_a_weight_not_of_a_unit() -> None:
    units = [
        Unit("stem", "core", -1, 10, 1, 0),
        Unit("core", "core", 0, 10, 1, 0),
        Unit("wide", "neurons", 0, 40, 1, 0),
        Unit("narrow", "neurons", 0, 10, 1, 0),
    ]
    costs = CostModel(UnitTable(tuple(units)), 0, 1)
    question = replace(request(6, 4), norms=np.array([0, 0, 1.9, 1.0]))

    assert [0, 1, 3] == chosen(MagnitudeRule(costs), question)


# ---------------------------------------------------------------- all rules


@pytest.mark.parametrize("policy", BASELINES, ids=lambda p: p.name)
@settings(max_examples=60, deadline=None)
@given(tables(), st.floats(0, 1), st.integers(0, 1000))
def test_no_rule_exceeds_the_budget_or_leaves_a_core_out(
    policy: Policy, table: UnitTable, fraction: float, seed: int
) -> None:
    costs = CostModel(table, 2, 8)
    rng = np.random.default_rng(seed)
    zeros = np.zeros(len(table))
    question = ChoiceRequest(
        budget_bytes=costs.memory_for_fraction(fraction),
        coverage=zeros,
        recency=zeros,
        value=zeros,
        phase=seed,
        width_min=0.5,
        device=int(rng.integers(0, 20)),
        choice=int(rng.integers(0, 20)),
        version=seed,
        plan=seed,
        norms=rng.random(len(table)),
    )
    rule = policy.chooser(costs, RunConfig(seed=seed))

    choice = rule.choose(question)

    if choice is None:
        assert question.budget_bytes < rule.least_bytes
    else:
        assert costs.peak_bytes(choice.trained) <= question.budget_bytes
        assert choice.trained == table.close(choice.trained)
        assert () == choice.frozen


def test_only_the_ceiling_leaves_budgets_unenforced() -> None:
    free = [p.name for p in BASELINES if not p.preset["plans"].get("enforce_memory", True)]

    assert ["fedavg-ideal"] == free
    assert "enforce_memory" not in policy_named("co-s2p").preset.get("plans", {})
