"""The rule of `co-s2p`: a knapsack over units, under bytes and seconds, greedily.

Invariants of every choice: its forecast never exceeds the budget; the stem's core units are in it;
a block is in it with its core and at least one unit of each of its prunable kinds, or not at all;
every kept block but a lone first one has `width_min` of each kind before another block is kept.

A unit's density is `value + price - coverage by the other devices - own recency`, in devices: its
importance to this device, the dual price of the coverage floor (see `prices.py`), and what makes
units rotate. All four are per unit of cost already: the value is normalised within kind and block,
so dividing by the cost again would starve attention heads, the dearest units. Dearest density
first, twice: blocks, by the mean of their units; then units within the kept blocks, the kinds in
step with each other, so that the split between heads and neurons is that of the whole model.

Coverage alone evens out what all devices hold together (the ideal is McNaughton's wrap-around
schedule, which reaches floor(sum of affordable fractions) everywhere); recency makes each device
move on when it chooses anew, as FedRolex's window does (arXiv 2212.01548), but staggered between
devices. Without scores that is all there is: units rotate.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cos2p.model.cost import BACKWARD_FACTOR, CostModel
from cos2p.model.units import STEM
from cos2p_planner.choosers.basket import Basket, Limit
from cos2p_planner.choosers.question import Ask, Floats, Indices
from cos2p_planner.choosers.structure import Ring, Structure
from cos2p_planner.state.choice import Choice

RECENCY_WEIGHT = 0.5
"""A unit that this device has just trained counts as covered by half a device more: coverage stays
the first key, recency decides among the equally covered."""
GOLDEN = 0.6180339887498949


class KnapsackRule:
    """Holds nothing but the model's structure."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._bytes = costs.trained_bytes.astype(np.float64)
        self._structure = Structure(costs)
        self._rings = self._structure.rings
        kinds = [u.kind for u in costs.table.units]
        self._kinds = np.unique(kinds, return_inverse=True)[1]

    @property
    def least_bytes(self) -> int:
        """Peak of the smallest submodel."""
        return self._costs.smallest_bytes

    def choose(self, ask: Ask) -> Choice | None:
        """The units that the device shall train; None where not even one block fits.

        Where nothing fits the seconds, they give way: then it is the smallest submodel's bytes.
        """
        rank = self._rank(ask)
        for limits in self._limits(ask):
            choice = self._pick(ask, rank, limits) or self._pick(ask, self._bytes, limits)
            if choice is not None:
                return choice
        return None

    def _limits(self, ask: Ask) -> Iterator[list[Limit]]:
        time = []
        if ask.seconds is not None:
            time.append(Limit(ask.seconds, ask.seconds / BACKWARD_FACTOR, ask.seconds_max))
        yield [self._space(ask.budget_bytes), *time]
        if time and ask.budget_bytes >= self.least_bytes:
            yield [self._space(self.least_bytes)]

    def _space(self, budget_bytes: int) -> Limit:
        return Limit(self._bytes, self._costs.frozen_bytes.astype(np.float64), budget_bytes)

    def _rank(self, ask: Ask) -> Floats:
        """What orders units: lower is taken earlier; ties fall by a phase that moves on."""
        units = np.arange(len(self._bytes))
        stagger = np.modf((units + 1) * GOLDEN + ask.phase * GOLDEN)[0]
        rank: Floats = ask.coverage + RECENCY_WEIGHT * ask.recency + 1e-3 * stagger
        rank = rank - ask.value
        return rank if ask.prices is None else rank - ask.prices

    def _pick(self, ask: Ask, rank: Floats, limits: Sequence[Limit]) -> Choice | None:
        """Stem, blocks, and what still fits into them."""
        basket = Basket(limits)
        if not basket.take(self._structure.cores[STEM]):
            return None
        kept = self._keep_blocks(ask, rank, basket)
        if not kept and self._structure.blocks:
            return None
        basket.fill(self._in_step(kept, rank, basket.chosen))
        return basket.choice

    def _keep_blocks(self, ask: Ask, rank: Floats, basket: Basket) -> list[int]:
        """Take as many blocks as fit at their least width; where none does, one thinner block."""
        order = self._by_rank(rank)
        kept = [b for b in order if self._take_block(b, ask.width_min, rank, basket)]
        if kept:
            return kept
        thin = (b for b in order if self._take_block(b, 0.0, rank, basket))
        return [b for b in (next(thin, None),) if b is not None]

    def _take_block(self, block: int, width: float, rank: Floats, basket: Basket) -> bool:
        """Take a block's core and its best units, this share of each ring, if the limits allow."""
        rings, core = self._rings[block], self._structure.cores[block]
        best = (_lowest(rank, r.units, r.count(width)) for r in rings)
        return basket.take(np.concatenate([core, *best]))

    def _by_rank(self, rank: Floats) -> list[int]:
        """The blocks, lowest rank first."""
        means = self._block_ranks(rank)
        return [b for b in (np.argsort(means, kind="stable") + STEM).tolist() if b != STEM]

    def _block_ranks(self, rank: Floats) -> Floats:
        """Mean rank of each block's units, weighted by bytes; the stem's is the first."""
        table = self._costs.table
        weights = np.where(table.prunable, self._bytes, 1e-9)  # a block may be its core alone
        totals = np.bincount(table.blocks - STEM, weights * rank)
        means: Floats = totals / np.bincount(table.blocks - STEM, weights)
        return means

    def _in_step(self, blocks: Sequence[int], rank: Floats, chosen: NDArray[np.bool_]) -> Indices:
        """The units still open in these blocks: best first within a kind, kinds by their shares."""
        rings: list[Ring] = [r for b in blocks for r in self._rings[b]]
        if not rings:
            return np.zeros(0, np.int64)
        members = np.concatenate([r.units for r in rings])
        members = members[np.lexsort((rank[members], ~chosen[members], self._kinds[members]))]
        _, starts, counts = np.unique(self._kinds[members], return_index=True, return_counts=True)
        place = np.arange(len(members)) - np.repeat(starts, counts)
        share = (place + 0.5) / np.repeat(counts, counts)
        open_units = ~chosen[members]
        order = np.lexsort((rank[members], share))
        found: Indices = members[order][open_units[order]]
        return found


def _lowest(rank: Floats, units: Indices, count: int) -> Indices:
    return units[np.argsort(rank[units], kind="stable")[:count]]
