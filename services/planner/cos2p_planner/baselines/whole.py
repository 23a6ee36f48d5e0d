"""Rules that give every device the same submodel: FedAvg (arXiv 1602.05629) on unequal devices.

Invariant: the answer depends on the device only by whether it fits.
"""

from functools import cached_property, partial

from cos2p.model.cost import CostModel
from cos2p_planner.choosers.question import Ask
from cos2p_planner.choosers.structure import Structure
from cos2p_planner.state.choice import Choice


class WholeRule:
    """The whole model, or nothing: `fedavg-exclusive`, and `fedavg-ideal` without budgets."""

    def __init__(self, costs: CostModel) -> None:
        self._costs, self._units = costs, Structure(costs).whole

    @property
    def least_bytes(self) -> int:
        """Peak of the whole model."""
        return self._costs.peak_bytes(self._units)

    def choose(self, ask: Ask) -> Choice | None:
        """All units where they fit."""
        return Choice(self._units) if self.least_bytes <= ask.budget_bytes else None


class SmallestRule:
    """The largest submodel that the smallest budget of the fleet holds: `fedavg-small`.

    Its shape: the first units of every ring at one rate, in the deepest prefix of blocks in which
    that rate reaches the run's `plans.block_width_min`; where no depth does, one block at the
    largest rate. So everybody trains the same units at all times, and the others never.
    """

    def __init__(self, costs: CostModel) -> None:
        self._costs, self._structure = costs, Structure(costs)

    @property
    def least_bytes(self) -> int:
        """Peak of the stem and the first block with one unit of each ring."""
        return self._costs.peak_bytes(self._units(self._depths[-1], 0.0))

    def choose(self, ask: Ask) -> Choice | None:
        """The same units for everybody."""
        budget = min((*ask.fleet_budgets, ask.budget_bytes))
        rates = self._structure.rates
        wide = [ask.width_min, *(r for r in rates if r > ask.width_min)]
        tries = [(depth, wide) for depth in self._depths] + [(self._depths[-1], list(rates))]
        for depth, allowed in tries:
            units = self._structure.largest(allowed, partial(self._units, depth), budget)
            if units is not None:
                return Choice(units)
        return None

    @cached_property
    def _depths(self) -> tuple[int, ...]:
        return tuple(range(len(self._structure.blocks), 0, -1)) or (0,)

    def _units(self, depth: int, rate: float) -> tuple[int, ...]:
        blocks = self._structure.blocks[:depth]
        return self._structure.cut(blocks, lambda ring: ring.units[: ring.count(rate)])
