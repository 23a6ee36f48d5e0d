"""The charts of one run.

Invariant: each function returns one figure, or None where there is nothing to draw.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cos2p.history import charts
from cos2p.history.charts import BLUE, GREEN, GREY, ORANGE, WIDTH_IN, sheet, styled
from cos2p.history.device import natural
from cos2p.history.run import RunHistory
from cos2p.history.state import Span

EXIT_SHADES = (1.0, 0.75, 0.55, 0.4, 0.3)
"""Opacities of the exits' lines, deepest exit first. Further exits are not drawn."""
Values = Sequence[float | None]


@styled
def accuracy(run: RunHistory, alone: float | None = None) -> Figure | None:
    """Draw the accuracy over versions and over time: average of versions, and raw.

    A line marks `alone`, the accuracy of the best worker trained by itself.
    """
    points = [p for p in run.accuracy if p.has_accuracy]
    if not points:
        return None
    exits = [dict(run.exits(p)) for p in points]
    lines: list[tuple[str, Values, dict[str, Any]]] = [
        (name, [row.get(name) for row in exits], {"color": BLUE, "lw": 1, "alpha": shade})
        for shade, name in zip(EXIT_SHADES, reversed(exits[-1]), strict=False)
    ]
    lines += [
        ("raw", [p.raw_accuracy for p in points], {"color": ORANGE, "lw": 1}),
        ("average of versions", [p.accuracy for p in points], {"color": GREEN, "lw": 2}),
    ]
    start = _begin_s(run)
    figure = sheet(3.0)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, xs in (
        (left, [float(p.version) for p in points]),
        (right, [p.judged_s - start for p in points]),
    ):
        for label, shares, look in lines:
            axes.plot(xs, 100 * _floats(shares), label=label, **look)
        if alone is not None:
            axes.axhline(100 * alone, color=GREY, lw=1.2, ls="--", label="best worker alone")
        axes.grid(axis="y")
        charts.whole_numbers(axes.xaxis)
    left.set(xlabel="version", ylabel="test accuracy in %", ylim=(0, 101))
    right.set(xlabel="seconds since the first device came", xlim=(0, None))
    left.legend(loc="lower right")
    return figure


@styled
def staleness(run: RunHistory) -> Figure | None:
    """Draw how many versions behind the merged updates were."""
    late = run.state.staleness
    if not late:
        return None
    figure = sheet(2.6, WIDTH_IN / 2)
    axes = figure.subplots()
    ticks = range(max(late) + 1)
    axes.bar(ticks, [late[t] for t in ticks], color=BLUE, width=0.7)
    axes.set(xlabel="versions behind when merged", ylabel="updates")
    charts.whole_numbers(axes.xaxis)
    return figure


@styled
def coverage_course(run: RunHistory) -> Figure | None:
    """Draw N* planned and merged, and its bound, over the versions."""
    rows = run.versions
    if not rows:
        return None
    lines: list[tuple[str, str, Values]] = [("bound", GREY, [v.coverage_bound for v in rows])]
    if any(v.coverage_planned for v in rows):
        lines.append(("N* planned", BLUE, [v.coverage_planned for v in rows]))
    lines.append(("N* merged", GREEN, [v.coverage_min for v in rows]))
    figure = sheet(2.6, WIDTH_IN / 2)
    axes = figure.subplots()
    _over_versions(axes, [v.version for v in rows], lines)
    axes.set(ylabel="merged updates")
    axes.set_ylim(bottom=0)
    return figure


@styled
def bound_terms(run: RunHistory) -> Figure | None:
    """Draw the terms of the rate's bound other than N*, over the versions."""
    rows = [v for v in run.versions if v.step_norm is not None]
    if not rows:
        return None
    variances = [
        v.dispersion / v.delta_square if v.dispersion is not None and v.delta_square else None
        for v in rows
    ]
    figure = sheet(2.6)
    shares, proxy = figure.subplots(1, 2)
    xs = [v.version for v in rows]
    _over_versions(
        shares,
        xs,
        [
            ("pruning noise", GREEN, [v.pruning_noise_mean for v in rows]),
            ("label distance", BLUE, [v.label_distance_mean for v in rows]),
            ("dispersion", ORANGE, variances),
        ],
    )
    shares.set(ylabel="share", ylim=(0, 1.02))
    _over_versions(proxy, xs, [("", GREEN, [v.gradient_proxy or None for v in rows])])
    proxy.set(ylabel="|D|² / (lr E)²", yscale="log")
    return figure


def coverage(run: RunHistory) -> Figure | None:
    """Draw the merged updates per unit and version."""
    counts = run.coverage()
    names = [] if run.table is None else [u.name for u in run.table.units]
    panel = charts.CoverageRows("", names, counts, (0.5, counts.shape[1] + 0.5))
    return charts.coverage([panel], "version", "updates merged")


def timeline(run: RunHistory) -> Figure | None:
    """Draw what each device did over time."""
    if not run.state.spans:
        return None
    start = _begin_s(run)
    spans = [
        Span(s.worker_id, s.activity, s.start_s - start, s.end_s - start) for s in run.state.spans
    ]
    workers = sorted({s.worker_id for s in spans}, key=natural)
    closed_s = [v.closed_s - start for v in run.versions]
    panel = charts.WorkRows("", [(w, w) for w in workers], spans, closed_s)
    return charts.gantt([panel], "seconds since the first device came")


def _begin_s(run: RunHistory) -> float:
    """Return when the first device came according to the log, else the run's start."""
    return min((s.start_s for s in run.state.spans), default=run.state.started_s or 0.0)


def _over_versions(
    axes: Axes, versions: Sequence[int], lines: Sequence[tuple[str, str, Values]]
) -> None:
    """Draw lines, each with its label and colour, and their legend above the axes."""
    for label, colour, values in lines:
        axes.plot(versions, _floats(values), color=colour, lw=1.2, label=label)
    axes.set_xlabel("version")
    charts.whole_numbers(axes.xaxis)
    if len(lines) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)


def _floats(values: Values) -> NDArray[np.float64]:
    return np.array(values, np.float64)  # None becomes NaN
