"""FIARSE (arXiv 2407.19389) on whole units: the units of the largest magnitude in the whole model.

Invariant: a unit is kept before another unit only in one of two cases. Its magnitude is at least as
large, or the other unit did not fit.
"""

import numpy as np

from cos2p.model.basket import Choice, filled
from cos2p.model.cost import CostModel
from cos2p_planner.choosers.choice_request import ChoiceRequest


class MagnitudeRule:
    """Chooses units by their root mean square weight, over all blocks and kinds at once.

    The paper keeps the single weights with |w| over one threshold for the whole model, and trains
    through the threshold. A mask of single weights saves no memory. So here a unit is kept or
    dropped as a whole, by ||w|| / sqrt(size). It brings its block's core with it. A unit that does
    not fit is skipped. As in the paper, no block has a guaranteed share. Before norms are known,
    table order decides.
    """

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the smallest submodel."""
        return self._costs.smallest_bytes

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the units of largest magnitude that fit."""
        table = self._costs.table
        norms = np.zeros(len(table)) if request.norms is None else request.norms
        magnitude = norms / np.sqrt(table.sizes)
        prunable = np.flatnonzero(table.prunable)
        largest_first = prunable[np.argsort(-magnitude[prunable], kind="stable")]
        return filled(self._costs, request.budget_bytes, largest_first)
