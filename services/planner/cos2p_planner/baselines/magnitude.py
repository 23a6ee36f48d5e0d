"""FIARSE (arXiv 2407.19389) on whole units: the largest magnitudes of the whole model.

Invariant: a unit is kept before another one only if its magnitude is no smaller, or the other did
not fit.
"""

import numpy as np

from cos2p.model.cost import CostModel
from cos2p_planner.choosers.question import Ask
from cos2p_planner.choosers.structure import Structure
from cos2p_planner.state.choice import Choice


class MagnitudeRule:
    """Units in the order of their root mean square weight, over all blocks and kinds at once.

    The paper keeps the single weights with |w| over one threshold for the whole model, and trains
    through the threshold; a mask of single weights saves no memory, so here the unit is kept or
    dropped as a whole, by ||w|| / sqrt(size), and brings its block's core with it. A unit that does
    not fit is passed over for the next. As in the paper, nothing is kept of each block for its own
    sake. Before norms are known, table order decides.
    """

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._cores = Structure(costs).cores
        self._core_bytes = {
            block: int(costs.trained_bytes[cores].sum()) for block, cores in self._cores.items()
        }

    @property
    def least_bytes(self) -> int:
        """Peak of the smallest submodel."""
        return self._costs.smallest_bytes

    def choose(self, ask: Ask) -> Choice | None:
        """The units of largest magnitude that fit."""
        table, cost = self._costs.table, self._costs.trained_bytes
        norms = np.zeros(len(table)) if ask.norms is None else ask.norms
        magnitude = norms / np.sqrt(table.sizes)
        prunable = np.flatnonzero(table.prunable)
        left = ask.budget_bytes - self._costs.stem_bytes
        unpaid = dict(self._core_bytes)
        chosen: list[int] = []
        for unit in prunable[np.argsort(-magnitude[prunable], kind="stable")].tolist():
            block = int(table.blocks[unit])
            price = int(cost[unit]) + unpaid[block]
            if price <= left:
                left -= price
                unpaid[block] = 0
                chosen.append(unit)
        return Choice(table.close(chosen)) if chosen and left >= 0 else None
