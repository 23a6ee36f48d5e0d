"""A model as rules see it: the stem, blocks, and rings of like units within a block.

Invariant: a cut is closed under its cores.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cos2p.model.cost import CostModel
from cos2p.model.units import STEM, Kind
from cos2p_planner.choosers.question import Indices

ROUNDING = 1e-9
"""A share that is a whole number of units but for floating point is that number."""


@dataclass(frozen=True)
class Ring:
    """The prunable units of one kind in one block, in table order."""

    block: int
    kind: Kind
    units: Indices

    def count(self, rate: float) -> int:
        """ceil(rate * units), one at least."""
        return max(1, int(np.ceil(rate * len(self.units) - ROUNDING)))


@dataclass(frozen=True)
class Structure:
    """The units of a model, by block and kind."""

    costs: CostModel

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Numbers of the residual blocks, shallow first."""
        return tuple(range(self.costs.table.block_count))

    @cached_property
    def cores(self) -> dict[int, Indices]:
        """Core units of the stem and of each block."""
        table = self.costs.table
        return {
            block: np.flatnonzero((table.blocks == block) & ~table.prunable)
            for block in (STEM, *self.blocks)
        }

    @cached_property
    def rings(self) -> dict[int, tuple[Ring, ...]]:
        """Rings of each block."""
        return {block: tuple(self._rings_of(block)) for block in self.blocks}

    def _rings_of(self, block: int) -> Iterator[Ring]:
        table = self.costs.table
        members = np.flatnonzero((table.blocks == block) & table.prunable).tolist()
        for kind in dict.fromkeys(table.units[i].kind for i in members):
            units = [i for i in members if table.units[i].kind == kind]
            yield Ring(block, kind, np.array(units, np.int64))

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """The shares at which ceil(rate * units) of some ring changes, ascending, 1 the last."""
        lengths = {len(r.units) for rings in self.rings.values() for r in rings}
        return tuple(sorted({j / n for n in lengths for j in range(1, n + 1)} | {1.0}))

    def cut(self, blocks: Iterable[int], kept: Callable[[Ring], Indices]) -> tuple[int, ...]:
        """The submodel of the stem and these blocks that keeps `kept(ring)` of each ring."""
        parts = [self.cores[STEM]]
        for block in blocks:
            parts += [self.cores[block], *(kept(ring) for ring in self.rings[block])]
        return tuple(np.sort(np.concatenate(parts)).tolist())

    def largest(
        self, rates: Sequence[float], cut: Callable[[float], tuple[int, ...]], budget_bytes: int
    ) -> tuple[int, ...] | None:
        """The cut at the largest of the ascending rates that fits, by bisection; None: none does.

        Exact where the cost of `cut(rate)` grows with the rate; what it gives fits in any case.
        """
        best: tuple[int, ...] | None = None
        low, high = 0, len(rates)
        while low < high:
            middle = (low + high) // 2
            units = cut(rates[middle])
            if self.costs.peak_bytes(units) <= budget_bytes:
                best, low = units, middle + 1
            else:
                high = middle
        return best

    @cached_property
    def whole(self) -> tuple[int, ...]:
        """All units."""
        return tuple(range(len(self.costs.table)))
