"""The knapsack with a frozen prefix: the units before the first trained block run forward only.

Invariants: all units before the first trained block in the order of the forward pass are frozen, or
none are. So no gradient needs their activations. What lies behind the last trained block is
skipped. A device that can keep all blocks at their least width freezes nothing.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cos2p.model.basket import Basket, Choice, Floats, Limit
from cos2p.model.units import STEM, Indices
from cos2p_planner.choosers.choice_request import ChoiceRequest
from cos2p_planner.choosers.knapsack import KnapsackRule


class FrozenPrefixRule(KnapsackRule):
    """Trains neighbouring blocks with the lowest mean rank, so the prefix moves in depth."""

    def _pick(self, request: ChoiceRequest, rank: Floats, limits: Sequence[Limit]) -> Choice | None:
        """Pick the best stretch of blocks; no prefix where all blocks fit or no stretch does."""
        plain = super()._pick(request, rank, limits)
        blocks = range(self._table.block_count)
        if plain is not None and set(blocks) <= set(self._blocks_of(plain)):
            return plain
        means = self._block_ranks(rank)
        stretches = [self._stretch(b, request, rank, Basket(self._table, limits)) for b in blocks]
        found = [(kept, basket) for kept, basket in stretches if kept]
        if not found:
            return plain
        kept, basket = min(found, key=lambda each: float(means[np.array(each[0]) - STEM].mean()))
        basket.fill(self._in_step(kept, rank, basket.chosen))
        return basket.choice

    def _stretch(
        self, first: int, request: ChoiceRequest, rank: Floats, basket: Basket
    ) -> tuple[list[int], Basket]:
        """Take as many blocks from `first` on as fit at their least width, with what they need."""
        before = self._before[first]
        stem = np.setdiff1d(self._table.cores[STEM], before)
        kept: list[int] = []
        if basket.freeze(before) and basket.take(stem):
            for block in range(first, self._table.block_count):
                if not self._take_block(block, request.width_min, rank, basket):
                    break
                kept.append(block)
        return kept, basket

    @cached_property
    def _before(self) -> list[Indices]:
        """The units before each block; none before the first, whose inputs are trained."""
        blocks, count = self._table.blocks, self._table.block_count
        return [np.arange(np.argmax(blocks == b) if b else 0) for b in range(count)]

    def _blocks_of(self, choice: Choice) -> list[int]:
        found: list[int] = np.unique(self._table.blocks[list(choice.trained)]).tolist()
        return found
