"""What a unit is worth to a device, from the scores that devices report or the size of weights.

Gate scores (Molchanov et al. 2019, arXiv 1906.10771; heads: Michel et al. 2019, arXiv 1905.10650):
the mean over samples of the squared gate gradient <a_u, dl/da_u>, of which the square root counts.
Kept twice: for the fleet by label, S[u, c], and for each device over its own samples, whatever
their labels. Our own reconstruction, no published rule: that labels are told apart, and how the two
are mixed.

Invariants: a fold of the reports in the order of `fleet` and of the versions on `models`, so a
restarted planner that reads both again has the same values to the bit; within a kind of a block (or
of the model: `plans.importance_scope`) the mean of what is known is 1, hence a value says how much
better than its like a unit is, per unit of cost (who divides it by cost again starves attention
heads, which are large); what nobody has scored is worth 1, so that a unit does not stay out because
it was out.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p.log import messages as m
from cos2p.log.state_codec import Floats
from cos2p.model.cost import FLOAT_BYTES
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.state.device import Device
from cos2p_planner.state.ledger import PlanFacts, unpacked
from cos2p_planner.state.reported_scores import wrong_scores

OWN_SHARE = 0.5
"""lambda: share of a device's own scores in its value; the rest is the fleet's, by label. No other
value was measured."""
DECAY = 0.7
"""beta: what a sample scored on one version weighs against one scored on the next, by label for the
fleet; and what a device's report weighs against its next."""
SMOOTHING = 1.0
"""Added to each label's count in a device's histogram."""


@dataclass
class Means:
    """Weighted means as sums and weights, so that counts weigh across devices and versions."""

    sums: Floats
    weights: Floats

    @classmethod
    def none(cls, *shape: int) -> "Means":
        """Nothing known."""
        return cls(np.zeros(shape), np.zeros(shape))

    def root(self) -> Floats:
        """The square root of each mean; NaN where nothing is known."""
        known = self.weights > 0
        return np.sqrt(np.divide(self.sums, self.weights, where=known, out=_unknown(known.shape)))


@dataclass
class ByLabel:
    """The fleet's mean squares by label: S[u, c] before its root and normalisation.

    Evidence of version v weighs count * DECAY ** (newest - v), for each unit and label apart, so
    that what is not scored again keeps its mean.
    """

    means: Means
    newest: Floats

    @classmethod
    def none(cls, unit_count: int, classes: int) -> "ByLabel":
        """Nothing known."""
        return cls(Means.none(unit_count, classes), np.zeros((unit_count, classes)))

    def add(self, units: NDArray[np.int64], version: int, sums: Floats, counts: Floats) -> None:
        """Take sums of shape (units given, classes) and counts of shape (classes,)."""
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
        norms: L2 norm of each unit's weights, newest; NaN where it is not known, shape (units,).
        own: each device's scores over its own samples.
        fleet: all scores by label; None before the first.
        refused: per worker: reports whose scores were wrong.
    """

    norms: Floats
    own: dict[str, Means] = field(default_factory=dict)
    fleet: ByLabel | None = None
    refused: Counter[str] = field(default_factory=Counter)


class Importance:
    """Values of units per device, for one run.

    Args:
        table: the model's units.
        config: the run's settings; `plans.importance` says what is kept.
        state: what a snapshot held.
        own_share: lambda, see `OWN_SHARE`.
    """

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
        """Of the newest scores; None where it has to be computed again."""

    @property
    def refused(self) -> Counter[str]:
        """Per worker: reports whose scores were wrong."""
        return self.state.refused

    def learn(self, report: m.Report, facts: PlanFacts, device: Device | None) -> str:
        """Take the scores of a report, if it has any.

        Args:
            report: a device's first of its own plan.
            facts: the plan's.
            device: the reporter.

        Returns:
            Why they are not used; empty where they are.
        """
        scores, plans = report.scores, self._config.plans
        if scores is None or device is None or plans.importance != "gate":
            return ""
        trained = unpacked(facts.trained, len(self._table))
        units = np.flatnonzero(trained & self._table.gated)
        samples_max = facts.local_steps * self._config.local.batch_size
        fault = wrong_scores(scores, len(units), samples_max, device.label_counts)
        if not fault and scores.classes > 1 and self.state.fleet is not None:
            known = self.state.fleet.means.sums.shape[1]
            if scores.classes != known:
                fault = f"{scores.classes} labels, other devices have {known}"
        if fault:
            self.refused[report.worker_id] += 1
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
        """Take the norms of a shard's units, where it says them."""
        owned = self._table.owned_by(message.shard, message.shard_count)
        if len(message.unit_norms) != FLOAT_BYTES * len(owned):
            return
        norms = np.frombuffer(message.unit_norms, "<f4")
        if np.isfinite(norms).all() and (norms >= 0).all():
            self.state.norms[list(owned)] = norms

    @property
    def norms(self) -> Floats | None:
        """L2 norm of each unit's weights, newest, shape (units,); None while one is unknown."""
        return None if np.isnan(self.state.norms).any() else self.state.norms

    def value(self, device: Device) -> Floats:
        """What each unit is worth to a device, shape (units,).

        "gate": own_share * own + (1 - own_share) * sum_c pi(c) S[u, c], pi the device's smoothed
        label histogram; whichever of the two is not known (labels withheld; a unit that the device
        has not trained) leaves the other alone. "magnitude": ||w_u|| / sqrt(size), alike for all.
        "none": zeros.
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
        """A device's own scores on the fleet's scale: it may have trained the best units only."""
        own = self.state.own.get(worker_id)
        return _unknown((len(self._table),)) if own is None else self._normalised(own.root(), fleet)

    def _fleet_share(self, label_counts: tuple[int, ...] | None) -> Floats:
        """sum_c pi(c) S[u, c]; labels not scored for a unit count as 1, NaN where none was."""
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
        """Scores times a factor per kind in the scope (and label), so that their mean is 1.

        Args:
            scores: shape (units,) or (units, classes); NaN is not known, and stays.
            like: shape (units,): take its mean over the same units instead of 1.

        Returns:
            As `scores`. Where all of a kind are 0, none is better than another: all the mean.
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


def _membership(table: UnitTable, scope: Literal["block", "model"]) -> Floats:
    """1 where a unit is of a group: prunable, of one kind, in the scope; shape (groups, units)."""
    apart = scope == "block"
    keys = [None if u.kind == "core" else (u.block * apart, u.kind) for u in table.units]
    groups = [key for key in dict.fromkeys(keys) if key is not None]
    rows = [[key == group for key in keys] for group in groups]
    return np.array(rows, np.float64).reshape(len(groups), len(keys))


def _unknown(shape: tuple[int, ...]) -> Floats:
    return np.full(shape, np.nan)


def _or_mean(values: Floats) -> Floats:
    """`values` with 1, the mean, for what is not known."""
    return np.where(np.isnan(values), 1.0, values)
