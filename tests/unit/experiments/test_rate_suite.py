"""The rate check's suite file: that each cell is what the check takes it for."""

import math
from pathlib import Path

import pytest

from cos2p_experiments.fleets import fleet_named
from cos2p_experiments.rate_report import family_of
from cos2p_experiments.spec import CellSpec, prepare
from cos2p_experiments.suite import check, load_suite

FILE = Path(__file__).parents[3] / "experiments/rate.toml"
CELLS = load_suite(FILE).cells()
FIRST = [c for c in CELLS if c.seed == CELLS[0].seed]


def n_star(spec: CellSpec) -> int:
    return int(spec.setting.rpartition("-n")[2])


def test_it_is_a_grid_of_n_star_and_steps_for_two_splits() -> None:
    grid = {(family_of(c.setting), n_star(c), c.policy) for c in CELLS}

    assert grid == {
        (family, n, policy)
        for family in ("iid", "skewed")
        for n in (1, 2, 4, 6)
        for policy in ("e2", "e5", "e10")
    }


@pytest.mark.parametrize("spec", FIRST, ids=lambda s: f"{s.setting}-{s.policy}")
def test_learning_rate_steps_and_fleet_follow_from_the_label(spec: CellSpec) -> None:
    steps = int(spec.policy.removeprefix("e"))
    local = spec.changes["local"]
    fleet = fleet_named(spec.fleet)

    assert steps == local["steps"]
    expected = 1.2 * math.sqrt(n_star(spec) / (steps * spec.run["rounds"]["versions"]))
    assert pytest.approx(expected, abs=1e-4) == local["learning_rate"]
    assert n_star(spec) == math.floor(sum(map(fleet.budget, fleet.boards)) / 1.3 + 1e-9)


@pytest.mark.parametrize("spec", FIRST, ids=lambda s: f"{s.setting}-{s.policy}")
def test_what_the_cell_comes_to_is_what_the_bound_speaks_of(spec: CellSpec) -> None:
    """Asked of the settings that the run gets: a policy's preset wins over the suite's."""
    config = prepare(spec).config

    assert n_star(spec) == config.plans.coverage_floor
    plans = config.plans
    assert (0.0, 1.0, "none") == (plans.nested_depth, plans.growth.start, plans.importance)
    assert not config.local.align_steps
    assert (0.0, 0.0, 0.0) == (
        config.local.anchor.share,
        config.local.proximal,
        config.local.logit_adjustment,
    )
    assert ("synchronous", "sgd") == (config.rounds.closing, config.local.optimizer)


def test_every_cell_can_begin() -> None:
    check(tuple(FIRST))
