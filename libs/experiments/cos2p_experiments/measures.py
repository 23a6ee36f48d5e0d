"""Measures of one cell's result: accuracies on two axes, memory, coverage, labels.

Invariants: all are pure functions of a `CellResult`. A cell that ended early keeps its last model,
so its curve continues level. A measure that a cell can't answer is None.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from cos2p_experiments import statistics
from cos2p_experiments.result import CellDevice, CellResult, CurvePoint

Axis = Literal["time", "bytes"]
Form = Literal["published", "raw", "mean", "plain", "scaled"]


def spent(point: CurvePoint, axis: Axis) -> float:
    """Return a version's cost when it was published: virtual seconds, or bytes up and down."""
    return point.virtual_s if axis == "time" else float(point.bytes_up + point.bytes_down)


def accuracy(point: CurvePoint, form: Form) -> float | None:
    """Return a version's accuracy in [0, 1].

    "published" is the moving average of versions, or the raw version where a policy has no average.
    "raw" is the raw version. "mean" is the mean of all exits' probabilities. "plain" is the
    published model with unscaled units, "scaled" the one with units scaled by survival. All but
    "mean" use the final head.
    """
    forms: dict[Form, tuple[float | None, ...]] = {
        "published": (point.accuracy, point.raw_accuracy),
        "raw": (point.raw_accuracy, point.accuracy),
        "mean": (point.mean_accuracy,),
        "plain": (point.plain_accuracy,),
        "scaled": (point.scaled_accuracy,),
    }
    return next((a for a in forms[form] if a is not None), None)


def curve(
    cell: CellResult, axis: Axis = "time", form: Form = "published"
) -> tuple[list[float], list[float]]:
    """Return the costs and accuracies of the versions that have this form of accuracy.

    Some policies answer with the mean of all exits (`evaluation.answer`). For these, the published
    accuracy is that of the mean.
    """
    if form == "published" and cell.config.get("evaluation", {}).get("answer") == "mean":
        form = "mean"
    points = [(spent(p, axis), a) for p in cell.curve if (a := accuracy(p, form)) is not None]
    return [x for x, _ in points], [y for _, y in points]


def accuracy_at(
    cell: CellResult, x: float, axis: Axis = "time", form: Form = "published"
) -> float | None:
    """Return the accuracy of the newest version at `x`, in [0, 1]."""
    return statistics.value_at(*curve(cell, axis, form), x)


def spent_at(cell: CellResult, virtual_s: float) -> float | None:
    """Return the bytes up and down by a moment, interpolated between evaluated versions."""
    if not cell.curve or virtual_s < cell.curve[0].virtual_s:
        return None
    times, sizes = ([spent(p, axis) for p in cell.curve] for axis in get_args(Axis))
    return float(np.interp(virtual_s, times, sizes))


def outdated_s(cell: CellResult, at_s: float) -> float:
    """Return for how long the newest evaluated version has been outdated at a moment."""
    judged = max((p.version for p in cell.curve if p.virtual_s <= at_s), default=-1)
    newer = [r.closed_s for r in cell.rounds if r.version > judged and r.closed_s <= at_s]
    return at_s - min(newer) if newer else 0.0


def time_to(cell: CellResult, target: float, end_s: float) -> float | None:
    """Return when the published model first had `target`, interpolated; None if after `end_s`."""
    at = statistics.first_reach(*curve(cell), target)
    return at if at is not None and at <= end_s else None


def peaks(cell: CellResult, limited: Mapping[str, CellDevice]) -> dict[str, int]:
    """Return the measured peaks in bytes of the limited devices that trained, by worker id."""
    trained = (d for d in cell.devices if d.worker_id in limited and d.peak_measured_bytes)
    return {d.worker_id: d.peak_measured_bytes for d in trained}


def memory_ratio(
    ours: CellResult, theirs: CellResult, limited: Mapping[str, CellDevice]
) -> float | None:
    """Return the mean ratio of measured peaks, over limited devices that trained in both cells."""
    other = peaks(theirs, limited)
    return statistics.mean([p / other[w] for w, p in peaks(ours, limited).items() if w in other])


def memory_share(cell: CellResult, limited: Mapping[str, CellDevice]) -> float | None:
    """Return the limited devices' mean of measured peak / budget; None where none trained."""
    return statistics.mean([p / limited[w].memory_bytes for w, p in peaks(cell, limited).items()])


def coverage(cell: CellResult) -> list[int]:
    """Return N* of the merged updates in each full window of versions."""
    return [r.coverage_min for r in cell.rounds if r.version >= _window(cell)]


def coverage_share(cell: CellResult) -> float | None:
    """Return the mean of N* / its bound over full windows.

    The bound is the number of updates times their mean share of the cost.
    """
    rows = [r for r in cell.rounds if r.version >= _window(cell) and r.coverage_bound]
    return statistics.mean([r.coverage_min / r.coverage_bound for r in rows])


def _window(cell: CellResult) -> int:
    return int(cell.config.get("rounds", {}).get("coverage_window", 1))


def label_distance(cell: CellResult) -> float | None:
    """Return the mean total variation between a device's label mix and the fleet's, in [0, 1].

    Devices that withhold their labels are left out. None where no device reports labels.
    """
    reported = [d.label_counts for d in cell.devices if d.label_counts and sum(d.label_counts)]
    if not reported:
        return None
    counts = np.array(reported, float)
    own = counts / counts.sum(axis=1, keepdims=True)
    overall = counts.sum(axis=0) / counts.sum()
    return float(np.abs(own - overall).sum(axis=1).mean() / 2)
