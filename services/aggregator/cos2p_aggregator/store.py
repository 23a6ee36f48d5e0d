"""The model in memory: raw weights, their moving average and the open version's accumulator.

Invariants:
- Each state is one contiguous float32 array over the units that this shard owns. So the whole is at
  most three models, for any number of workers.
- The average exists only where the run asks for one.
- A unit that no update touched keeps its raw bytes.
- Digests are computed again only for units whose bytes changed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import RunFailedError
from cos2p.model.units import UnitTable, unit_digest
from cos2p_aggregator import merge
from cos2p_aggregator.merge import F32Array


class ModelStore:
    """One shard's model: its `owned` units of the table, ascending.

    Where it is `averaged`, it keeps a moving average next to the raw weights.
    """

    def __init__(self, table: UnitTable, owned: Sequence[int], *, averaged: bool) -> None:
        self.table = table
        self.owned = tuple(owned)
        self.owned_set = frozenset(owned)
        sizes = table.sizes[list(owned)] if owned else np.zeros(0, np.int64)
        ends = np.cumsum(sizes)
        self._places = {
            unit: slice(int(end) - int(size), int(end))
            for unit, size, end in zip(self.owned, sizes, ends, strict=True)
        }
        total = int(sizes.sum())
        # Not zeroed: pages are allocated when a checkpoint is loaded, or a unit is first merged.
        self._raw: F32Array = np.empty(total, np.float32)
        self._accumulator: F32Array = np.empty(total, np.float32)
        self._average: F32Array | None = np.empty(total, np.float32) if averaged else None
        self._scratch: F32Array = np.empty(merge.BLOCK, np.float32)
        self._weights = dict.fromkeys(self.owned, 0.0)
        self.counts: NDArray[np.int64] = np.zeros(len(table), np.int64)
        """Updates merged into each unit since the last version, shape (units of the table,)."""
        self._held: NDArray[np.float64] = np.zeros(len(table))
        self._weight_sum = 0.0
        self._raw_digests: dict[int, bytes] = {}
        self._digests: dict[int, bytes] = {}
        self._square_sums = dict.fromkeys(self.owned, 0.0)
        self._delta_squares = dict.fromkeys(self.owned, 0.0)
        self._step_square_sum = 0.0
        self.unit_shares = b""
        """For the last version and each owned unit: the weight of the updates whose submodels held
        the unit, over the weight of all. It is float32, little-endian, in table order; empty where
        the version has no updates."""
        self.delta_square = 0.0
        """For the last version: mean over a unit's updates of their squared L2 norm, weighted as in
        the merge, summed over the units merged. Less the square of the mean delta's norm (step_norm
        / server_lr) it is the updates' dispersion about their mean."""

    @property
    def step_norm(self) -> float:
        """L2 norm of the last version's change of this shard."""
        return math.sqrt(self._step_square_sum)

    @property
    def model_norm(self) -> float:
        """L2 norm of this shard's raw weights."""
        return math.sqrt(sum(self._square_sums.values()))

    @property
    def square_sums(self) -> tuple[float, float]:
        """Squares of the two norms, to be summed over shards: (step, model)."""
        return self._step_square_sum, sum(self._square_sums.values())

    @property
    def unit_norms(self) -> bytes:
        """L2 norm of each owned unit's raw weights: float32, little-endian, in table order."""
        norms = np.sqrt(np.array([self._square_sums[u] for u in self.owned], np.float64))
        return np.minimum(norms, np.finfo(np.float32).max).astype("<f4").tobytes()

    def raw(self, unit: int) -> F32Array:
        """Return a view of the unit's raw weights, shape (size,)."""
        return self._raw[self._places[unit]]

    def average(self, unit: int) -> F32Array:
        """Return a view of the unit's published weights: the average, else the raw weights."""
        return self.raw(unit) if self._average is None else self._average[self._places[unit]]

    def load(self, unit: int, states: F32Array) -> None:
        """Set a unit from a checkpoint: raw values, then their average where it holds two."""
        size = int(self.table.sizes[unit])
        self.raw(unit)[:] = states[:size]
        if self._average is not None:
            self._average[self._places[unit]] = states[-size:]
        self._raw_digests.pop(unit, None)
        self._digests.pop(unit, None)
        self._square_sums[unit] = _finite_square_sum(self.raw(unit))

    def hold(self, units: Iterable[int], weight: float) -> None:
        """Count an update of a submodel that held these units, trained or frozen."""
        self._weight_sum += weight
        self._held[list(self.owned_set.intersection(units))] += weight

    def add(
        self, unit: int, delta: F32Array, *, weight: float, scale: float, square_sum: float
    ) -> None:
        """Add a checked delta of a unit, whose squares sum to `square_sum`, to the open version."""
        place = self._accumulator[self._places[unit]]
        first = self.counts[unit] == 0
        merge.add_weighted(place, delta, weight * scale, first=bool(first), scratch=self._scratch)
        self._weights[unit] += weight
        self._delta_squares[unit] += weight * scale * scale * square_sum
        self.counts[unit] += 1

    def close(self, version: int, server_lr: float, average_decay: float) -> Iterator[int]:
        """Make the next version, unit by unit; yield each unit's bytes so that a caller can pause.

        The units touched get w += server_lr * sum(a * delta) / sum(a) (FedAvg restricted to the
        covering updates, HeteroFL, arXiv 2010.01264). Then the average moves.

        Raises:
            RunFailedError: the weights overflow float32.
        """
        keep = merge.decay_at(version, average_decay)
        self._step_square_sum = self.delta_square = 0.0
        self.unit_shares = b""
        if self._weight_sum:
            shares = self._held[list(self.owned)] / self._weight_sum
            self.unit_shares = shares.astype("<f4").tobytes()
        for unit in self.owned:
            if self.counts[unit]:
                self._step(unit, version, server_lr)
            if self._average is not None:
                average = self._average[self._places[unit]]
                merge.move_average(average, self.raw(unit), keep, scratch=self._scratch)
                self._digests.pop(unit, None)
            self.digest(unit)
            yield self.raw(unit).nbytes
        self.counts = np.zeros(len(self.table), np.int64)
        self._held, self._weight_sum = np.zeros(len(self.table)), 0.0

    def digest_all(self) -> Iterator[int]:
        """Compute each unit's digest; yield its bytes so that a caller can pause."""
        for unit in self.owned:
            self.digest(unit)
            yield self.raw(unit).nbytes

    def digest(self, unit: int) -> bytes:
        """Return the digest of the unit's raw and published weights together."""
        found = self._digests.get(unit)
        if found is None:
            found = self._digests[unit] = unit_digest(self.raw(unit), self.average(unit))
        return found

    def raw_digest(self, unit: int) -> bytes:
        """Return the digest of the unit's raw weights, the ones that are dispatched."""
        found = self._raw_digests.get(unit)
        if found is None:
            found = self._raw_digests[unit] = unit_digest(self.raw(unit))
        return found

    def _step(self, unit: int, version: int, server_lr: float) -> None:
        raw, accumulator = self.raw(unit), self._accumulator[self._places[unit]]
        rate = server_lr / self._weights[unit]
        step = merge.apply_step(raw, accumulator, rate, scratch=self._scratch)
        self._square_sums[unit] = _finite_square_sum(raw)
        if not math.isfinite(step + self._square_sums[unit]):
            raise RunFailedError(
                f"unit {self.table.units[unit].name} overflows float32 in version "
                f"{version}: lower merge.server_lr or local.learning_rate"
            )
        self._step_square_sum += step
        self.delta_square += self._delta_squares[unit] / self._weights[unit]
        self._weights[unit] = self._delta_squares[unit] = 0.0
        self._raw_digests.pop(unit, None)
        self._digests.pop(unit, None)


def _finite_square_sum(values: F32Array) -> float:
    """Return the sum of squares, in float64 where float32 overflows."""
    total = merge.square_sum(values)
    if math.isfinite(total) or not bool(np.isfinite(values).all()):
        return total
    return merge.exact_square_sum(values)
