"""The report's curves and bars as PNG, on white, as wide as a README.

Invariants: each function returns one figure, or None where there is nothing to draw. Labels stand
next to what they name and cover no data. A figure names its data and its number of seeds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from cos2p_experiments import measures, roles
from cos2p_experiments.palette import DOTTED, THICK, Style, styles
from cos2p_experiments.study import HORIZONS, Study
from cos2p_experiments.wording import Contrast

WIDTH_IN, DPI = 9.0, 110
INK, GREY = "#222222", "#8d8d97"
GRID_POINTS = 240
BANDS_MAX = 4
"""With more policies than this, only those that the report is about have a band."""
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def save(figure: Figure, file: Path) -> Path:
    """Write a figure as PNG. Its bytes depend only on what is drawn."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, dpi=DPI, metadata={"Software": None})
    return file


def styled(width_in: float, height_in: float) -> Figure:
    """Return an empty figure. Draw on it within `matplotlib.rc_context(STYLE)`."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


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
    with matplotlib.rc_context(STYLE):
        figure = styled(WIDTH_IN, 4.6)
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
        seeds = len(study.seeds)
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


def memory(study: Study, setting: str, policies: Sequence[str]) -> Figure | None:
    """Draw each device class's budget, forecast and measured peak: means over devices and seeds."""
    looks = styles(study)
    fleet = roles.devices(study, setting)
    by_size = sorted(fleet.values(), key=lambda d: d.memory_bytes)
    classes = list(dict.fromkeys(d.device_class for d in by_size))
    if not classes or not policies:
        return None
    with matplotlib.rc_context(STYLE):
        figure = styled(WIDTH_IN, 3.8)
        axes = figure.subplots()
        for place, name in enumerate(classes):
            budget = np.mean([d.memory_bytes for d in by_size if d.device_class == name])
            axes.plot([place - 0.42, place + 0.42], [budget, budget], color=INK, lw=1.6)
        for rank, policy in enumerate(policies):
            colour = looks[policy].colour
            shift = (rank + 0.5) / len(policies) * 0.7 - 0.35
            peaks = _class_peaks(study, setting, policy)
            for place, name in enumerate(classes):
                if name in peaks:
                    for peak, face in zip(peaks[name], ("white", colour), strict=True):
                        axes.plot(place + shift, peak, "o", ms=6, mec=colour, mfc=face)
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
        axes.grid(axis="y", color=GREY, lw=0.4, alpha=0.4)
        figure.legend(loc="outside upper left", ncols=min(6, len(policies) + 3), fontsize=9)
        return figure


def _class_peaks(study: Study, setting: str, policy: str) -> Mapping[str, tuple[float, float]]:
    """Return forecast and measured peak in bytes by device class, for devices that trained."""
    trained: dict[str, list[tuple[int, int]]] = {}
    for cell in study.of(setting, policy).values():
        for device in cell.devices:
            if device.peak_measured_bytes:
                peaks = (device.peak_predicted_bytes, device.peak_measured_bytes)
                trained.setdefault(device.device_class, []).append(peaks)
    means = {name: np.mean(peaks, axis=0) for name, peaks in trained.items()}
    return {name: (float(forecast), float(found)) for name, (forecast, found) in means.items()}


def differences(
    study: Study, rows: Sequence[tuple[str, Sequence[Contrast | None]]], other: str, setting: str
) -> Figure | None:
    """Draw paired differences to one policy at the horizons, with their 95 % intervals.

    Args:
        study: the study that gives the policies' order and colours.
        rows: each policy with its contrast at each horizon.
        other: the policy that the others are compared with.
        setting: the setting's label, for the axis.
    """
    rows = [(p, cs) for p, cs in rows if any(c is not None for c in cs)]
    if not rows:
        return None
    looks = styles(study)
    with matplotlib.rc_context(STYLE):
        figure = styled(WIDTH_IN, 1.1 + 0.3 * len(rows))
        panels = figure.subplots(1, len(HORIZONS), sharex=True, sharey=True, squeeze=False)[0]
        for panel, (axes, horizon) in enumerate(zip(panels, HORIZONS, strict=True)):
            axes.axvline(0, color=INK, lw=0.8)
            for place, (policy, contrasts) in enumerate(rows):
                _interval(axes, place, contrasts[panel], looks[policy].colour)
            axes.set_title(horizon)
            axes.grid(axis="x", color=GREY, lw=0.4, alpha=0.4)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(rows)), [p for p, _ in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        panels[1].set_xlabel(f"{setting}: points of accuracy against {other}, 95 % interval")
        return figure


def _interval(axes: Axes, place: int, contrast: Contrast | None, colour: str) -> None:
    if contrast is not None:
        mean, half = 100 * contrast.mean, 100 * (contrast.half_width or 0.0)
        axes.plot([mean - half, mean + half], [place, place], color=colour, lw=1.8)
        axes.plot(mean, place, "o", color=colour, ms=5)


def _axis(axes: Axes, study: Study, setting: str, axis: measures.Axis) -> None:
    kinds = {c.identity.evaluated_on for c in study.cells if c.identity.setting == setting}
    axes.set_ylabel(f"{' and '.join(sorted(kinds))} accuracy in %")
    axes.grid(axis="y", color=GREY, lw=0.4, alpha=0.4)
    axes.set_xlim(left=0)
    if axis == "bytes":
        axes.set_xlabel("bytes up and down, all devices")
        axes.xaxis.set_major_formatter(EngFormatter("B"))
        return
    axes.set_xlabel("virtual time in s")
    for name, at in zip(HORIZONS, study.horizons_of(setting), strict=True):
        axes.axvline(at, color=GREY, lw=0.6, ls=(0, (2, 3)), zorder=1)
        axes.annotate(
            name,
            (at, 0),
            (-3, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=GREY,
        )


def _name_ends(axes: Axes, ends: dict[str, tuple[float, float]], looks: dict[str, Style]) -> None:
    """Write each policy's name right of the axes, near its curve's end, with a leader line."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    right = max(x for x, _ in ends.values())
    axes.set_xlim(right=right)
    names = sorted(ends, key=lambda p: ends[p][1])
    step = (high - low) * 0.042
    heights = spread_out(
        [
            min(max(ends[p][1], low + rank * step), high - (len(names) - 1 - rank) * step)
            for rank, p in enumerate(names)
        ],
        step,
    )
    for name, height in zip(names, heights, strict=True):
        x, y = ends[name]
        look = looks[name]
        axes.annotate(
            name,
            (x, y),
            (1.035, (height - low) / (high - low)),
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


def spread_out(heights: Sequence[float], step: float) -> list[float]:
    """Move ascending heights as little as possible so that neighbours are `step` apart.

    Neighbours that are too near form a block around the mean of their original places. Blocks that
    then overlap are joined (isotonic regression by pooling).
    """
    blocks: list[list[float]] = []
    for rank, height in enumerate(heights):
        # Without the required gaps, the heights only have to be in ascending order.
        blocks.append([height - rank * step])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    flat = [float(np.mean(block)) for block in blocks for _ in block]
    return [height + rank * step for rank, height in enumerate(flat)]
