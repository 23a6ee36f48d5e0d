"""What the charts of a run's report and of the experiments' pages share.

Invariants:
A chart is a `Figure`, or None if there is nothing to draw.
The bytes of a saved chart depend only on what is drawn.
Colours of data have enough contrast on white and on black.
No service imports this module, because matplotlib is heavy.
"""

import io
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cos2p.history.state import Span

INK = "#010203"
"""The colour of text and axes. `svg` replaces it by the page's own (`currentColor`)."""
GREEN, ORANGE, BLUE, GREY = "#2a9d6f", "#d98232", "#3f83d8", "#8d8d97"
WIDTH_IN, DPI = 9.0, 110
ACTIVITY_LOOKS: dict[str, dict[str, Any]] = {
    "idle": {"color": GREY, "alpha": 0.3},
    "train": {"color": GREEN},
    "fetch": {"color": BLUE},
    "upload": {"color": ORANGE},
}
"""How each activity of a device is drawn; a later one covers an earlier one."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cos2p",  # fixed, so that ids in the SVG are the same each time
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
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
    "grid.color": GREY,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "legend.frameon": False,
}
styled = matplotlib.rc_context(STYLE)
"""The decorator of every function that draws or saves."""


@dataclass(frozen=True)
class CoverageRows:
    """One panel of a coverage map.

    Attributes:
        units: the units' names; the part before the first dot is the unit's block.
        counts: merged updates, shape (units, columns).
        edges: where the first column begins and the last one ends, on the horizontal axis.
    """

    title: str
    units: Sequence[str]
    counts: NDArray[np.integer[Any]]
    edges: tuple[float, float]


@dataclass(frozen=True)
class WorkRows:
    """One panel of a Gantt chart.

    Attributes:
        rows: worker id and label of each row, from the top. Neighbours of one label share it.
        closed_s: when versions were closed.
    """

    title: str
    rows: Sequence[tuple[str, str]]
    spans: Sequence[Span]
    closed_s: Sequence[float]


def sheet(height_in: float, width_in: float = WIDTH_IN) -> Figure:
    """An empty figure."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def whole_numbers(axis: Axis) -> None:
    """Put ticks at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


@styled
def coverage(panels: Sequence[CoverageRows], xlabel: str, label: str) -> Figure | None:
    """Draw the merged updates of each unit, panels next to each other on one scale.

    Panels without a column are left out. `label` says what a colour means.
    """
    panels = [p for p in panels if p.counts.size]
    if not panels:
        return None
    most = max(1, *(int(p.counts.max()) for p in panels))
    figure = sheet(min(6.0, 1.6 + 0.035 * max(len(p.units) for p in panels)))
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(drawn, panels, strict=True):
        image = axes.imshow(
            panel.counts,
            aspect="auto",
            interpolation="nearest",
            cmap="viridis",
            vmin=0,
            vmax=most,
            extent=(*panel.edges, len(panel.units) - 0.5, -0.5),
        )
        # Names of hundreds of units do not fit: their blocks' names do.
        for first in _name_groups(axes, [unit.split(".")[0] for unit in panel.units])[1:]:
            axes.axhline(first - 0.5, color="white", lw=0.8)
        axes.set(title=panel.title, xlabel=xlabel)
        whole_numbers(axes.xaxis)
    ticks = MaxNLocator(integer=True)
    figure.colorbar(image, ax=list(drawn), pad=0.01, aspect=30, ticks=ticks, label=label)
    return figure


@styled
def gantt(panels: Sequence[WorkRows], xlabel: str, end_s: float | None = None) -> Figure:
    """Draw what devices did until `end_s`, one panel below the other; None shows all."""
    heights = [len(p.rows) for p in panels]
    figure = sheet(0.7 + 0.45 * len(panels) + 0.2 * sum(heights))
    drawn = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, panel in zip(drawn, panels, strict=True):
        bars: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for span in panel.spans:
            bars[span.worker_id, span.activity].append((span.start_s, span.end_s - span.start_s))
        for activity, look in ACTIVITY_LOOKS.items():
            for row, (worker, _) in enumerate(panel.rows):
                axes.broken_barh(bars[worker, activity], (row - 0.4, 0.8), lw=0, **look)
        for at_s in panel.closed_s:
            axes.axvline(at_s, color=INK, lw=0.4, alpha=0.5)
        axes.set(title=panel.title, ylim=(len(panel.rows) - 0.5, -0.5), xlim=(0, end_s))
        _name_groups(axes, [label for _, label in panel.rows])
        axes.spines["left"].set_visible(False)
    drawn[-1].set_xlabel(f"{xlabel}; a thin line closes a version")
    for activity, look in ACTIVITY_LOOKS.items():
        drawn[-1].plot([], [], lw=6, label=activity, **look)
    figure.legend(loc="outside upper right", ncols=4, handlelength=1.2, fontsize=9)
    return figure


def _name_groups(axes: Axes, labels: Sequence[str]) -> list[int]:
    """Write each label in the middle of its group of equal neighbours; return the first rows."""
    firsts = [i for i, label in enumerate(labels) if not i or labels[i - 1] != label]
    ends = [*firsts[1:], len(labels)]
    middles = [(first + end - 1) / 2 for first, end in zip(firsts, ends, strict=True)]
    axes.set_yticks(middles, [labels[i] for i in firsts], fontsize=9)
    axes.tick_params(axis="y", length=0)
    return firsts


@styled
def svg(figure: Figure, title: str) -> str:
    """One `<svg>` element without a prolog, readable on light and dark pages."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Title": title})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


@styled
def png(figure: Figure, file: Path) -> Path:
    """Write a figure as PNG on white, as wide as a README."""
    figure.savefig(file, dpi=DPI, facecolor="white", metadata={"Software": None})
    return file
