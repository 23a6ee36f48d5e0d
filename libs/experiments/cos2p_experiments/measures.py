"""What one cell's result says: accuracies on two axes, memory, coverage, plans, bytes.

Invariants: pure functions of a `CellResult`; a cell that ended early keeps the model that it had
(its curve goes on level); None where a cell can't say.
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
    """What a version had cost when it was published: virtual seconds, or bytes up and down."""
    return point.virtual_s if axis == "time" else float(point.bytes_up + point.bytes_down)


def accuracy(point: CurvePoint, form: Form = "published") -> float | None:
    """A version's accuracy in [0, 1].

    Args:
        point: the version.
        form: "published" is the moving average of versions, or the raw version where a policy
            has no average; "exits" is the mean of all exits' probabilities; "plain" the published
            model with its units as they are, "scaled" with them scaled by survival. All but
            "exits" are the final head's.
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
    """Where and how accurate, of the versions that have such an accuracy.

    What is published by a policy that answers with all its exits is their mean's
    (`evaluation.answer`).
    """
    if form == "published" and cell.config.get("evaluation", {}).get("answer") == "mean":
        form = "exits"
    points = [(spent(p, axis), a) for p in cell.curve if (a := accuracy(p, form)) is not None]
    return [x for x, _ in points], [y for _, y in points]


def accuracy_at(
    cell: CellResult, x: float, axis: Axis = "time", form: Form = "published"
) -> float | None:
    """The accuracy of the newest version at `x`, in [0, 1]."""
    return statistics.value_at(*curve(cell, axis, form), x)


def spent_at(cell: CellResult, virtual_s: float) -> float | None:
    """Bytes up and down by a moment, interpolated between evaluated versions."""
    if not cell.curve or virtual_s < cell.curve[0].virtual_s:
        return None
    xs, ys = ([spent(p, axis) for p in cell.curve] for axis in AXES)
    return float(np.interp(virtual_s, xs, ys))


def outdated_s(cell: CellResult, at_s: float) -> float:
    """For how long the version that a moment is judged by had not been the newest any more."""
    judged = max((p.version for p in cell.curve if p.virtual_s <= at_s), default=-1)
    newer = [r.closed_s for r in cell.rounds if r.version > judged and r.closed_s <= at_s]
    return at_s - min(newer) if newer else 0.0


def mean_accuracy(cell: CellResult, end_s: float) -> float | None:
    """Area under the curve of the published model, over its length."""
    return statistics.mean_height(*curve(cell), end_s)


def time_to(cell: CellResult, target: float, end_s: float) -> float | None:
    """When the published model first had `target`, interpolated; None where not by `end_s`."""
    at = statistics.first_reach(*curve(cell), target)
    return at if at is not None and at <= end_s else None


def memory_ratio(
    ours: CellResult, theirs: CellResult, limited: Mapping[str, CellDevice]
) -> float | None:
    """Mean over the limited devices that trained in both of the measured peaks' ratio."""
    peaks = {d.worker_id: d.peak_measured_bytes for d in _trained(theirs, limited)}
    found = [d for d in _trained(ours, limited) if d.worker_id in peaks]
    ratios = [d.peak_measured_bytes / peaks[d.worker_id] for d in found]
    return float(np.mean(ratios)) if ratios else None


def device_count(cell: CellResult) -> int:
    """Devices that trained at all."""
    return sum(d.peak_measured_bytes > 0 for d in cell.devices)


def memory_peak(cell: CellResult, limited: Mapping[str, CellDevice]) -> float | None:
    """Mean over the limited devices of the measured peak in bytes; None where none trained."""
    peaks = [d.peak_measured_bytes for d in _trained(cell, limited)]
    return float(np.mean(peaks)) if peaks else None


def memory_share(cell: CellResult, limited: Mapping[str, CellDevice]) -> float | None:
    """Mean over the limited devices of measured peak / budget; None where none trained."""
    found = _trained(cell, limited)
    shares = [d.peak_measured_bytes / limited[d.worker_id].memory_bytes for d in found]
    return float(np.mean(shares)) if shares else None


def _trained(cell: CellResult, limited: Mapping[str, CellDevice]) -> list[CellDevice]:
    return [d for d in cell.devices if d.worker_id in limited and d.peak_measured_bytes]


def coverage(cell: CellResult) -> list[int]:
    """N* merged in each full window of versions."""
    return [r.coverage_min for r in cell.rounds if r.version >= _window(cell)]


def coverage_share(cell: CellResult) -> float | None:
    """Mean over full windows of N* / its bound: the updates times their mean share of the cost."""
    rows = [r for r in cell.rounds if r.version >= _window(cell) and r.coverage_bound]
    return float(np.mean([r.coverage_min / r.coverage_bound for r in rows])) if rows else None


def _window(cell: CellResult) -> int:
    return int(cell.config.get("rounds", {}).get("coverage_window", 1))


def outcome_count(cell: CellResult, *names: str) -> int:
    """Plans of all devices that ended in one of these outcomes."""
    return sum(d.outcomes[Outcome(n)] for d in cell.devices for n in names)


def plan_count(cell: CellResult) -> int:
    """Plans of all devices that ended."""
    return sum(sum(d.outcomes.values()) for d in cell.devices)


def bytes_up(cell: CellResult) -> int:
    """Of all devices."""
    return sum(d.bytes_up for d in cell.devices)


def bytes_down(cell: CellResult) -> int:
    """Of all devices."""
    return sum(d.bytes_down for d in cell.devices)


def label_distance(cell: CellResult) -> float | None:
    """Mean over devices of the total variation between their label mix and all devices'; [0, 1].

    None for tasks without labels and for devices that withhold them.
    """
    told = [d.label_counts for d in cell.devices if d.label_counts and sum(d.label_counts)]
    if not told:
        return None
    counts = np.array(told, float)
    own = counts / counts.sum(axis=1, keepdims=True)
    everyone = counts.sum(axis=0) / counts.sum()
    return float(np.abs(own - everyone).sum(axis=1).mean() / 2)
