"""The rule of `co-s2p`: a greedy knapsack over units, limited by bytes and seconds.

Invariants of every choice:
- Its forecast never exceeds the budget.
- The stem's core units are in it.
- A block is in it with its core and at least one unit of each of its prunable kinds, or not at all.
- Every kept block has `width_min` of each kind before another block is kept. The only exception is
  a first block that is kept alone.

A unit's density is `value + price - coverage by the other devices - own recency`, in devices. The
value is the unit's importance to this device. The price is the dual price of the coverage floor
(see `prices.py`). Coverage and recency make units rotate. All four are per unit of cost already,
because the value is normalised within kind and block. Dividing by the cost again would starve
attention heads, the most expensive units.

The highest density goes first, twice. First come blocks, by the mean of their units. Then come
units within the kept blocks. The kinds advance in step with each other, so the split between heads
and neurons is that of the whole model.

Coverage alone evens out what all devices hold together. The ideal is McNaughton's wrap-around
schedule, which reaches floor(sum of affordable fractions) everywhere. Recency makes each device
move on when it chooses again. FedRolex's window (arXiv 2212.01548) moves in the same way; here the
windows are staggered between devices. Without scores nothing else counts: units rotate.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cos2p.model.basket import Basket, Choice, Floats, Limit
from cos2p.model.cost import BACKWARD_FACTOR, CostModel
from cos2p.model.units import STEM, Indices
from cos2p_planner.choosers.choice_request import ChoiceRequest

RECENCY_WEIGHT = 0.5
"""A unit that this device has just trained counts as covered by half a device more. Coverage stays
the first key; recency decides among equally covered units."""
GOLDEN = 0.6180339887498949


class KnapsackRule:
    """Chooses units by density; its only state is the model's structure."""

    def __init__(self, costs: CostModel) -> None:
        self._costs, self._table = costs, costs.table
        self._bytes = costs.trained_bytes.astype(np.float64)
        kinds = [u.kind for u in self._table.units]
        self._kinds = np.unique(kinds, return_inverse=True)[1]

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the smallest submodel."""
        return self._costs.smallest_bytes

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the units that the device must train; None where not even one block fits.

        Where nothing fits the seconds, the time limit is dropped. Then the bytes of the smallest
        submodel are the limit.
        """
        rank = self._rank(request)
        for limits in self._limits(request):
            # Where the units of the best rank don't fit, the cheapest ones may.
            choice = self._pick(request, rank, limits) or self._pick(request, self._bytes, limits)
            if choice is not None:
                return choice
        return None

    def _limits(self, request: ChoiceRequest) -> Iterator[list[Limit]]:
        time = []
        if request.seconds is not None:
            time.append(
                Limit(request.seconds, request.seconds / BACKWARD_FACTOR, request.seconds_max)
            )
        yield [Limit.of_memory(self._costs, request.budget_bytes), *time]
        if time and request.budget_bytes >= self.least_bytes:
            yield [Limit.of_memory(self._costs, self.least_bytes)]

    def _rank(self, request: ChoiceRequest) -> Floats:
        """Return the key that orders units: lower is taken earlier; a moving phase breaks ties."""
        units = np.arange(len(self._bytes))
        stagger = np.modf((units + 1) * GOLDEN + request.phase * GOLDEN)[0]
        rank: Floats = request.coverage + RECENCY_WEIGHT * request.recency + 1e-3 * stagger
        rank = rank - request.value
        return rank if request.prices is None else rank - request.prices

    def _pick(self, request: ChoiceRequest, rank: Floats, limits: Sequence[Limit]) -> Choice | None:
        """Pick the stem, blocks, and what still fits into them."""
        basket = Basket(self._table, limits)
        if not basket.take(self._table.cores[STEM]):
            return None
        kept = self._keep_blocks(request, rank, basket)
        if not kept and self._table.block_count:
            return None
        basket.fill(self._in_step(kept, rank, basket.chosen))
        return basket.choice

    def _keep_blocks(self, request: ChoiceRequest, rank: Floats, basket: Basket) -> list[int]:
        """Take as many blocks as fit at their least width; where none does, one thinner block."""
        order = self._by_rank(rank)
        kept = [b for b in order if self._take_block(b, request.width_min, rank, basket)]
        if kept:
            return kept
        thin = (b for b in order if self._take_block(b, 0.0, rank, basket))
        return [b for b in (next(thin, None),) if b is not None]

    def _take_block(self, block: int, width: float, rank: Floats, basket: Basket) -> bool:
        """Take a block's core and its best units, this share of each ring, if the limits allow."""
        return basket.take(self._table.part(block, lambda ring: ring.lowest(rank, width)))

    def _by_rank(self, rank: Floats) -> list[int]:
        """Return the blocks, lowest rank first."""
        means = self._block_ranks(rank)
        return [b for b in (np.argsort(means, kind="stable") + STEM).tolist() if b != STEM]

    def _block_ranks(self, rank: Floats) -> Floats:
        """Return the mean rank of each block's units, weighted by bytes; the stem's is first."""
        table = self._table
        weights = np.where(table.prunable, self._bytes, 1e-9)  # some blocks have only a core
        totals = np.bincount(table.blocks - STEM, weights * rank)
        means: Floats = totals / np.bincount(table.blocks - STEM, weights)
        return means

    def _in_step(self, blocks: Sequence[int], rank: Floats, chosen: NDArray[np.bool_]) -> Indices:
        """Return the units still open in these blocks: best first in a kind, kinds by share."""
        rings = [r for b in blocks for r in self._table.rings[b]]
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
