"""The plots: written, with a line for every policy, the same policy drawn the same everywhere."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_hex
from sample_results import cell, lifelike_study, study

from cos2p.history import charts
from cos2p_experiments import comparison, plots
from cos2p_experiments.measures import Axis
from cos2p_experiments.palette import styles

SETTING = "dirichlet-0.1"
SUITE = lifelike_study(seeds=2, settings=(SETTING,))


@pytest.mark.parametrize("axis", ["time", "bytes"])
def test_every_policy_has_one_curve_in_its_style(axis: Axis) -> None:
    figure = plots.accuracy(SUITE, SETTING, axis)

    assert figure is not None
    curves = [x for x in figure.axes[0].lines if np.size(x.get_xdata()) == plots.GRID_POINTS]
    expected = [s.colour for s in styles(SUITE).values()]
    assert expected == [to_hex(x.get_color()) for x in curves]


def test_every_policy_is_named_beside_its_curve_and_no_names_overlap() -> None:
    figure = plots.accuracy(SUITE, SETTING, "time")

    assert figure is not None
    names = [t for t in figure.axes[0].texts if t.get_text() in SUITE.policies]
    heights = sorted(t.get_position()[1] for t in names)
    assert sorted(SUITE.policies) == sorted(t.get_text() for t in names)
    assert all(b - a > 0.99 * plots.NAME_STEP for a, b in pairwise(heights))


def test_a_curve_is_the_mean_over_seeds_of_what_was_known() -> None:
    """Versions at 30, 60, 90 s; means .2, .4, .6 with half a difference of .1 between two seeds."""
    two = study([cell("co-s2p", 0, (0.1, 0.3, 0.5)), cell("co-s2p", 1, (0.3, 0.5, 0.7))])

    found = plots.mean_curve(two, "skewed", "co-s2p", "time")

    assert found is not None
    xs, means, sds = found
    assert (30.0, 90.0) == (xs[0], xs[-1])
    assert pytest.approx([0.2, 0.6]) == [means[0], means[-1]]
    assert pytest.approx(means[np.searchsorted(xs, 59.0)]) == 0.2
    assert pytest.approx(np.sqrt(0.02)) == sds[0]


def test_a_cell_that_ended_early_goes_on_level_to_the_horizon() -> None:
    found = plots.mean_curve(
        study([cell("co-s2p", 0, (0.4,)), cell("rolling")]), "skewed", "co-s2p", "time"
    )

    assert found is not None
    assert (90.0, 0.4) == (found[0][-1], found[1][-1])


def test_no_two_policies_look_alike() -> None:
    names = [f"form {i}" for i in range(40)]
    looks = styles(study([cell(name, base="co-s2p") for name in names]))

    assert 40 == len({(s.colour, s.line) for s in looks.values()})


def test_a_known_baseline_has_its_colour_in_any_suite() -> None:
    first = styles(study([cell("a", base="fjord")]))
    second = styles(study([cell(n) for n in ("co-s2p", "rolling", "x", "fedbuff", "fjord")]))

    assert first["a"].colour == second["fjord"].colour


def test_memory_has_a_forecast_and_a_measured_dot_for_every_class_and_policy() -> None:
    figure = plots.memory(SUITE, SETTING, ["co-s2p", "heterofl"])

    assert figure is not None
    dots = [x for x in figure.axes[0].lines if x.get_marker() == "o" and np.size(x.get_xdata())]
    assert 2 * 2 * 7 == len(dots)


def test_differences_have_a_line_and_a_dot_per_policy_and_horizon() -> None:
    opponent = "rolling-staggered"
    table = comparison.difference_table(SUITE, SETTING, opponent)
    rows = [(r[0], r[1:4]) for r in table.rows]

    figure = plots.differences(SUITE, rows, opponent, SETTING)

    assert figure is not None
    assert [13] * 3 == [len(axes.containers) for axes in figure.axes]


def test_a_gantt_has_a_row_for_every_device_of_both_cells() -> None:
    cells = [SUITE.of(SETTING, p)[0] for p in ("co-s2p", "heterofl")]

    figure = plots.gantt(cells)

    assert figure is not None
    for axes in figure.axes:
        bars = [path.get_extents() for found in axes.collections for path in found.get_paths()]
        assert set(range(16)) == {round(bar.y0 + 0.4) for bar in bars}


def test_coverage_shows_prunable_units_only_on_one_scale() -> None:
    cells = [SUITE.of(SETTING, p)[0] for p in ("co-s2p", "heterofl")]

    figure = plots.coverage(cells)

    assert figure is not None
    images = [axes.images[0] for axes in figure.axes[:2]]
    assert [(48, 40)] * 2 == [image.get_size() for image in images]
    assert images[0].get_clim() == images[1].get_clim()


def test_nothing_to_draw_is_no_plot() -> None:
    bare = replace(cell(), curve=(), segments=(), devices=())

    assert None is plots.accuracy(study([bare]), "skewed", "time")
    assert None is plots.memory(study([bare]), "skewed", ["co-s2p"])
    assert None is plots.gantt([bare])
    assert None is plots.differences(study([bare]), [("co-s2p", [None] * 3)], "x", "skewed")


def test_a_written_plot_is_an_image_as_wide_as_a_readme_with_the_same_bytes_each_time(
    tmp_path: Path,
) -> None:
    files = []
    for name in ("a.png", "b.png"):
        figure = plots.memory(SUITE, SETTING, ["co-s2p"])
        assert figure is not None
        files.append(charts.png(figure, tmp_path / name))

    assert 990 == matplotlib.image.imread(files[0]).shape[1]
    assert files[0].read_bytes() == files[1].read_bytes()
