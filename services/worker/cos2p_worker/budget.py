"""One fixed submodel for a memory budget: for training alone, and for export.

Not the planner's choice, which rotates; here the units with the best scores stay. Invariants: the
submodel's forecast peak is within the budget; blocks are left out where keeping them would leave
all of them narrower than half; within the kept blocks, better scores come first.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cos2p.model.cost import CostModel
from cos2p.model.units import UnitTable

WIDTH_MIN = 0.5
"""Share of its width that a block keeps before one more is left out."""


def fill_budget(
    cost: CostModel, memory_bytes: int, scores: NDArray[np.float64], who: str
) -> tuple[int, ...]:
    """Units of the submodel, ascending, closed under their cores.

    Args:
        cost: the cost model of the run.
        memory_bytes: largest forecast peak.
        scores: of each unit, shape (units,); those of core units are not read.
        who: named in the error.

    Raises:
        BudgetError: not even the smallest submodel fits; the text says what would do.
    """
    cost.require(memory_bytes, who)
    table = cost.table
    blocks = _blocks(cost, memory_bytes, scores)
    spent = cost.stem_bytes
    entered: set[int] = set()
    chosen: list[int] = []
    for unit in sorted(np.flatnonzero(table.prunable), key=lambda u: (-scores[u], u)):
        block = int(table.blocks[unit])
        if block not in blocks:
            continue
        price = int(cost.trained_bytes[unit])
        if block not in entered:
            price += _core_bytes(cost, block)
        if spent + price <= memory_bytes:
            spent += price
            entered.add(block)
            chosen.append(int(unit))
    return table.close(chosen) if chosen else cost.smallest


def even_scores(table: UnitTable) -> NDArray[np.float64]:
    """Scores that keep the same share of every block and kind, first units first."""
    scores = np.zeros(len(table))
    groups: dict[tuple[int, str], list[int]] = {}
    for index, unit in enumerate(table.units):
        groups.setdefault((unit.block, unit.kind), []).append(index)
    for members in groups.values():
        scores[members] = 1.0 - np.arange(len(members)) / len(members)
    return scores


def energy_scores(
    cost: CostModel, values: Mapping[int, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Squared L2 norm per byte of cost, divided by its mean within the unit's kind.

    Without the division the kind that is cheapest per weight always wins, and the other starves.
    """
    table = cost.table
    energy = np.array([float(np.dot(values[u], values[u])) for u in range(len(table))])
    scores: NDArray[np.float64] = energy / cost.trained_bytes
    kinds = np.array([u.kind for u in table.units])
    for kind in set(kinds.tolist()):
        same = kinds == kind
        scores[same] /= max(float(scores[same].mean()), np.finfo(np.float64).tiny)
    return scores


def _core_bytes(cost: CostModel, block: int) -> int:
    core = (cost.table.blocks == block) & ~cost.table.prunable
    return int(cost.trained_bytes[core].sum())


def _blocks(cost: CostModel, memory_bytes: int, scores: NDArray[np.float64]) -> set[int]:
    """The blocks worth entering: as many of the best as leave each at least half its width."""
    table = cost.table
    prunable = {
        block: int(cost.trained_bytes[(table.blocks == block) & table.prunable].sum())
        for block in range(table.block_count)
    }
    worth = {b: float(scores[(table.blocks == b) & table.prunable].sum()) for b in prunable}
    ranked = sorted(prunable, key=lambda b: (-worth[b], b))
    for count in range(len(ranked), 1, -1):
        kept = ranked[:count]
        left = memory_bytes - cost.stem_bytes - sum(_core_bytes(cost, b) for b in kept)
        if left >= WIDTH_MIN * sum(prunable[b] for b in kept):
            return set(kept)
    return set(ranked[:1])
