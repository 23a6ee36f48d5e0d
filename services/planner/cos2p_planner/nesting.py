"""What all devices train before anything else: the nested part of the model.

Submodels that share no common part must learn to work with any other's; those that all hold the
first units of every block are nested there, as in HeteroFL (arXiv 2010.01264) and FjORD
(2102.13451), and agree on what those units do. Our reading, first figures in docs/log.md: the first
units of each kind are nested, what a device can hold beyond them rotates, and a device that can't
hold them in all blocks takes the first blocks, on which the others build (DepthFL, ICLR 2023).

Invariant: a pure function of the unit table and the share.
"""

import numpy as np
from numpy.typing import NDArray

from cos2p.units import UnitTable

WEIGHT = 4.0
"""Devices' coverage that a nested unit of the last block is worth per device of the fleet, and one
of each block before it more: beyond all that coverage and recency add up to."""


def nested_value(table: UnitTable, share: float, device_count: int) -> NDArray[np.float64]:
    """What units are worth to any device for being nested, in devices; shape (units,).

    Args:
        table: the model's units.
        share: of each kind in each block that is nested, one unit at least; 0 nests nothing.
        device_count: devices that can train.
    """
    value = np.zeros(len(table))
    if not share:
        return value
    places: dict[tuple[int, str], list[int]] = {}
    for i, unit in enumerate(table.units):
        if unit.kind != "core":
            places.setdefault((unit.block, unit.kind), []).append(i)
    for (block, _), members in places.items():
        nested = members[: max(1, round(share * len(members)))]
        value[nested] = table.block_count - max(block, 0)
    return WEIGHT * device_count * value
