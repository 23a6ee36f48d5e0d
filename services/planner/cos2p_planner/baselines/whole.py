"""Rules that give every device the same submodel: FedAvg (arXiv 1602.05629) on unequal devices.

Invariant: the answer depends on the device only by whether it fits.
"""

from cos2p.model.basket import Choice
from cos2p.model.cost import CostModel
from cos2p_planner.baselines.width import WidthRule, first
from cos2p_planner.choosers.choice_request import ChoiceRequest


class WholeRule:
    """Chooses the whole model or nothing: `fedavg-exclusive`, or `fedavg-ideal` without budgets."""

    def __init__(self, costs: CostModel) -> None:
        self._costs, self._units = costs, tuple(range(len(costs.table)))

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the whole model."""
        return self._costs.whole_bytes

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose all units where they fit."""
        return Choice(self._units) if self.least_bytes <= request.budget_bytes else None


class SmallestRule(WidthRule):
    """Chooses the largest submodel that fits the smallest budget of the fleet: `fedavg-small`.

    Its shape: the first units of every ring at one rate, in the deepest prefix of blocks in which
    that rate reaches the run's `plans.block_width_min`. Where no depth does, it is one block at the
    largest rate. So all devices train the same units at all times, and the other units are never
    trained.
    """

    def __init__(self, costs: CostModel) -> None:
        super().__init__(costs, first)
        self._prefixes = [range(d) for d in range(self._table.block_count, 0, -1)] or [range(0)]

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the stem and the first block with one unit of each ring."""
        thin = self._table.cut(self._prefixes[-1], lambda ring: ring.units[:1])
        return self._costs.peak_bytes(thin)

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the same units for every device."""
        return self._deepest(
            request, self._prefixes, min((*request.fleet_budgets, request.budget_bytes))
        )
