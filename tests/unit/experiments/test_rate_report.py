"""A rate suite's report: which cells make which point, and what its tables say."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_results import cell, study

from cos2p_experiments.rate_report import (
    LINE_POINTS,
    families,
    family_of,
    figure,
    points_table,
    slopes_table,
)
from cos2p_experiments.report import write_report
from cos2p_experiments.result import CellResult
from cos2p_experiments.study import Study
from cos2p_experiments.table import markdown


def result_of(setting: str, n_star: int, steps: int, seed: int, proxy: float) -> CellResult:
    found = cell(f"e{steps}", seed, (0.5,), setting=setting, coverage=(n_star,) * 4)
    rounds = tuple(replace(r, gradient_proxy=proxy, steps_mean=float(steps)) for r in found.rounds)
    return replace(found, rounds=rounds)


@pytest.fixture
def suite() -> Study:
    """IID data follow the rate, seeds a factor of 2 up and down; skewed data stay level."""
    cells = [
        result_of(f"{family}-n{n}", n, e, seed, level * noise)
        for family in ("iid", "skewed")
        for n in (1, 2, 4, 6)
        for e in (2, 5, 10)
        for level in (9 / math.sqrt(4 * n * e) if family == "iid" else 3.0,)
        for seed, noise in enumerate((2.0, 0.5))
    ]
    return study(cells, kind="rate", opponent=None)


@pytest.mark.parametrize(
    ("setting", "family"), [("iid-n4", "iid"), ("dir-0.1-n12", "dir-0.1"), ("plain", "plain")]
)
def test_a_familys_settings_differ_in_the_n_star_they_are_made_for(
    setting: str, family: str
) -> None:
    assert family == family_of(setting)


def test_each_family_has_its_slopes(suite: Study) -> None:
    rows = {(row[0], row[1]): row[3].value for row in slopes_table(suite).rows}

    assert [("iid", "N* E Q"), ("iid", "N*"), ("iid", "E")] == [k for k in rows if k[0] == "iid"]
    assert all(pytest.approx(-0.5) == v for k, v in rows.items() if k[0] == "iid")
    assert all(pytest.approx(0.0, abs=1e-9) == v for k, v in rows.items() if k[0] == "skewed")


def test_seeds_make_one_point(suite: Study) -> None:
    grid = families(suite)["iid"]

    assert [2] * 12 == [placed.used for placed in grid]
    first = grid[0].point
    assert first is not None
    assert pytest.approx(9 / math.sqrt(8)) == first.proxy


def test_cells_that_left_a_unit_out_are_counted_and_not_used(suite: Study) -> None:
    bare = cell("e2", 0, (0.5,), setting="iid-n1", coverage=(1, 0, 1, 1))
    cells = (bare, *suite.cells[1:])

    row = points_table(replace(suite, cells=cells)).rows[0]

    assert ("iid", "iid-n1", "e2", "1 of 2") == row[:4]


def test_a_suite_without_a_point_has_dashes_and_no_plot(suite: Study) -> None:
    bare = replace(suite, cells=(cell("e2", 0, (0.5,), setting="iid-n1", coverage=(0,)),))

    assert "| iid  | N* E Q       | -" in markdown(slopes_table(bare))
    assert None is figure(bare)


def test_a_familys_points_are_drawn_with_the_fitted_and_the_promised_line(suite: Study) -> None:
    drawn = figure(suite)

    assert drawn is not None
    for axes in drawn.axes:
        sizes = [np.size(line.get_xdata()) for line in axes.lines]
        assert (12, 2) == (sizes.count(1), sizes.count(LINE_POINTS))


def test_the_report_has_the_check_in_the_place_of_comparisons(suite: Study, tmp_path: Path) -> None:
    files = write_report(suite, tmp_path)

    assert ["report.md", "rate-slopes.csv", "rate.png", "rate-points.csv"] == [
        f.name for f in files
    ]
    assert "-0.50 ± 0.00" in files[0].read_text()
