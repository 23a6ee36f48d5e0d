"""One version as a row, and the functions that make it from the version's updates.

Formulas are those of `bound.py`; docs/telemetry.md describes each figure.

Invariants:
A row is an immutable value, and its functions are pure.
A figure that is not known yet, or that the log does not give, is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cos2p.history.curve import EvaluationRow
from cos2p.history.device import Labels
from cos2p.history.figure import REQUIRED, figure, figures_of, json_of
from cos2p.log import messages as m
from cos2p.log.state_codec import Bytes, Counts16
from cos2p.model import bound
from cos2p.model.units import UnitTable

CLOSED, MERGED, PUBLISHED = "RoundClosed", "UpdateAdmitted", "VersionPublished"
USED = f"PlanIssued, {MERGED}"
LABELS = f"Hello, {USED}"


@dataclass(frozen=True)
class VersionRow:
    """One closed version; docs/telemetry.md describes each figure.

    Its updates are those admitted to it. The window is the run's last rounds.coverage_window
    versions, up to this one.

    Attributes:
        verdict: the evaluator's verdict; JSON has its figures among the row's.
        counts: number of its updates per unit, shape (units,).
    """

    version: int = figure(REQUIRED, "its number", "", CLOSED)
    closed_s: float = figure(REQUIRED, "when the planner closed it", "s", CLOSED)
    reason: str = figure(REQUIRED, "why it closed: count, deadline, all or group", "", CLOSED)
    waited_s: float = figure(REQUIRED, "since the version before", "s", CLOSED)
    update_count: int = figure(REQUIRED, "K, its updates", "count", CLOSED)
    coverage_planned: int = figure(
        0, "N* planned: least number of devices that hold any prunable unit", "count", CLOSED
    )
    coverage_min: int = figure(
        0, "N* merged: least updates of any prunable unit in the window", "count", CLOSED
    )
    coverage_bound: float = figure(
        0.0,
        "fluid bound: the window's updates times their mean share of the prunable cost",
        "count",
        CLOSED,
    )
    devices_bound: int = figure(
        0,
        "floor(sum r_i) over the devices that can train, r_i the fraction of the prunable cost "
        "that memory (less `plans.memory_margin`) affords",
        "count",
        CLOSED,
    )
    coverage_low: int = figure(
        0, "5 % quantile over prunable units of the updates in the window", "count", USED
    )
    coverage_gini: float = figure(
        0.0, "Gini coefficient of the same: 0 even, towards 1 uneven", "", USED
    )
    steps_min: int = figure(0, "E: least local steps done", "steps", MERGED)
    steps_mean: float = figure(0.0, "E: mean", "steps", MERGED)
    steps_max: int = figure(0, "E: most", "steps", MERGED)
    learning_rate: float = figure(0.0, "mean over the updates' plans", "", USED)
    staleness: tuple[int, ...] = figure(
        (), "how many updates had tau = 0, 1, 2, ...", "count", MERGED
    )
    staleness_mean: float = figure(0.0, "over the updates", "versions", MERGED)
    staleness_max: int = figure(0, "over the updates", "versions", MERGED)
    label_distance_mean: float | None = figure(
        None,
        "over prunable units: total variation, 1/2 sum_c of the difference, between the unit's "
        "label mix (updates in the window that trained it, each device's label shares weighted "
        "by a_i) and that of all devices; units that no such update trained are left out",
        "share",
        LABELS,
    )
    label_distance_max: float | None = figure(None, "the largest", "share", LABELS)
    labels_withheld: int = figure(
        0,
        "devices of the window's updates that keep their labels to themselves: left out of "
        "both figures above",
        "count",
        "Hello",
    )
    left_out_count: int | None = figure(
        None, "units of its updates that failed the aggregator's checks", "", PUBLISHED
    )
    step_norm: float | None = figure(
        None, "L2 norm of the change from the version before", "", PUBLISHED
    )
    model_norm: float | None = figure(None, "L2 norm of the raw weights", "", PUBLISHED)
    delta_square: float | None = figure(
        None, "sum over merged units of sum_i a_i s_i^2 |delta_iu|^2 / sum_i a_i", "", PUBLISHED
    )
    dispersion: float | None = figure(
        None, "`delta_square` - |D|^2: the updates' variance about their mean", "", PUBLISHED
    )
    gradient_proxy: float | None = figure(
        None,
        "|D|^2 / (lr E)^2, lr E the mean of lr_i s_i E_i weighted by a_i",
        "",
        f"{PUBLISHED}, {USED}",
    )
    pruning_noise_mean: float | None = figure(
        None,
        "over the updates: sum over the units neither trained nor frozen of |w_u|^2 / |w|^2, "
        "in the update's base version",
        "share",
        f"{PUBLISHED}.unit_norms, PlanIssued",
    )
    pruning_noise_max: float | None = figure(None, "the largest", "share", PUBLISHED)
    verdict: EvaluationRow | None = None
    counts: Counts16 = field(
        default_factory=lambda: np.zeros(0, np.int16), compare=False, repr=False
    )

    def to_json(self) -> dict[str, Any]:
        """The row's only JSON form: its figures and its verdict's, null if not known."""
        empty = dict.fromkeys(figures_of(EvaluationRow))
        return {**empty, **(json_of(self.verdict) if self.verdict else {}), **json_of(self)}


def row_fields(plain: dict[str, Any]) -> dict[str, Any]:
    """The fields of a row from the document that its `to_json` gave."""
    own = {f.name for f in fields(VersionRow)} - {"verdict", "counts"}
    row = {k: v for k, v in plain.items() if k in own}
    if plain.get("judged_s") is not None:
        row["verdict"] = {f.name: plain[f.name] for f in fields(EvaluationRow) if f.name in plain}
    return row


@dataclass(frozen=True)
class Merged:
    """An admitted update, as far as rows need it.

    Attributes:
        trained: its trained units as packed bits.
        present: its trained and frozen units as packed bits.
        steps: number of local steps done.
        path: learning rate times the local steps that the merged delta stands for. With
            normalisation by steps, a delta of 5 steps may count as one of 10.
        weight: its weight in the merge.
        staleness: its staleness in versions.
    """

    worker_id: str
    base_version: int
    trained: Bytes
    present: Bytes
    steps: int
    learning_rate: float
    path: float
    weight: float
    staleness: int

    @cached_property
    def trained_bits(self) -> bound.Mask:
        """The trained units as a mask, shape (units,) padded to a multiple of 8."""
        return np.unpackbits(self.trained).view(np.bool_)

    @classmethod
    def of(cls, admitted: m.UpdateAdmitted, plan: m.Plan, units: int) -> "Merged":
        """Make the update from its admission and its plan; `units` is the model's unit count."""
        trained = _packed(plan.trained, units)
        return cls(
            worker_id=plan.worker_id,
            base_version=plan.base_version,
            trained=trained,
            present=_packed((*plan.trained, *plan.frozen), units) if plan.frozen else trained,
            steps=admitted.steps_done,
            learning_rate=plan.learning_rate,
            path=plan.learning_rate * admitted.scale * admitted.steps_done,
            weight=admitted.weight,
            staleness=admitted.staleness,
        )


def row_of(
    closed: m.RoundClosed,
    prunable: bound.Mask,
    versions: Sequence[Sequence[Merged]],
    labels: Mapping[str, Labels],
) -> VersionRow:
    """Make the row of a version when it is closed, without the aggregator's figures.

    Args:
        closed: the planner's decision.
        prunable: mask of the prunable units, shape (units,).
        versions: updates of each version in the window, oldest first, this version's last.
        labels: labels of each device that was known by then, by its name.
    """
    updates = versions[-1]
    window = [u for version in versions for u in version]
    covered = counts_of(window, len(prunable))[prunable]
    known = {worker_id: of for worker_id, of in labels.items() if of and sum(of)}
    distances = label_distances(window, known, prunable)
    steps = [u.steps for u in updates] or [0]
    late = np.array([u.staleness for u in updates], np.int64)
    return VersionRow(
        version=closed.version,
        closed_s=closed.at_s,
        reason=closed.reason,
        waited_s=closed.waited_s,
        update_count=closed.update_count,
        coverage_planned=closed.coverage_planned,
        coverage_min=closed.coverage_min,
        coverage_bound=closed.coverage_bound,
        devices_bound=closed.devices_bound,
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
        label_distance_max=float(distances.max()) if len(distances) else None,
        labels_withheld=len({u.worker_id for u in window} - known.keys()),
        counts=counts_of(updates, len(prunable)).astype(np.int16),
    )


def completed(
    row: VersionRow,
    parts: Sequence[m.VersionPublished],
    noises: Sequence[float],
    mean_square: float,
    path: float,
) -> VersionRow:
    """Add the aggregator's figures to a row.

    Args:
        row: the row as made when the version was closed.
        parts: one of each shard.
        noises: see `noises_of`.
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


def path_of(updates: Sequence[Merged]) -> float:
    """Learning rate * E: the mean over the updates, with the weights of the merge."""
    total = sum(u.weight for u in updates)
    return sum(u.weight * u.path for u in updates) / total if total else 0.0


def noises_of(updates: Sequence[Merged], squares: dict[int, bound.Floats]) -> list[float]:
    """Pruning noise of the updates whose base version's norms are known."""
    known = [(u, squares[u.base_version]) for u in updates if u.base_version in squares]
    found = [
        bound.pruning_noise(np.unpackbits(u.present, count=len(of)).view(np.bool_), of)
        for u, of in known
    ]
    return [noise for noise in found if noise is not None]


def unit_squares(parts: Sequence[m.VersionPublished], table: UnitTable) -> bound.Floats:
    """Squared norm of each unit's weights; all 0 if a shard gives no norms."""
    squares = np.zeros(len(table))
    for part in parts:
        whole = part.shard_count == 1
        owned = slice(None) if whole else list(table.owned_by(part.shard, part.shard_count))
        norms = np.frombuffer(part.unit_norms, "<f4").astype(np.float64)
        if len(norms) != len(squares[owned]):
            return np.zeros(len(table))
        squares[owned] = norms**2
    return squares


def counts_of(updates: Sequence[Merged], units: int) -> bound.Counts:
    """How many of the updates trained each unit, shape (units,)."""
    counts = np.zeros(units, np.int64)
    for update in updates:
        counts += update.trained_bits[:units]
    return counts


def label_distances(
    updates: Sequence[Merged], known: Mapping[str, Sequence[int]], prunable: bound.Mask
) -> bound.Floats:
    """Label distance of each prunable unit that an update with known labels has trained.

    See `bound.label_distances`. `known` holds the devices' samples per label, where there are any.
    """
    labelled = [u for u in updates if u.worker_id in known]
    if not labelled:
        return np.zeros(0)
    classes = max(len(of) for of in known.values())
    units = len(prunable)
    distances = bound.label_distances(
        np.array([u.trained_bits[:units] for u in labelled])[:, prunable],
        np.array([u.weight for u in labelled]),
        _matrix([known[u.worker_id] for u in labelled], classes),
        _matrix(list(known.values()), classes).sum(axis=0),
    )
    return distances[~np.isnan(distances)]


def _packed(units: Sequence[int], count: int) -> Bytes:
    mask = np.zeros(count, np.bool_)
    mask[[u for u in units if u < count]] = True
    return np.packbits(mask)


def _matrix(labels: Sequence[Sequence[int]], classes: int) -> bound.Floats:
    """The labels as a matrix, one row for each, padded with zeros to `classes`."""
    return np.array([(*of, *(0,) * (classes - len(of))) for of in labels], np.float64)


def _mean(values: Sequence[float] | NDArray[np.int64] | bound.Floats) -> float | None:
    return float(np.mean(values)) if len(values) else None
