"""The knapsack with a frozen prefix: what lies before the first trained block runs forward only.

Invariants: frozen are all units before the first trained block in the order of the forward pass, or
none, so that no gradient needs their activations; what lies behind the last trained block is
skipped. A device that can keep all blocks at their least width freezes nothing.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cos2p.model.units import STEM
from cos2p_planner.choosers.basket import Basket, Limit
from cos2p_planner.choosers.knapsack import KnapsackRule
from cos2p_planner.choosers.question import Ask, Floats, Indices
from cos2p_planner.state.choice import Choice


class FrozenPrefixRule(KnapsackRule):
    """Trains neighbouring blocks, those of the lowest mean rank; so the prefix wanders in depth."""

    def _pick(self, ask: Ask, rank: Floats, limits: Sequence[Limit]) -> Choice | None:
        """The best stretch of blocks; without a prefix where all blocks fit, or no stretch does."""
        plain = super()._pick(ask, rank, limits)
        blocks = self._structure.blocks
        if plain is not None and set(blocks) <= set(self._blocks_of(plain)):
            return plain
        means = self._block_ranks(rank)
        stretches = [self._stretch(first, ask, rank, Basket(limits)) for first in blocks]
        found = [(kept, basket) for kept, basket in stretches if kept]
        if not found:
            return plain
        kept, basket = min(found, key=lambda each: float(means[np.array(each[0]) - STEM].mean()))
        basket.fill(self._in_step(kept, rank, basket.chosen))
        return basket.choice

    def _stretch(
        self, first: int, ask: Ask, rank: Floats, basket: Basket
    ) -> tuple[list[int], Basket]:
        """As many blocks from `first` on as fit at their least width, with what they need."""
        before = self._before[first]
        stem = np.setdiff1d(self._structure.cores[STEM], before)
        kept: list[int] = []
        if basket.freeze(before) and basket.take(stem):
            for block in self._structure.blocks[first:]:
                if not self._take_block(block, ask.width_min, rank, basket):
                    break
                kept.append(block)
        return kept, basket

    @cached_property
    def _before(self) -> list[Indices]:
        """The units before each block; none before the first, whose inputs are trained."""
        table = self._costs.table
        firsts = [int(np.flatnonzero(table.blocks == b)[0]) for b in self._structure.blocks]
        return [np.arange(0 if b == 0 else at) for b, at in enumerate(firsts)]

    def _blocks_of(self, choice: Choice) -> list[int]:
        found: list[int] = np.unique(self._costs.table.blocks[list(choice.trained)]).tolist()
        return found
