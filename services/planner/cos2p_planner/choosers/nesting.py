"""What all devices train before anything else, and what must still wait: the order of the depth.

Submodels that share no common part must learn to work with any other's. So the first blocks are
nested: whoever can hold them does, and who can't takes as many as fit, from the first on, on which
all others build (nesting by depth as in DepthFL, ICLR 2023). What a device can hold beyond them
rotates. And the model grows: at first only its first blocks are in play, in submodels no larger
than the share of the model that is (progressive training as in ProgFed, arXiv 2110.05323). The mix
is ours; docs/log.md has its first figures.

Invariant: pure functions of the unit table and the run's settings.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cos2p.model.units import UnitTable
from cos2p_planner.choosers.structure import ROUNDING

WEIGHT = 4.0
"""Devices' coverage that a nested unit of the last block is worth per device of the fleet, and one
of each block before it more: beyond all that coverage and recency add up to."""


def first_blocks(table: UnitTable, share: float) -> int:
    """How many blocks a share of the depth is, rounded up."""
    return math.ceil(share * table.block_count - ROUNDING)


def nested_value(table: UnitTable, depth: float, device_count: int) -> NDArray[np.float64]:
    """What units are worth to any device for being nested, in devices; shape (units,).

    Args:
        table: the model's units.
        depth: share of the blocks that is nested; 0 nests nothing.
        device_count: devices that can train.
    """
    nested = (table.blocks < first_blocks(table, depth)) & table.prunable & (depth > 0)
    worth = table.block_count - table.blocks
    value: NDArray[np.float64] = WEIGHT * device_count * np.where(nested, worth, 0)
    return value


def waiting(table: UnitTable, share: float) -> NDArray[np.bool_]:
    """Units of the blocks that are not in play yet, shape (units,): the first block always is."""
    found: NDArray[np.bool_] = table.blocks >= max(1, first_blocks(table, share))
    return found
