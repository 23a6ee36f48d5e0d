"""Measures of one cell's result: accuracies on two axes, memory, coverage, plans, bytes.

Invariants: all are pure functions of a `CellResult`. A cell that ended early keeps its last model,
so its curve continues level. A measure that a cell can't answer is None.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from cos2p.log.messages import Outcome
from cos2p_experiments import statistics
from cos2p_experiments.result import CellDevice, CellResult, CurvePoint

Axis = Literal["time", "bytes"]
Form = Literal["published", "raw", "exits", "plain", "scaled"]
AXES: tuple[Axis, ...] = ("time", "bytes")


def spent(point: CurvePoint, axis: Axis) -> float:
    """Return a version's cost when it was published: virtual seconds, or bytes up and down."""
    return point.virtual_s if axis == "time" else float(point.bytes_up + point.bytes_down)


def accuracy(point: CurvePoint, form: Form = "published") -> float | None:
    """Return a version's accuracy in [0, 1].

    Args:
        point: the version.
        form: which model answers. "published" is the moving average of versions, or the raw
            version where a policy has no average. "raw" is the raw version. "exits" is the mean
            of all exits' probabilities. "plain" is the published model with unscaled units,
            "scaled" the one with units scaled by survival. All but "exits" use the final head.
    """
    if form == "raw":
        return point.raw_accuracy if point.raw_accuracy is not None else point.accuracy
    if form == "exits":
        return point.mean_accuracy
    if form == "plain":
        return point.plain_accuracy
    if form == "scaled":
        return point.scaled_accuracy
    return point.accuracy if point.accuracy is not None else point.raw_accuracy


def curve(
    cell: CellResult, axis: Axis = "time", form: Form = "published"
) -> tuple[list[float], list[float]]:
    """Return the costs and accuracies of the versions that have this form of accuracy.

    Some policies answer with the mean of all exits (`evaluation.answer`). For these, the published
    accuracy is that of the mean.
    """
    if form == "published" and cell.config.get("evaluation", {}).get("answer") == "mean":
        form = "exits"
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
    xs, ys = ([spent(p, axis) for p in cell.curve] for axis in AXES)
    return float(np.interp(virtual_s, xs, ys))


def outdated_s(cell: CellResult, at_s: float) -> float:
    """Return for how long the newest evaluated version has been outdated at a moment."""
    judged = max((p.version for p in cell.curve if p.virtual_s <= at_s), default=-1)
    newer = [r.closed_s for r in cell.rounds if r.version > judged and r.closed_s <= at_s]
    return at_s - min(newer) if newer else 0.0


def mean_accuracy(cell: CellResult, end_s: float) -> float | None:
    """Return the area under the published model's curve, divided by the length of the curve."""
    return statistics.mean_height(*curve(cell), end_s)


def time_to(cell: CellResult, target: float, end_s: float) -> float | None:
    """Return when the published model first had `target`, interpolated; None if after `end_s`."""
    at = statistics.first_reach(*curve(cell), target)
    return at if at is not None and at <= end_s else None


def memory_ratio(
    ours: CellResult, theirs: CellResult, limited: Mapping[str, CellDevice]
) -> float | None:
    """Return the mean ratio of measured peaks, over limited devices that trained in both cells."""
    peaks = {d.worker_id: d.peak_measured_bytes for d in _trained(theirs, limited)}
    found = [d for d in _trained(ours, limited) if d.worker_id in peaks]
    ratios = [d.peak_measured_bytes / peaks[d.worker_id] for d in found]
    return float(np.mean(ratios)) if ratios else None


def device_count(cell: CellResult) -> int:
    """Return the number of devices that trained at all."""
    return sum(d.peak_measured_bytes > 0 for d in cell.devices)


def memory_peak(cell: CellResult, limited: Mapping[str, CellDevice]) -> float | None:
    """Return the mean measured peak of the limited devices in bytes; None where none trained."""
    peaks = [d.peak_measured_bytes for d in _trained(cell, limited)]
    return float(np.mean(peaks)) if peaks else None


def memory_share(cell: CellResult, limited: Mapping[str, CellDevice]) -> float | None:
    """Return the limited devices' mean of measured peak / budget; None where none trained."""
    found = _trained(cell, limited)
    shares = [d.peak_measured_bytes / limited[d.worker_id].memory_bytes for d in found]
    return float(np.mean(shares)) if shares else None


def _trained(cell: CellResult, limited: Mapping[str, CellDevice]) -> list[CellDevice]:
    return [d for d in cell.devices if d.worker_id in limited and d.peak_measured_bytes]


def coverage(cell: CellResult) -> list[int]:
    """Return N* of the merged updates in each full window of versions."""
    return [r.coverage_min for r in cell.rounds if r.version >= _window(cell)]


def coverage_share(cell: CellResult) -> float | None:
    """Return the mean of N* / its bound over full windows.

    The bound is the number of updates times their mean share of the cost.
    """
    rows = [r for r in cell.rounds if r.version >= _window(cell) and r.coverage_bound]
    return float(np.mean([r.coverage_min / r.coverage_bound for r in rows])) if rows else None


def _window(cell: CellResult) -> int:
    return int(cell.config.get("rounds", {}).get("coverage_window", 1))


def outcome_count(cell: CellResult, *names: str) -> int:
    """Return the number of plans of all devices that ended in one of these outcomes."""
    return sum(d.outcomes[Outcome(n)] for d in cell.devices for n in names)


def plan_count(cell: CellResult) -> int:
    """Return the number of plans of all devices that ended."""
    return sum(sum(d.outcomes.values()) for d in cell.devices)


def bytes_up(cell: CellResult) -> int:
    """Return the bytes that all devices sent."""
    return sum(d.bytes_up for d in cell.devices)


def bytes_down(cell: CellResult) -> int:
    """Return the bytes that all devices fetched."""
    return sum(d.bytes_down for d in cell.devices)


def label_distance(cell: CellResult) -> float | None:
    """Return the mean total variation between a device's label mix and the fleet's, in [0, 1].

    Devices that withhold their labels are left out. None where no device reports labels.
    """
    told = [d.label_counts for d in cell.devices if d.label_counts and sum(d.label_counts)]
    if not told:
        return None
    counts = np.array(told, float)
    own = counts / counts.sum(axis=1, keepdims=True)
    everyone = counts.sum(axis=0) / counts.sum()
    return float(np.abs(own - everyone).sum(axis=1).mean() / 2)
