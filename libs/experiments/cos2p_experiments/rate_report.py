"""The rate check of a suite: its slopes and its points as tables, and a plot of both.

Each setting of a rate suite is one fleet. It is named FAMILY-nN, where N is the N* that the fleet
is made for. Each form of a policy is one E.

Invariants: a point is what its cells measured, not what they were made for. Cells without N* or
proxy are counted next to their point.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cos2p.history.charts import GREY, INK, sheet, styled
from cos2p_experiments.palette import KNOWN, OPPONENT, OURS
from cos2p_experiments.rate import PROMISED, Point, Slope, fit_rate, mean_point, point_of
from cos2p_experiments.study import Study
from cos2p_experiments.table import Column, Table

COLOURS = (KNOWN["federated-dropout"], OURS, OPPONENT, KNOWN["heterofl"], KNOWN["fedrolex"])
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_POINTS = 50
REGRESSORS = {"product": "N* E Q", "n_star": "N*", "steps": "E"}
POINT = ("n_star", "steps", "versions", "proxy", "noise")


@dataclass(frozen=True)
class Placed:
    """A point of a family's grid.

    Attributes:
        cells: the number of cells.
        used: the number of cells that have an N* and a proxy.
        point: the mean of the used cells; None without any.
    """

    setting: str
    policy: str
    cells: int
    used: int
    point: Point | None


def family_of(setting: str) -> str:
    """Return the family of a setting's label: ``iid`` for ``iid-n4``."""
    return re.sub(r"-n\d+$", "", setting)


def families(study: Study) -> dict[str, list[Placed]]:
    """Return each family's grid, in the suite's order."""
    found: dict[str, list[Placed]] = {}
    for setting in study.suite.settings:
        for policy in study.present(setting):
            cells = list(study.of(setting, policy).values())
            points = [p for cell in cells if (p := point_of(cell)) is not None]
            mean = mean_point(points) if points else None
            placed = Placed(setting, policy, len(cells), len(points), mean)
            found.setdefault(family_of(setting), []).append(placed)
    return found


def slopes_table(study: Study) -> Table:
    """Return the table of slopes, with a row for each family and slope."""
    rows: list[tuple[object, ...]] = []
    for family, grid in families(study).items():
        found = fit_rate([g.point for g in grid if g.point is not None])
        rows += [
            (family, REGRESSORS[name], slope.count, slope, slope.verdict)
            for name, slope in found.items()
        ] or [(family, REGRESSORS["product"], None, None, None)]
    columns = (
        Column("family", "data"),
        Column("on", "slope on log"),
        Column("points", "points"),
        Column("slope", "slope", _slope, ("value", "half_width")),
        Column("verdict", f"against {PROMISED}"),
    )
    notes = (
        "Least squares of log(mean |D|² / (lr E)²) on log(N* E Q), and on log N* and log E "
        "together; 95 % t intervals over the grid's points, each the mean of its seeds.",
        "The rate is an upper bound: as promised or faster is consistent with it, and no proof; "
        "the proxy holds the updates' noise, which alone would give -1.",
    )
    return Table("rate-slopes", "Slopes", columns, tuple(rows), notes)


def points_table(study: Study) -> Table:
    """Return the table of points, with a row for each point."""
    rows = tuple(
        (
            family,
            g.setting,
            g.policy,
            f"{g.used} of {g.cells}",
            *(getattr(g.point, name, None) for name in POINT),
        )
        for family, grid in families(study).items()
        for g in grid
    )
    columns = (
        Column("family", "data"),
        Column("setting", "setting"),
        Column("policy", "policy"),
        Column("cells", "cells used"),
        Column("n_star", "N*", lambda v: f"{v:.2f}"),
        Column("steps", "E", lambda v: f"{v:.1f}"),
        Column("versions", "Q", lambda v: f"{v:.0f}"),
        Column("proxy", "mean proxy", lambda v: f"{v:.4g}"),
        Column("noise", "noise in it", lambda v: f"{100 * v:.0f} %"),
    )
    notes = (
        "N* is the harmonic mean over versions of the least merged updates of any unit; a cell in "
        "which it was ever 0 is not used.",
        "Noise: share of |D|² that is the updates' variance, dispersion / (N* - 1); not known for "
        "one update.",
    )
    return Table("rate-points", "Points", columns, rows, notes)


@styled
def figure(study: Study) -> Figure | None:
    """Draw the points with fitted and promised line, one panel a family; None without a point.

    The colour is E, the shape is the merged N* (rounded), the wedge is the slope's 95 % interval.
    """
    grids = {
        name: points
        for name, grid in families(study).items()
        if (points := [g.point for g in grid if g.point is not None])
    }
    if not grids:
        return None
    all_points = [p for points in grids.values() for p in points]
    colours = _cycle((round(p.steps) for p in all_points), COLOURS)
    shapes = _cycle((round(p.n_star) for p in all_points), MARKERS)
    drawn = sheet(4.2)
    panels = drawn.subplots(1, len(grids), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, points) in zip(panels, grids.items(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="N* E Q", title=name)
        axes.grid()
        for p in points:
            marker, colour = shapes[round(p.n_star)], colours[round(p.steps)]
            axes.plot(p.product, p.proxy, marker, color=colour, ms=7, zorder=3)
        fit = fit_rate(points)
        if fit:
            axes.set_title(f"{name}: slope {_slope(fit['product'])}")
            _draw_lines(axes, points, fit["product"])
    panels[0].set_ylabel("mean |D|² / (lr E)²")
    for steps, colour in colours.items():
        panels[0].plot([], [], "o", color=colour, label=f"E {steps}")
    for n_star, marker in shapes.items():
        panels[0].plot([], [], marker, color="none", mec=INK, label=f"N* {n_star}")
    panels[0].plot([], [], color=INK, lw=1.6, label="fitted")
    panels[0].plot([], [], color=INK, lw=1, ls=":", label=f"slope {PROMISED}")
    drawn.legend(loc="outside upper left", ncols=9, fontsize=9, columnspacing=1.2)
    return drawn


def _cycle(values: Iterable[int], looks: Sequence[str]) -> dict[int, str]:
    """Return a colour or marker for each value, in ascending order of values."""
    return {v: looks[i % len(looks)] for i, v in enumerate(sorted(set(values)))}


def _draw_lines(axes: Axes, points: Sequence[Point], slope: Slope) -> None:
    """Draw the fitted line with its wedge and the promised line through the points' centre."""
    xs = np.log([p.product for p in points])
    middle = float(np.mean(np.log([p.proxy for p in points])))
    ends = np.linspace(xs.min() - 0.1, xs.max() + 0.1, LINE_POINTS)

    def through(value: float) -> NDArray[np.float64]:
        return np.asarray(np.exp(middle + value * (ends - xs.mean())))

    if slope.half_width is not None:
        low, high = through(slope.value - slope.half_width), through(slope.value + slope.half_width)
        axes.fill_between(np.exp(ends), low, high, color=GREY, alpha=0.2, lw=0, zorder=1)
    axes.plot(np.exp(ends), through(slope.value), color=INK, lw=1.6, zorder=2)
    axes.plot(np.exp(ends), through(PROMISED), color=INK, lw=1, ls=":", zorder=2)


def _slope(slope: Slope) -> str:
    half = "" if slope.half_width is None else f" ± {slope.half_width:.2f}"
    return f"{slope.value:.2f}{half}"
