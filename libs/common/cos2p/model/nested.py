"""Nested widths of a submodel, which ordered dropout trains (FjORD, arXiv 2102.13451).

Invariants:
Each width holds the one before it.
The last width is the submodel itself.
Core units are in all widths.
"""

import math
from collections.abc import Sequence

from cos2p.model.units import UnitTable

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Values of p: shares of the whole model's width."""
ROUNDING = 1e-9


def nested_widths(table: UnitTable, units: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The submodels with p <= p_max within a submodel, narrowest first, each once.

    For each block and kind, n is the number of its units in the whole model. At p, the first
    ceil(p * n) of those that the submodel holds stay, at least one. p_max is the submodel itself,
    whatever its width.

    Args:
        table: the model's units.
        units: indices of the submodel's units.
    """
    rings: dict[tuple[int, str], int] = {}
    for unit in table.units:
        rings[unit.block, unit.kind] = rings.get((unit.block, unit.kind), 0) + 1
    found: dict[tuple[int, ...], None] = {}
    for p in FRACTIONS:
        left = {ring: max(1, math.ceil(p * n - ROUNDING)) for ring, n in rings.items()}
        kept = []
        for index in units:
            unit = table.units[index]
            if unit.kind == "core":
                kept.append(index)
            elif left[unit.block, unit.kind]:
                left[unit.block, unit.kind] -= 1
                kept.append(index)
        found[tuple(kept)] = None
    return tuple(found)
