"""One fixed submodel for a memory budget: for training alone, and for export.

This is not the planner's choice, which rotates. Here the units with the best scores stay.

Invariants: the submodel's forecast peak is within the budget. Blocks are left out where keeping
them would leave all of them narrower than half. Within the kept blocks, better scores come first.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cos2p.model.basket import filled
from cos2p.model.cost import CostModel
from cos2p.model.units import UnitTable

WIDTH_MIN = 0.5
"""Share of its width that a block keeps before one more block is left out."""


def fill_budget(
    cost: CostModel, memory_bytes: int, scores: NDArray[np.float64], owner: str
) -> tuple[int, ...]:
    """Return the units of the submodel, ascending, closed under their cores.

    `scores` has shape (units,); those of core units are not read. The error's text names `owner`.

    Raises:
        BudgetError: not even the smallest submodel fits; the text names the memory that it needs.
    """
    cost.require(memory_bytes, owner)
    table = cost.table
    blocks = _blocks(cost, memory_bytes, scores)
    units = np.flatnonzero(table.prunable & np.isin(table.blocks, blocks))
    best_first = units[np.argsort(-scores[units], kind="stable")]
    choice = filled(cost, memory_bytes, best_first)
    return cost.smallest if choice is None else choice.trained


def even_scores(table: UnitTable) -> NDArray[np.float64]:
    """Return scores that keep the same share of every block and kind, first units first."""
    scores = np.zeros(len(table))
    for ring in (ring for rings in table.rings.values() for ring in rings):
        scores[ring.units] = 1.0 - np.arange(len(ring.units)) / len(ring.units)
    return scores


def energy_scores(
    cost: CostModel, values: Mapping[int, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """Return the squared L2 norm per byte of cost, divided by its mean within the unit's kind.

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


def _blocks(cost: CostModel, memory_bytes: int, scores: NDArray[np.float64]) -> list[int]:
    """Return the blocks to use: as many of the best as leave each at least half its width."""
    table = cost.table
    members = {b: (table.blocks == b) & table.prunable for b in range(table.block_count)}
    worth = {b: float(scores[units].sum()) for b, units in members.items()}
    ranked = sorted(members, key=lambda b: (-worth[b], b))
    for count in range(len(ranked), 1, -1):
        kept = ranked[:count]
        cores = sum(int(cost.trained_bytes[table.cores[b]].sum()) for b in kept)
        prunable = sum(int(cost.trained_bytes[members[b]].sum()) for b in kept)
        if memory_bytes - cost.stem_bytes - cores >= WIDTH_MIN * prunable:
            return kept
    return ranked[:1]
