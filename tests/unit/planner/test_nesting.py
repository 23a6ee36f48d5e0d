"""The nested part: what it is worth, who gets it, and that the rest still rotates."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from planned_fleet import PlannedRun

from cos2p import messages as m
from cos2p.units import UnitTable
from cos2p_planner.nesting import WEIGHT, nested_value

Tables = Callable[..., UnitTable]
LARGE, TINY = 0.75, 0.2
"""Shares of the prunable cost: of more than the nested part of all blocks, and of less."""


def named(table: UnitTable, values: Sequence[float]) -> dict[str, float]:
    return {u.name: round(float(v), 6) for u, v in zip(table.units, values, strict=True) if v}


def test_the_first_units_of_each_kind_are_worth_more_than_all_devices_and_early_blocks_most(
    vit: Tables,
) -> None:
    """Two blocks of 4 heads and 4 groups: 0.4 of four is two, rounded."""
    table = vit(2, groups=4)
    first, last = 3 * WEIGHT * 2, 3 * WEIGHT

    found = named(table, nested_value(table, 0.4, device_count=3).tolist())

    nested = ("head0", "head1", "neurons0", "neurons1")
    assert found == {
        **{f"b0.{name}": pytest.approx(first) for name in nested},
        **{f"b1.{name}": pytest.approx(last) for name in nested},
    }


def test_a_share_of_nothing_nests_nothing_and_of_little_one_unit(vit: Tables) -> None:
    table = vit(1)

    assert {} == named(table, nested_value(table, 0.0, device_count=3).tolist())
    assert {"b0.head0", "b0.neurons0"} == {
        name
        for name, value in named(table, nested_value(table, 0.01, device_count=1).tolist()).items()
        if value >= WEIGHT
    }


@pytest.fixture
def played(vit: Tables) -> PlannedRun:
    """Six devices that hold the nested part of all blocks, two that hold little."""
    devices = [(LARGE, 1.0)] * 6 + [(TINY, 0.5)] * 2
    plans: dict[str, Any] = {"nested_share": 0.4, "block_width_min": 0.25, "hold_plans": 1}
    rounds = {"versions": 60, "staleness_max": 50}  # no submodel is shrunk for its time
    run = PlannedRun(vit(6), devices, {"rounds": rounds, "plans": plans})
    run.play()
    return run


def plans_of(run: PlannedRun, worker_ids: Sequence[str]) -> list[set[int]]:
    return [
        set(d.plan.trained)
        for d in run.decisions
        if isinstance(d, m.PlanIssued) and d.plan.worker_id in worker_ids
    ]


def nested_units(table: UnitTable) -> set[int]:
    return set(np.flatnonzero(nested_value(table, 0.4, device_count=1) >= WEIGHT).tolist())


def test_whoever_can_holds_the_nested_part_of_every_block_always(played: PlannedRun) -> None:
    nested = nested_units(played.table)

    found = plans_of(played, [f"w{i:02d}" for i in range(6)])

    assert len(found) > 50
    assert all(nested <= units for units in found)


def test_what_they_hold_beyond_it_rotates_over_all_other_units(played: PlannedRun) -> None:
    rest = set(np.flatnonzero(played.table.prunable).tolist()) - nested_units(played.table)

    found = plans_of(played, [f"w{i:02d}" for i in range(6)])

    assert rest == set().union(*found) & rest
    assert all(units & rest for units in found)


def test_a_device_too_small_for_that_takes_the_first_blocks(played: PlannedRun) -> None:
    blocks = [
        sorted({played.table.units[u].block for u in units} - {-1})
        for units in plans_of(played, ["w06", "w07"])
    ]

    assert len(blocks) > 10
    assert all(found == list(range(len(found))) and 0 < len(found) < 6 for found in blocks)
