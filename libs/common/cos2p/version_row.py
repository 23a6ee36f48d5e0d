"""One version as a row of telemetry, and how it is made of the updates in it.

Invariants: a row is a value, its functions are pure; what is not known yet, or can't be told from
the log, is None. Formulas are those of `bound.py`; docs/telemetry.md has them as a table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cos2p import bound
from cos2p import messages as m
from cos2p.units import UnitTable

Labels = tuple[int, ...] | None


@dataclass(frozen=True)
class AccuracyPoint:
    """The evaluator's verdict on one version (Evaluated).

    Attributes:
        version: which.
        at_s: when it was told.
        average: accuracy of the published model in [0, 1]; None for a task without classes.
        raw: of the raw version.
        loss: mean, of the published model.
        sample_count: samples judged on.
        exits: of each inner exit, shallow first.
        mean: of the mean of all exits' probabilities, the final head among them.
        plain: of the published model with its units unscaled (evaluation.scaling).
        scaled: the same with its units scaled by survival.
    """

    version: int
    at_s: float
    average: float | None
    raw: float | None
    loss: float
    sample_count: int
    exits: tuple[float, ...] = ()
    mean: float | None = None
    plain: float | None = None
    scaled: float | None = None


@dataclass(frozen=True)
class VersionRow:
    """One closed version.

    Its updates are those admitted to it; the window is the run's rounds.coverage_window versions,
    of which it is the last.

    Attributes:
        version: its number.
        closed_s: when it was closed.
        reason: why: count, deadline, all or group.
        waited_s: since the version before was closed.
        update_count: K, its updates.
        coverage_planned: N* planned: least devices that hold any prunable unit.
        coverage_min: N* merged: least updates of any prunable unit over the window.
        coverage_bound: the fluid bound: the window's updates times their mean share of the cost.
        devices_bound: floor(sum r_i) over the devices there, r_i the fraction of the prunable cost
            that a device's memory affords: the most that N* planned can be.
        coverage_low: 5 % quantile of updates per prunable unit over the window.
        coverage_gini: Gini coefficient of the same.
        steps_min: E, least local steps done of its updates; steps_mean, steps_max alike.
        learning_rate: mean over its updates' plans.
        staleness: how many of its updates were 0, 1, 2, ... versions late.
        staleness_mean: mean over its updates.
        staleness_max: largest.
        label_distance_mean: mean over prunable units of the total variation between the labels that
            trained the unit over the window and everybody's; None where nobody tells labels.
        label_distance_max: the largest.
        labels_withheld: devices of the window's updates that keep their labels to themselves; their
            updates are left out of the two figures above.
        left_out_count: units of its updates that failed the aggregator's checks.
        step_norm: L2 norm of the change from the version before.
        model_norm: L2 norm of the raw weights.
        delta_square: weighted mean of its updates' squared delta norms.
        dispersion: delta_square less the squared norm of the mean delta.
        gradient_proxy: |D|^2 / (lr E)^2, D the mean delta.
        pruning_noise_mean: mean over its updates of the share of the base version's square that the
            submodel lacked.
        pruning_noise_max: the largest.
        accuracy: of the published model; raw_accuracy of the raw one, plain_accuracy of the
            published one with its units unscaled, scaled_accuracy with them scaled, mean_accuracy
            of the mean of all exits, exit_accuracies of each inner exit.
        counts: its updates per unit, shape (units,).
    """

    version: int
    closed_s: float
    reason: str
    waited_s: float
    update_count: int
    coverage_planned: int
    coverage_min: int
    coverage_bound: float
    devices_bound: int
    coverage_low: int
    coverage_gini: float
    steps_min: int
    steps_mean: float
    steps_max: int
    learning_rate: float
    staleness: tuple[int, ...]
    staleness_mean: float
    staleness_max: int
    label_distance_mean: float | None
    label_distance_max: float | None
    labels_withheld: int
    left_out_count: int | None = None
    step_norm: float | None = None
    model_norm: float | None = None
    delta_square: float | None = None
    dispersion: float | None = None
    gradient_proxy: float | None = None
    pruning_noise_mean: float | None = None
    pruning_noise_max: float | None = None
    accuracy: float | None = None
    raw_accuracy: float | None = None
    plain_accuracy: float | None = None
    scaled_accuracy: float | None = None
    mean_accuracy: float | None = None
    exit_accuracies: tuple[float, ...] = ()
    counts: NDArray[np.int16] = field(
        default_factory=lambda: np.zeros(0, np.int16), compare=False, repr=False
    )

    def plain(self) -> dict[str, Any]:
        """JSON-able values, all but `counts`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "counts"}


@dataclass(frozen=True)
class Merged:
    """An update admitted, as far as rows need it.

    Attributes:
        worker_id: whose.
        labels: its samples per label; None where it keeps them to itself.
        base_version: what it was trained from.
        trained: its units, shape (units,).
        present: its units and the frozen ones, shape (units,).
        steps: local steps done.
        learning_rate: of its plan.
        path: learning rate times the local steps that the delta stands for as it is merged: with
            normalisation by steps a delta of 5 steps may count as one of 10.
        weight: in the merge.
        staleness: versions late.
    """

    worker_id: str
    labels: Labels
    base_version: int
    trained: bound.Mask
    present: bound.Mask
    steps: int
    learning_rate: float
    path: float
    weight: float
    staleness: int

    @classmethod
    def of(cls, admitted: m.UpdateAdmitted, plan: m.Plan, labels: Labels, units: int) -> "Merged":
        """The update of a plan on a model of so many units."""
        return cls(
            worker_id=plan.worker_id,
            labels=labels,
            base_version=plan.base_version,
            trained=_mask(plan.trained, units),
            present=_mask((*plan.trained, *plan.frozen), units),
            steps=admitted.steps_done,
            learning_rate=plan.learning_rate,
            path=plan.learning_rate * admitted.scale * admitted.steps_done,
            weight=admitted.weight,
            staleness=admitted.staleness,
        )


@dataclass(frozen=True)
class Surroundings:
    """What a row needs beside its version's updates.

    Attributes:
        table: the model's units.
        window: updates of each of the window's versions, oldest first, its own the last.
        everyone: labels of each device that had come by then.
        devices_bound: see VersionRow.
    """

    table: UnitTable
    window: Sequence[Sequence[Merged]]
    everyone: Sequence[Labels]
    devices_bound: int


def row_of(closed: m.RoundClosed, at_s: float, around: Surroundings) -> VersionRow:
    """The row of a version as it is closed: all that the aggregator has no part in."""
    updates, prunable = around.window[-1], around.table.prunable
    window = [u for version in around.window for u in version]
    covered = counts_of(window, len(prunable))[prunable]
    distances = label_distances(window, prunable, around.everyone)
    steps = [u.steps for u in updates] or [0]
    late = np.array([u.staleness for u in updates], np.int64)
    return VersionRow(
        version=closed.version,
        closed_s=at_s,
        reason=closed.reason,
        waited_s=closed.waited_s,
        update_count=closed.update_count,
        coverage_planned=closed.coverage_planned,
        coverage_min=closed.coverage_min,
        coverage_bound=closed.coverage_bound,
        devices_bound=around.devices_bound,
        coverage_low=bound.low_coverage(covered),
        coverage_gini=bound.gini(covered),
        steps_min=min(steps),
        steps_mean=float(np.mean(steps)),
        steps_max=max(steps),
        learning_rate=_mean([u.learning_rate for u in updates]) or 0.0,
        staleness=tuple(np.bincount(late).tolist()),
        staleness_mean=_mean(late) or 0.0,
        staleness_max=int(late.max(initial=0)),
        label_distance_mean=_mean(distances),
        label_distance_max=max(distances, default=None),
        labels_withheld=len({u.worker_id for u in window if not _told(u.labels)}),
        counts=counts_of(updates, len(prunable)).astype(np.int16),
    )


def completed(
    row: VersionRow,
    parts: Sequence[m.VersionPublished],
    noises: Sequence[float],
    mean_square: float,
    path: float,
) -> VersionRow:
    """The row with what the aggregator told.

    Args:
        row: of the version as it was closed.
        parts: what each shard published.
        noises: pruning noise of each of its updates, as far as it is known.
        mean_square: |D|^2 over all shards.
        path: lr * E, see `path_of`.
    """
    delta_square = sum(p.delta_square for p in parts)
    return replace(
        row,
        left_out_count=sum(len(p.left_out) for p in parts),
        step_norm=sum(p.step_norm**2 for p in parts) ** 0.5,
        model_norm=sum(p.model_norm**2 for p in parts) ** 0.5,
        delta_square=delta_square,
        dispersion=bound.dispersion(delta_square, mean_square),
        gradient_proxy=bound.gradient_proxy(mean_square, path),
        pruning_noise_mean=_mean(noises),
        pruning_noise_max=max(noises, default=None),
    )


def judged(row: VersionRow, point: AccuracyPoint) -> VersionRow:
    """The row with the evaluator's verdict."""
    return replace(
        row,
        accuracy=point.average,
        raw_accuracy=point.raw,
        plain_accuracy=point.plain,
        scaled_accuracy=point.scaled,
        mean_accuracy=point.mean,
        exit_accuracies=point.exits,
    )


def path_of(updates: Sequence[Merged]) -> float:
    """Learning rate * E: mean over the updates, weighted as the merge weighs them."""
    total = sum(u.weight for u in updates)
    return sum(u.weight * u.path for u in updates) / total if total else 0.0


def counts_of(updates: Sequence[Merged], units: int) -> bound.Counts:
    """How many of the updates trained each unit, shape (units,)."""
    counts = np.zeros(units, np.int64)
    for update in updates:
        counts += update.trained
    return counts


def label_distances(
    updates: Sequence[Merged], prunable: bound.Mask, everyone: Sequence[Labels]
) -> list[float]:
    """Of each prunable unit that an update with labels has trained; see `bound.label_distances`."""
    telling = [u for u in updates if _told(u.labels)]
    told = [labels for labels in everyone if _told(labels)]
    if not telling or not told:
        return []
    classes = max(len(labels or ()) for labels in [*told, *(u.labels for u in telling)])
    distances = bound.label_distances(
        np.array([u.trained[prunable] for u in telling]),
        np.array([u.weight for u in telling]),
        np.array([_padded(u.labels, classes) for u in telling]),
        np.sum([_padded(labels, classes) for labels in told], axis=0),
    )
    return [float(d) for d in distances if not np.isnan(d)]


def _mask(units: Sequence[int], count: int) -> bound.Mask:
    mask = np.zeros(count, np.bool_)
    mask[[u for u in units if u < count]] = True
    return mask


def _told(labels: Labels) -> bool:
    return labels is not None and sum(labels) > 0


def _padded(labels: Labels, classes: int) -> bound.Floats:
    counts = np.zeros(classes)
    counts[: len(labels or ())] = labels or ()
    return counts


def _mean(values: Sequence[float] | NDArray[np.int64]) -> float | None:
    return float(np.mean(values)) if len(values) else None
