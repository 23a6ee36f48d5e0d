"""What all devices train first, and what must still wait: the order of the depth.

Submodels that share no common part must learn to work with every other submodel. So the first
blocks are nested, and all others build on them. Every device that can hold the nested blocks holds
them. A smaller device takes as many of them as fit, from the first on. This is nesting by depth, as
in DepthFL (ICLR 2023). What a device can hold beyond the nested blocks rotates.

The model also grows. At first only its first blocks are in play, in submodels no larger than that
share of the model. This is progressive training, as in ProgFed (arXiv 2110.05323). The combination
is ours; docs/history/log.md has its first figures.

Invariant: all functions are pure functions of the unit table and the run's settings.
"""

import math

import numpy as np
from numpy.typing import NDArray

from cos2p.model.units import ROUNDING, UnitTable

WEIGHT = 4.0
"""Worth of a nested unit of the last block, in devices of coverage per device of the fleet. Each
earlier block is worth that much more. It exceeds what coverage and recency can add up to."""


def first_blocks(table: UnitTable, share: float) -> int:
    """Return the number of blocks in this share of the depth, rounded up."""
    return math.ceil(share * table.block_count - ROUNDING)


def nested_value(table: UnitTable, depth: float, device_count: int) -> NDArray[np.float64]:
    """Return what units are worth as nested, in devices, shape (units,); depth 0 nests nothing."""
    nested = (table.blocks < first_blocks(table, depth)) & table.prunable & (depth > 0)
    worth = table.block_count - table.blocks
    value: NDArray[np.float64] = WEIGHT * device_count * np.where(nested, worth, 0)
    return value


def waiting(table: UnitTable, share: float) -> NDArray[np.bool_]:
    """Mark units of blocks that are not in play yet, shape (units,); the first block always is."""
    found: NDArray[np.bool_] = table.blocks >= max(1, first_blocks(table, share))
    return found
