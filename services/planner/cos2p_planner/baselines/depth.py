"""Depth rules: the first blocks, whole (DepthFL) or at the width of a level (ScaleFL).

With objectives `depthfl` and `scalefl` each exit is in the core of the block that it follows, so
that a submodel has those of its own blocks; ScaleFL's are at the ends of its levels. Deviation,
for both: inner dimensions are cut only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cos2p.model.cost import CostModel
from cos2p_planner.choosers.question import Ask
from cos2p_planner.choosers.structure import ROUNDING, Structure
from cos2p_planner.state.choice import Choice


@dataclass(frozen=True)
class Level:
    """Shares of the depth and of every ring that a submodel keeps."""

    depth: float
    width: float


SCALEFL_LEVELS = (Level(4 / 12, 0.4), Level(6 / 12, 0.55), Level(9 / 12, 0.75), Level(1.0, 1.0))
"""Of the paper's transformer (12 blocks, exits after 4, 6, 9), for every model: those of its
ResNet-110 (widths 0.7, 0.7, 0.75, 1) begin at a third of the cost, over the weakest budgets."""


class DepthRule:
    """The most levels, from the shallow end, that fit.

    Args:
        costs: the model's costs.
        levels: ascending; a depth is rounded up to whole blocks, a width to whole units.
    """

    def __init__(self, costs: CostModel, levels: Sequence[Level]) -> None:
        structure = Structure(costs)
        cuts = [_cut(structure, level) for level in levels]
        self._cuts = [(costs.peak_bytes(units), units) for units in cuts]

    @property
    def least_bytes(self) -> int:
        """Peak of the first level."""
        return self._cuts[0][0]

    def choose(self, ask: Ask) -> Choice | None:
        """The last level that fits."""
        fitting = [units for peak, units in self._cuts if peak <= ask.budget_bytes]
        return Choice(fitting[-1]) if fitting else None


def _cut(structure: Structure, level: Level) -> tuple[int, ...]:
    depth = math.ceil(level.depth * len(structure.blocks) - ROUNDING)
    return structure.cut(
        structure.blocks[:depth], lambda ring: ring.units[: ring.count(level.width)]
    )


def depthfl(costs: CostModel) -> DepthRule:
    """DepthFL (ICLR 2023): as many first blocks as fit, each whole.

    The paper has four stages with an exit each; here every block is a level of its own.
    """
    count = len(Structure(costs).blocks)
    return DepthRule(costs, [Level(d / count, 1.0) for d in range(1, count + 1)] or [Level(1, 1)])


def scalefl(costs: CostModel) -> DepthRule:
    """ScaleFL (CVPR 2023): four levels of depth and width."""
    return DepthRule(costs, SCALEFL_LEVELS)
