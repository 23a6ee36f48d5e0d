"""Depth rules: the first blocks, whole (DepthFL) or at the width of a level (ScaleFL).

With the objectives `depthfl` and `scalefl`, each exit is in the core of the block that it follows.
So a submodel has the exits of its own blocks. ScaleFL's exits are at the ends of its levels.

Deviation, for both: only inner dimensions are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cos2p.model.basket import Choice
from cos2p.model.cost import CostModel
from cos2p.model.units import UnitTable
from cos2p_planner.choosers.choice_request import ChoiceRequest
from cos2p_planner.choosers.nesting import first_blocks


@dataclass(frozen=True)
class Level:
    """One level: the shares of the depth and of every ring that a submodel keeps."""

    depth: float
    width: float


SCALEFL_LEVELS = (Level(4 / 12, 0.4), Level(6 / 12, 0.55), Level(9 / 12, 0.75), Level(1.0, 1.0))
"""The levels of the paper's transformer (12 blocks, exits after 4, 6, 9), used for every model. The
levels of its ResNet-110 (widths 0.7, 0.7, 0.75, 1) begin at a third of the cost, which exceeds the
weakest budgets."""


class DepthRule:
    """Chooses as many of the ascending levels as fit, counted from the shallow end.

    A depth is rounded up to whole blocks, a width to whole units.
    """

    def __init__(self, costs: CostModel, levels: Sequence[Level]) -> None:
        cuts = [_cut(costs.table, level) for level in levels]
        self._cuts = [(costs.peak_bytes(units), units) for units in cuts]

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the first level."""
        return self._cuts[0][0]

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the last level that fits."""
        fitting = [units for peak, units in self._cuts if peak <= request.budget_bytes]
        return Choice(fitting[-1]) if fitting else None


def _cut(table: UnitTable, level: Level) -> tuple[int, ...]:
    blocks = range(first_blocks(table, level.depth))
    return table.cut(blocks, lambda ring: ring.units[: ring.count(level.width)])


def depthfl(costs: CostModel) -> DepthRule:
    """DepthFL (ICLR 2023): as many first blocks as fit, each whole.

    The paper has four stages with one exit each. Here every block is its own level.
    """
    count = costs.table.block_count
    return DepthRule(costs, [Level(d / count, 1.0) for d in range(1, count + 1)] or [Level(1, 1)])


def scalefl(costs: CostModel) -> DepthRule:
    """ScaleFL (CVPR 2023): four levels of depth and width."""
    return DepthRule(costs, SCALEFL_LEVELS)
