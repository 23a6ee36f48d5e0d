"""The order of the depth: which blocks come first, which still wait, and that the rest rotates."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from planned_fleet import PlannedRun
from pydantic import ValidationError

from cos2p.log import messages as m
from cos2p.model.units import UnitTable
from cos2p.run_config import GrowthConfig
from cos2p_planner.choosers.nesting import WEIGHT, first_blocks, nested_value, waiting

Tables = Callable[..., UnitTable]
LARGE, SMALL, TINY = 0.75, 0.5, 0.2
"""Shares of the prunable cost of a model of six blocks: four blocks whole, three, and one."""
WHOLE_BLOCKS: dict[str, Any] = {"block_width_min": 1.0, "hold_plans": 1}


def blocks_of(table: UnitTable, units: Sequence[int]) -> list[int]:
    return sorted({table.units[u].block for u in units} - {-1})


def test_units_of_the_first_blocks_are_worth_more_than_all_devices_and_early_ones_most(
    vit: Tables,
) -> None:
    table = vit(3)

    found = nested_value(table, 0.5, device_count=3)

    assert {0: 3 * WEIGHT * 3, 1: 3 * WEIGHT * 2, 2: 0.0} == {
        block: found[table.prunable & (table.blocks == block)].min() for block in range(3)
    }
    assert 0.0 == found[~table.prunable].max()


def test_no_depth_nests_nothing(vit: Tables) -> None:
    assert 0.0 == nested_value(vit(3), 0.0, device_count=3).max()


@pytest.mark.parametrize(
    ("share", "blocks"), [(0.01, 1), (1 / 6, 1), (0.17, 2), (0.5, 3), (1.0, 6)]
)
def test_a_share_of_the_depth_is_rounded_up_to_whole_blocks(
    vit: Tables, share: float, blocks: int
) -> None:
    assert blocks == first_blocks(vit(6), share)


def test_the_first_block_and_the_stem_never_wait(vit: Tables) -> None:
    table = vit(4)

    assert {1, 2, 3} == set(table.blocks[waiting(table, 1e-9)].tolist())
    assert not waiting(table, 1.0).any()


def test_what_is_in_play_grows_in_a_line_until_it_is_all() -> None:
    growth = GrowthConfig(start=0.2, since=0.3, until=0.7)

    shares = [growth.share_at(p) for p in (0.0, 0.3, 0.5, 0.7, 0.9)]

    assert [0.2, 0.2, 0.6, 1.0, 1.0] == pytest.approx(shares)


def test_growth_may_be_a_step_but_not_end_before_it_begins() -> None:
    step = GrowthConfig(start=0.2, since=0.4, until=0.4)

    assert (0.2, 1.0) == (step.share_at(0.39), step.share_at(0.4))
    with pytest.raises(ValidationError, match="before it begins"):
        GrowthConfig(since=0.5, until=0.4)


def test_without_growth_all_is_in_play_from_the_start() -> None:
    assert 1.0 == GrowthConfig(start=1.0).share_at(0.0)


def played(table: UnitTable, shares: Sequence[float], plans: dict[str, Any]) -> PlannedRun:
    rounds = {"versions": 60, "staleness_max": 50}  # no submodel is shrunk for its time
    run = PlannedRun(
        table, [(s, 1.0) for s in shares], {"rounds": rounds, "plans": WHOLE_BLOCKS | plans}
    )
    run.play()
    return run


def plans_of(run: PlannedRun, worker_ids: Sequence[str]) -> list[m.Plan]:
    issued = [d.plan for d in run.decisions if isinstance(d, m.PlanIssued)]
    return [plan for plan in issued if plan.worker_id in worker_ids]


LARGE_ONES = [f"w{i:02d}" for i in range(6)]


@pytest.fixture
def nested(vit: Tables) -> PlannedRun:
    """Six devices that hold more than the two nested blocks, two that hold one block."""
    return played(vit(6), [LARGE] * 6 + [TINY] * 2, {"nested_depth": 2 / 6})


def test_whoever_can_holds_the_nested_blocks_always(nested: PlannedRun) -> None:
    found = [blocks_of(nested.table, p.trained) for p in plans_of(nested, LARGE_ONES)]

    assert len(found) > 50
    assert all(blocks[:2] == [0, 1] for blocks in found)


def test_what_they_hold_beyond_them_rotates_over_all_other_blocks(nested: PlannedRun) -> None:
    found = [set(blocks_of(nested.table, p.trained)) for p in plans_of(nested, LARGE_ONES)]

    assert {2, 3, 4, 5} == set().union(*found) - {0, 1}
    assert all(blocks - {0, 1} for blocks in found)


def test_a_device_too_small_for_them_takes_the_first_blocks(nested: PlannedRun) -> None:
    found = [blocks_of(nested.table, p.trained) for p in plans_of(nested, ["w06", "w07"])]

    assert len(found) > 10
    assert all([0] == blocks for blocks in found)


@pytest.fixture
def grown(vit: Tables) -> PlannedRun:
    """Blocks that rotate from the start, in a model that grows over the first half of the run."""
    growth = {"start": 0.1, "since": 0.0, "until": 0.5}
    return played(vit(6), [LARGE] * 4 + [SMALL] * 4, {"nested_depth": 1 / 6, "growth": growth})


def in_play(run: PlannedRun, plan: m.Plan) -> float:
    return run.config.plans.growth.share_at(plan.progress)


def test_no_submodel_is_larger_than_the_share_that_is_in_play(grown: PlannedRun) -> None:
    plans = plans_of(grown, LARGE_ONES)

    assert all(
        grown.costs.peak_bytes(p.trained)
        <= max(grown.costs.smallest_bytes, grown.costs.memory_for_fraction(in_play(grown, p)))
        for p in plans
    )


def test_blocks_that_wait_are_in_no_submodel(grown: PlannedRun) -> None:
    late = [
        (plan, set(plan.trained) & set(np.flatnonzero(waiting(grown.table, in_play(grown, plan)))))
        for plan in plans_of(grown, LARGE_ONES)
    ]

    assert len({in_play(grown, plan) for plan, _ in late}) > 10
    assert [] == [plan for plan, units in late if units]


def test_in_the_end_devices_hold_what_their_memory_allows_and_every_block_is_held(
    grown: PlannedRun,
) -> None:
    last = [p for p in plans_of(grown, LARGE_ONES) if p.progress > 0.6]

    assert {4} == {len(blocks_of(grown.table, p.trained)) for p in last if p.worker_id == "w00"}
    assert {*range(6)} == {b for p in last for b in blocks_of(grown.table, p.trained)}


def test_a_floor_asks_nothing_of_blocks_that_wait(vit: Tables) -> None:
    growth = {"start": 0.1, "since": 0.0, "until": 0.9}
    run = played(vit(6), [LARGE] * 6, {"coverage_floor": 2, "growth": growth})

    first = [p for p in plans_of(run, LARGE_ONES) if in_play(run, p) < 1 / 6]

    assert len(first) >= 6
    assert {(0,)} == {tuple(blocks_of(run.table, p.trained)) for p in first}
    assert "coverage_short" not in {event for event, _ in run.core.fleet.notices}
