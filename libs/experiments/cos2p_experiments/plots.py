"""The charts of a suite's report.

Invariants: each function returns one figure, or None where there is nothing to draw. Labels stand
next to what they name and cover no data. A figure names its data and its number of seeds. Cells in
one figure share their scales.
"""

from collections.abc import Sequence
from itertools import compress

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from cos2p.history import charts
from cos2p.history.charts import GREY, INK, sheet, styled
from cos2p.history.device import natural
from cos2p.history.state import Span
from cos2p_experiments import measures, roles
from cos2p_experiments.palette import DOTTED, THICK, Style, styles
from cos2p_experiments.result import CellResult
from cos2p_experiments.statistics import PairedDifference
from cos2p_experiments.study import HORIZONS, Study

GRID_POINTS = 240
BANDS_MAX = 4
"""With more policies than this, only those that the report is about have a band."""
NAME_STEP = 0.042
"""The least distance between two policies' names, as a part of the axes' height."""
PLANS_SHOWN = 4
"""A Gantt chart shows about this many plans of the slowest device."""
Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@styled
def accuracy(study: Study, setting: str, axis: measures.Axis) -> Figure | None:
    """Draw the published model's accuracy against virtual time or bytes: mean, band of one sd."""
    looks = styles(study)
    curves = {
        policy: found
        for policy in study.present(setting)
        if (found := mean_curve(study, setting, policy, axis)) is not None
    }
    if not curves:
        return None
    figure = sheet(4.6)
    axes = figure.subplots()
    for policy, (xs, means, sds) in curves.items():
        look = looks[policy]
        order = 3 if look.width == THICK else 2
        axes.plot(xs, 100 * means, color=look.colour, ls=look.line, lw=look.width, zorder=order)
        if len(curves) <= BANDS_MAX or look.width == THICK:
            low, high = 100 * (means - sds), 100 * (means + sds)
            axes.fill_between(xs, low, high, color=look.colour, alpha=0.15, lw=0)
    _axis(axes, study, setting, axis)
    ends = {p: (float(xs[-1]), float(100 * means[-1])) for p, (xs, means, _) in curves.items()}
    _name_ends(axes, ends, looks)
    seeds = len(study.suite.seeds)
    axes.set_title(f"{setting}: mean of {seeds} seeds" + (", band of one sd" * (seeds > 1)))
    return figure


def mean_curve(study: Study, setting: str, policy: str, axis: measures.Axis) -> Curve | None:
    """Return mean and deviation over seeds, on a grid that all of the policy's runs reach."""
    curves = [measures.curve(c, axis) for c in study.of(setting, policy).values()]
    curves = [(xs, ys) for xs, ys in curves if xs]
    if not curves:
        return None
    end = min(xs[-1] for xs, _ in curves)
    if axis == "time":
        end = study.horizons_of(setting)[-1]
    grid = np.linspace(max(xs[0] for xs, _ in curves), end, GRID_POINTS)
    held = np.array(
        [np.asarray(ys)[np.searchsorted(xs, grid, side="right") - 1] for xs, ys in curves]
    )
    sds = held.std(axis=0, ddof=1) if len(held) > 1 else np.zeros(len(grid))
    return grid, held.mean(axis=0), sds


@styled
def memory(study: Study, setting: str, policies: Sequence[str]) -> Figure | None:
    """Draw each device class's budget, forecast and measured peak: means over devices and seeds."""
    looks = styles(study)
    fleet = roles.devices(study, setting)
    by_size = sorted(fleet.values(), key=lambda d: d.memory_bytes)
    classes = list(dict.fromkeys(d.device_class for d in by_size))
    if not classes or not policies:
        return None
    figure = sheet(3.8)
    axes = figure.subplots()
    for place, name in enumerate(classes):
        budget = np.mean([d.memory_bytes for d in by_size if d.device_class == name])
        axes.plot([place - 0.42, place + 0.42], [budget, budget], color=INK, lw=1.6)
    for rank, policy in enumerate(policies):
        colour = looks[policy].colour
        shift = (rank + 0.5) / len(policies) * 0.7 - 0.35
        peaks = _class_peaks(study, setting, policy)
        for name, forecast_and_measured in peaks.items():
            across = classes.index(name) + shift
            for peak, face in zip(forecast_and_measured, ("white", colour), strict=True):
                axes.plot(across, peak, "o", ms=6, mec=colour, mfc=face)
        axes.plot([], [], "o", color=colour, label=policy)
    axes.plot([], [], "o", mec=GREY, mfc="white", label="forecast")
    axes.plot([], [], "o", mec=GREY, mfc=GREY, label="measured")
    axes.plot([], [], color=INK, lw=1.6, label="budget")
    counts = [sum(d.device_class == name for d in by_size) for name in classes]
    names = [f"{c}\n{n} device{'s' * (n > 1)}" for c, n in zip(classes, counts, strict=True)]
    axes.set_xticks(range(len(classes)), names)
    axes.tick_params(axis="x", length=0)
    axes.set(ylabel="peak memory of training", ylim=(0, None))
    axes.yaxis.set_major_formatter(EngFormatter("B"))
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=min(6, len(policies) + 3), fontsize=9)
    return figure


def _class_peaks(study: Study, setting: str, policy: str) -> dict[str, NDArray[np.float64]]:
    """Return forecast and measured peak in bytes by device class, for devices that trained."""
    cells = study.of(setting, policy).values()
    trained = [d for c in cells for d in c.devices if d.peak_measured_bytes]
    peaks = [(d.peak_predicted_bytes, d.peak_measured_bytes) for d in trained]
    classes = np.array([d.device_class for d in trained])
    return {name: np.array(peaks)[classes == name].mean(axis=0) for name in set(classes)}


@styled
def differences(
    study: Study,
    rows: Sequence[tuple[str, Sequence[PairedDifference | None]]],
    other: str,
    setting: str,
) -> Figure | None:
    """Draw paired differences to one policy at the horizons, with their 95 % intervals.

    `rows` are the other policies, each with its difference at each horizon.
    """
    rows = [(policy, found) for policy, found in rows if any(d is not None for d in found)]
    if not rows:
        return None
    looks = styles(study)
    figure = sheet(1.1 + 0.3 * len(rows))
    panels = figure.subplots(1, len(HORIZONS), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (axes, horizon) in enumerate(zip(panels, HORIZONS, strict=True)):
        axes.axvline(0, color=INK, lw=0.8)
        for place, (policy, found) in enumerate(rows):
            if (difference := found[panel]) is not None:
                half, colour = 100 * (difference.half_width or 0.0), looks[policy].colour
                mean = 100 * difference.mean
                axes.errorbar(mean, place, xerr=half, fmt="o", ms=5, lw=1.8, color=colour)
        axes.set_title(horizon)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [policy for policy, _ in rows])
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[1].set_xlabel(f"{setting}: points of accuracy against {other}, 95 % interval")
    return figure


def _axis(axes: Axes, study: Study, setting: str, axis: measures.Axis) -> None:
    axes.set_ylabel(f"{roles.evaluated_on(study, setting)} accuracy in %")
    axes.grid(axis="y")
    axes.set_xlim(left=0)
    if axis == "bytes":
        axes.set_xlabel("bytes up and down, all devices")
        axes.xaxis.set_major_formatter(EngFormatter("B"))
        return
    axes.set_xlabel("virtual time in s")
    for name, at in zip(HORIZONS, study.horizons_of(setting), strict=True):
        axes.axvline(at, color=GREY, lw=0.6, ls=(0, (2, 3)), zorder=1)
        below = axes.get_xaxis_transform()  # data across, axes' height up
        axes.text(at, 0.01, f"{name} ", transform=below, ha="right", fontsize=8, color=GREY)


def _name_ends(axes: Axes, ends: dict[str, tuple[float, float]], looks: dict[str, Style]) -> None:
    """Write each policy's name right of the axes, near its curve's end, with a leader line."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    axes.set_xlim(right=max(x for x, _ in ends.values()))
    free = 1.0
    for name in sorted(ends, key=lambda p: ends[p][1], reverse=True):
        look, end = looks[name], ends[name]
        height = min((end[1] - low) / (high - low), free)
        free = height - NAME_STEP
        axes.annotate(
            name,
            end,
            (1.035, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=look.colour,
            fontweight="bold" if look.width == THICK else "normal",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": look.colour,
                "lw": 0.8,
                "ls": DOTTED,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 1,
            },
        )


def gantt(cells: Sequence[CellResult]) -> Figure | None:
    """Draw the devices' work in the first part of each cell, the slowest device on top."""
    cells = [c for c in cells if c.segments]
    if not cells:
        return None
    trained = [s.end_s - s.start_s for c in cells for s in c.segments if s.activity == "train"]
    end = min(*(c.ended_s for c in cells), max(trained, default=0.0) * PLANS_SHOWN)
    panels = [
        charts.WorkRows(
            f"{_name(cell)}: busy {100 * cell.busy_share:.0f} % of the whole run",
            [
                (d.worker_id, d.device_class)
                for d in sorted(cell.devices, key=lambda d: (d.flops_per_s, natural(d.worker_id)))
            ],
            # A device idles where it does not work.
            [*(Span(d.worker_id, "idle", 0.0, end) for d in cell.devices), *cell.segments],
            [row.closed_s for row in cell.rounds if row.closed_s < end],
        )
        for cell in cells
    ]
    return charts.gantt(panels, "virtual time in s", end)


def coverage(cells: Sequence[CellResult]) -> Figure | None:
    """Draw the merged updates of every prunable unit over virtual time, cells side by side."""
    panels = []
    for cell in cells:
        found = cell.coverage
        counts = np.array(list(compress(found.counts, found.prunable)), np.int64)
        units = list(compress(found.units, found.prunable))
        panels.append(charts.CoverageRows(_name(cell), units, counts, (0.0, found.edges_s[-1])))
    width = cells[0].coverage.edges_s[1]
    return charts.coverage(panels, "virtual time in s", f"updates merged in {width:.3g} s")


def _name(cell: CellResult) -> str:
    identity = cell.identity
    return f"{identity.policy}, {identity.setting}, seed {identity.seed}"
