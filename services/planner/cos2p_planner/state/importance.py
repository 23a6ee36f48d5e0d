"""What a unit is worth to a device, from the scores that devices report or from weight norms.

Gate scores are from Molchanov et al. 2019 (arXiv 1906.10771); for heads, from Michel et al. 2019
(arXiv 1905.10650). A score is the mean over samples of the squared gate gradient <a_u, dl/da_u>;
its square root counts. Scores are kept twice. The fleet's are kept by label, S[u, c]. Each device's
are kept over its own samples, whatever their labels. Two parts are our own reconstruction, not a
published rule: the scores by label, and the way in which the two kinds are mixed.

Invariants:
- The values are a fold of the reports in the order of `fleet` and of the versions on `models`. A
  restarted planner that reads both again has the same values to the bit.
- Within a kind of a block (or of the model: `plans.importance_scope`) the mean of the known values
  is 1. So a value measures how much better a unit is than units of its kind, per unit of cost.
  Dividing it by cost again would starve attention heads, which are large.
- A unit without scores is worth 1, so that it does not stay out because it was out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p.log import messages as m
from cos2p.log.state_codec import Floats
from cos2p.model.cost import FLOAT_BYTES
from cos2p.model.unit_wire import UnitScores
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.state.device import Device
from cos2p_planner.state.ledger import PlanFacts, unpacked

OWN_SHARE = 0.5
"""lambda: share of a device's own scores in its value. The rest is the fleet's, by label. No other
value was measured."""
DECAY = 0.7
"""beta: weight of a sample scored on one version against one scored on the next, by label for the
fleet. Also the weight of a device's report against its next."""
SMOOTHING = 1.0
"""Added to each label's count in a device's histogram."""


@dataclass
class Means:
    """Weighted means as sums and weights, so that counts weigh across devices and versions."""

    sums: Floats
    weights: Floats

    @classmethod
    def none(cls, *shape: int) -> "Means":
        """Return means with nothing known."""
        return cls(np.zeros(shape), np.zeros(shape))

    def root(self) -> Floats:
        """Return the square root of each mean; NaN where nothing is known."""
        known = self.weights > 0
        return np.sqrt(np.divide(self.sums, self.weights, where=known, out=_unknown(known.shape)))


@dataclass
class ByLabel:
    """The fleet's mean squares by label: S[u, c] before its root and normalisation.

    Evidence of version v weighs count * DECAY ** (newest - v), separately for each unit and label.
    So what is not scored again keeps its mean.
    """

    means: Means
    newest: Floats

    @classmethod
    def none(cls, unit_count: int, classes: int) -> "ByLabel":
        """Return mean squares with nothing known."""
        return cls(Means.none(unit_count, classes), np.zeros((unit_count, classes)))

    def add(self, units: NDArray[np.int64], version: int, sums: Floats, counts: Floats) -> None:
        """Add sums of shape (units given, classes) and counts of shape (classes,)."""
        place = np.ix_(units, np.flatnonzero(counts))
        seen = self.newest[place]
        newest = np.maximum(seen, version)
        old, new = DECAY ** (newest - seen), DECAY ** (newest - version)
        self.newest[place] = newest
        kept = counts > 0
        self.means.sums[place] = old * self.means.sums[place] + new * sums[:, kept]
        self.means.weights[place] = old * self.means.weights[place] + new * counts[kept]


@dataclass
class ImportanceState:
    """What a snapshot holds of the values.

    Attributes:
        norms: newest L2 norm of each unit's weights; NaN where it is not known, shape (units,).
        own: each device's scores over its own samples.
        fleet: all scores by label; None before the first.
        refused: reports whose scores were wrong, per worker.
    """

    norms: Floats
    own: dict[str, Means] = field(default_factory=dict)
    fleet: ByLabel | None = None
    refused: Counter[str] = field(default_factory=Counter)


class Importance:
    """Values of units per device, for one run; `plans.importance` selects what is kept."""

    def __init__(
        self,
        table: UnitTable,
        config: RunConfig,
        state: ImportanceState | None = None,
        *,
        own_share: float = OWN_SHARE,
    ) -> None:
        self._table, self._config, self._own_share = table, config, own_share
        self._groups = _membership(table, config.plans.importance_scope)
        self.state = state or ImportanceState(np.full(len(table), np.nan))
        self._fleet_value: Floats | None = None
        """The fleet's value of the newest scores; None where it has to be computed again."""

    def learn(self, report: m.Report, facts: PlanFacts, device: Device | None) -> str:
        """Take the scores of a device's first report of its own plan, if it has any.

        Returns why the scores are not used; empty where they are.
        """
        scores, plans = report.scores, self._config.plans
        if scores is None or device is None or plans.importance != "gate":
            return ""
        trained = unpacked(facts.trained, len(self._table))
        units = np.flatnonzero(trained & self._table.gated)
        samples_max = facts.local_steps * self._config.local.batch_size
        fault = _wrong_scores(scores, len(units), samples_max, device.label_counts)
        if not fault and scores.classes > 1 and self.state.fleet is not None:
            known = self.state.fleet.means.sums.shape[1]
            if scores.classes != known:
                fault = f"{scores.classes} labels, other devices have {known}"
        if fault:
            self.state.refused[report.worker_id] += 1
            return fault
        sums, counts = scores.matrix(), np.array(scores.counts, np.float64)
        self._learn_own(report.worker_id, units, sums.sum(1), counts.sum())
        if scores.classes > 1:
            if self.state.fleet is None:
                self.state.fleet = ByLabel.none(len(self._table), scores.classes)
            self.state.fleet.add(units, facts.base_version, sums, counts)
            self._fleet_value = None
        return ""

    def weigh(self, message: m.VersionPublished) -> None:
        """Take the norms of a shard's units, where the message has them."""
        owned = self._table.owned_by(message.shard, message.shard_count)
        # Norms of the wrong size are ignored: older values stay.
        if len(message.unit_norms) != FLOAT_BYTES * len(owned):
            return
        norms = np.frombuffer(message.unit_norms, "<f4")
        if np.isfinite(norms).all() and (norms >= 0).all():
            self.state.norms[list(owned)] = norms

    @property
    def norms(self) -> Floats | None:
        """Newest L2 norm of each unit's weights, shape (units,); None while one is unknown."""
        return None if np.isnan(self.state.norms).any() else self.state.norms

    def value(self, device: Device) -> Floats:
        """Return what each unit is worth to a device, shape (units,).

        "gate": own_share * own + (1 - own_share) * sum_c pi(c) S[u, c], where pi is the device's
        smoothed label histogram. Where one of the two is not known, the other counts alone. That is
        so if labels are withheld, or for a unit that the device has not trained. "magnitude":
        ||w_u|| / sqrt(size), the same for all devices. "none": zeros.
        """
        plans = self._config.plans
        if plans.importance == "none":
            return np.zeros(len(self._table))
        if plans.importance == "magnitude":
            sizes = np.sqrt(self._table.sizes)
            prunable = np.where(self._table.prunable, self.state.norms / sizes, np.nan)
            return _or_mean(self._normalised(prunable))
        fleet = self._fleet_share(device.label_counts)
        own = self._own_value(device.worker_id, _or_mean(fleet))
        mixed = self._own_share * own + (1 - self._own_share) * fleet
        return _or_mean(np.where(np.isnan(own), fleet, np.where(np.isnan(fleet), own, mixed)))

    def _learn_own(self, worker_id: str, units: NDArray[np.int64], sums: Floats, n: float) -> None:
        own = self.state.own.setdefault(worker_id, Means.none(len(self._table)))
        own.sums[units] = DECAY * own.sums[units] + sums
        own.weights[units] = DECAY * own.weights[units] + n

    def _own_value(self, worker_id: str, fleet: Floats) -> Floats:
        """Return own scores on the fleet's scale: a device may have trained the best units only."""
        own = self.state.own.get(worker_id)
        return _unknown((len(self._table),)) if own is None else self._normalised(own.root(), fleet)

    def _fleet_share(self, label_counts: tuple[int, ...] | None) -> Floats:
        """Return sum_c pi(c) S[u, c]; unscored labels count as 1, units without scores are NaN."""
        if self.state.fleet is None or label_counts is None:
            return _unknown((len(self._table),))
        if self._fleet_value is None:
            self._fleet_value = self._normalised(self.state.fleet.means.root())
        by_label = self._fleet_value
        if len(label_counts) != by_label.shape[1]:
            return _unknown((len(self._table),))
        share = np.array(label_counts, np.float64) + SMOOTHING
        mixed: Floats = _or_mean(by_label) @ (share / share.sum())
        mixed[np.isnan(by_label).all(1)] = np.nan
        return mixed

    def _normalised(self, scores: Floats, like: Floats | None = None) -> Floats:
        """Return scores times a factor per kind in the scope (and label), so that their mean is 1.

        Args:
            scores: shape (units,) or (units, classes); NaN is not known, and stays.
            like: shape (units,): take its mean over the same units instead of 1.

        Returns:
            Normalised scores, with the shape of `scores`. Where all of a kind are 0, none is better
            than another, so all get the mean.
        """
        known = ~np.isnan(scores)
        totals = self._groups @ np.where(known, scores, 0.0)
        due = self._groups @ np.where(known, 1.0 if like is None else like, 0.0)
        counts = self._groups @ known.astype(np.float64)
        factors, means = np.zeros_like(totals), np.zeros_like(totals)
        np.divide(due, totals, where=totals > 0, out=factors)
        np.divide(due, counts, where=(totals == 0) & (counts > 0), out=means)
        result: Floats = scores * (self._groups.T @ factors) + self._groups.T @ means
        return result


def _wrong_scores(
    scores: UnitScores, unit_count: int, samples_max: int, label_counts: Sequence[int] | None
) -> str:
    """Return why a report's unit scores are not used; empty where they are.

    Scores only steer the choice of units, so wrong scores do not make the update INVALID. `judge`
    checks the report, and the aggregator checks its payload.

    `samples_max` samples can have been used in the plan's steps, with repeats. `label_counts` is
    what the device announced; None where it withholds its labels.
    """
    classes, counts = scores.classes, scores.counts
    if len(counts) != classes or len(scores.sums) != FLOAT_BYTES * unit_count * classes:
        return (
            f"{len(counts)} counts and {len(scores.sums)} bytes of sums don't make "
            f"{unit_count} units by {classes} labels"
        )
    if classes > 1:
        announced = label_counts or ()
        if len(announced) != classes:
            return f"{classes} labels, the device announced {len(announced)}"
        if absent := [c for c in range(classes) if counts[c] and not announced[c]]:
            return f"samples of label {absent[0]}, of which the device announced none"
    if not 0 < sum(counts) <= samples_max:
        return f"{sum(counts)} samples scored; the plan's steps show 1 to {samples_max}"
    sums = scores.matrix()
    if not np.isfinite(sums).all() or (sums < 0).any():
        return "a sum of squares is negative or not finite"
    if sums[:, np.array(counts) == 0].any():
        return "a sum without samples"
    return ""


def _membership(table: UnitTable, scope: Literal["block", "model"]) -> Floats:
    """Return 1 where a unit is of a group (prunable, one kind, in scope); shape (groups, units)."""
    apart = scope == "block"
    keys = [None if u.kind == "core" else (u.block * apart, u.kind) for u in table.units]
    groups = [key for key in dict.fromkeys(keys) if key is not None]
    rows = [[key == group for key in keys] for group in groups]
    return np.array(rows, np.float64).reshape(len(groups), len(keys))


def _unknown(shape: tuple[int, ...]) -> Floats:
    return np.full(shape, np.nan)


def _or_mean(values: Floats) -> Floats:
    """Return `values` with 1, the mean, for what is not known."""
    return np.where(np.isnan(values), 1.0, values)
