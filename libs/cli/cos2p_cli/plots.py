"""The report's pictures as SVG in the page's own text colour, readable in light and dark mode.

Invariants: each function returns one `<svg>` element without a prolog, or "" where there is nothing
to draw. Colours of data have enough contrast on white and on black.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cos2p.history.device import natural
from cos2p.history.run import RunHistory
from cos2p.history.state import Span

INK = "#010203"
"""A placeholder colour. `_svg` replaces it by the page's own (`currentColor`)."""
GREEN, ORANGE, BLUE, GREY = "#2a9d6f", "#d98232", "#3f83d8", "#8d8d97"
ACTIVITY_COLOURS = {"train": GREEN, "fetch": BLUE, "upload": ORANGE, "idle": GREY}
EXIT_SHADES = (1.0, 0.75, 0.55, 0.4, 0.3)
"""Opacities of the exits' lines, deepest exit first. Further exits are not drawn."""
WIDTH_IN = 9.0
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cos2p",  # fixed, so that ids in the SVG are the same each time
    "font.size": 10,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
}


def accuracy(run: RunHistory, alone: float | None = None) -> str:
    """Draw the accuracy over versions and over time: average of versions, and raw.

    Args:
        run: the run.
        alone: the accuracy of the best worker trained by itself, drawn as a line.
    """
    points = [p for p in run.accuracy if p.has_accuracy]
    if not points:
        return ""
    start = _begin_s(run)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, xs in (
            (left, [float(p.version) for p in points]),
            (right, [p.judged_s - start for p in points]),
        ):
            for shade, (name, course) in zip(EXIT_SHADES, _exit_courses(run), strict=False):
                axes.plot(xs, _percent(course), color=BLUE, lw=1, alpha=shade, label=name)
            axes.plot(
                xs, _percent([p.raw_accuracy for p in points]), color=ORANGE, lw=1, label="raw"
            )
            axes.plot(
                xs,
                _percent([p.accuracy for p in points]),
                color=GREEN,
                lw=2,
                label="average of versions",
            )
            if alone is not None:
                axes.axhline(100 * alone, color=GREY, lw=1.2, ls="--", label="best worker alone")
            axes.grid(axis="y", color=GREY, lw=0.4, alpha=0.4)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(xlabel="version", ylabel="test accuracy in %", ylim=(0, 101))
        right.set(xlabel="seconds since the first device came", xlim=(0, None))
        left.legend(loc="lower right")
        return _svg(figure, "Test accuracy over versions and over time")


def _exit_courses(run: RunHistory) -> list[tuple[str, list[float | None]]]:
    """Return the accuracy of each exit over the evaluated versions, deepest exit first."""
    rows = [dict(run.exits(point)) for point in run.accuracy if point.has_accuracy]
    return [(name, [row.get(name) for row in rows]) for name in reversed(rows[-1])]


def staleness(run: RunHistory) -> str:
    """Draw how many versions behind the merged updates were."""
    late = run.state.staleness
    if not late:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN / 2, 2.6), layout="constrained")
        axes = figure.subplots()
        ticks = range(max(late) + 1)
        axes.bar(ticks, [late[t] for t in ticks], color=BLUE, width=0.7)
        axes.set(xlabel="versions behind when merged", ylabel="updates")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, "Histogram of the staleness of merged updates")


def coverage_course(run: RunHistory) -> str:
    """Draw N* planned and merged, and its bound, over the versions."""
    if not run.versions:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN / 2, 2.6), layout="constrained")
        axes = figure.subplots()
        xs = [v.version for v in run.versions]
        axes.plot(xs, [v.coverage_bound for v in run.versions], color=GREY, lw=1, label="bound")
        if any(v.coverage_planned for v in run.versions):
            planned = [v.coverage_planned for v in run.versions]
            axes.plot(xs, planned, color=BLUE, lw=1, label="N* planned")
        merged = [v.coverage_min for v in run.versions]
        axes.plot(xs, merged, color=GREEN, lw=1.5, label="N* merged")
        axes.set(xlabel="version", ylabel="merged updates")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        return _svg(figure, "Coverage N* and its bound over the versions")


def bound_terms(run: RunHistory) -> str:
    """Draw the terms of the rate's bound other than N*, over the versions."""
    rows = [v for v in run.versions if v.step_norm is not None]
    if not rows:
        return ""
    xs = [v.version for v in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
        shares, proxy = figure.subplots(1, 2)
        for label, colour, values in (
            ("pruning noise", GREEN, [v.pruning_noise_mean for v in rows]),
            ("label distance", BLUE, [v.label_distance_mean for v in rows]),
            ("dispersion", ORANGE, [_ratio(v.dispersion, v.delta_square) for v in rows]),
        ):
            shares.plot(xs, _floats(values), color=colour, lw=1.2, label=label)
        shares.set(xlabel="version", ylabel="share", ylim=(0, 1.02))
        shares.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        proxy.plot(xs, _floats([v.gradient_proxy or None for v in rows]), color=GREEN, lw=1.2)
        proxy.set(xlabel="version", ylabel="|D|² / (lr E)²", yscale="log")
        for axes in (shares, proxy):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, "What the bound names, over the versions")


def coverage(run: RunHistory) -> str:
    """Draw the merged updates per unit and version."""
    counts = run.coverage()
    if not counts.size or run.table is None:
        return ""
    with matplotlib.rc_context(STYLE):
        height = min(6.0, 1.6 + 0.035 * len(run.table))
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(
            counts,
            aspect="auto",
            interpolation="nearest",
            cmap="viridis",
            extent=(0.5, counts.shape[1] + 0.5, len(run.table) - 0.5, -0.5),
        )
        _name_blocks(axes, run)
        axes.set_xlabel("version")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=30)
        bar.set_label("updates merged")
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
        return _svg(figure, "Merged updates of each unit in each version")


def timeline(run: RunHistory) -> str:
    """Draw what each device did over time."""
    if not run.state.spans:
        return ""
    start = _begin_s(run)
    workers = sorted({s.worker_id for s in run.state.spans}, key=natural)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 1.0 + 0.32 * len(workers)), layout="constrained")
        axes = figure.subplots()
        for activity, colour in ACTIVITY_COLOURS.items():
            alpha = 0.35 if activity == "idle" else 1.0
            for row, worker in enumerate(workers):
                chosen = [
                    s for s in run.state.spans if (s.worker_id, s.activity) == (worker, activity)
                ]
                axes.broken_barh(
                    _bars(chosen, start), (row - 0.36, 0.72), color=colour, alpha=alpha
                )
            axes.plot([], [], color=colour, lw=6, alpha=alpha, label=activity)
        for version in run.versions:
            axes.axvline(version.closed_s - start, color=INK, lw=0.3, alpha=0.3, zorder=0)
        axes.set_yticks(range(len(workers)), workers)
        axes.set_ylim(len(workers) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("seconds since the first device came; a thin line is a version")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, handlelength=1.2)
        return _svg(figure, "What each device did over time")


def _begin_s(run: RunHistory) -> float:
    """Return when the first device came according to the log, else the run's start."""
    return min((s.start_s for s in run.state.spans), default=run.state.started_s or 0.0)


def _bars(spans: Sequence[Span], start_s: float) -> list[tuple[float, float]]:
    return [(max(0.0, s.start_s - start_s), s.end_s - max(s.start_s, start_s)) for s in spans]


def _name_blocks(axes: Axes, run: RunHistory) -> None:
    """Write block names on the axis, because hundreds of units' names don't fit."""
    assert run.table is not None
    blocks = run.table.blocks
    firsts = np.flatnonzero(np.concatenate(([True], blocks[1:] != blocks[:-1])))
    ends = np.concatenate((firsts[1:], [len(blocks)]))
    names = ["stem" if blocks[i] < 0 else f"block {blocks[i]}" for i in firsts]
    axes.set_yticks((firsts + ends - 1) / 2, names)
    axes.tick_params(axis="y", length=0)
    for first in firsts[1:]:
        axes.axhline(first - 0.5, color="white", lw=0.8)


def _percent(shares: Sequence[float | None]) -> list[float]:
    return [100 * s for s in _floats(shares)]


def _floats(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if v is None else v for v in values]


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _svg(figure: Figure, title: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Title": title})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
