"""Nested widths of a submodel: what ordered dropout trains (FjORD, arXiv 2102.13451).

Invariants: each width holds the one before it; the last is the submodel itself; core units are in
all of them.
"""

import math
from collections.abc import Sequence

from cos2p.model.units import UnitTable

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""p: shares of the whole model's width."""
ROUNDING = 1e-9


def nested_widths(table: UnitTable, units: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The submodels p <= p_max within a submodel, narrowest first, each once.

    At p, of every block's and kind's n units in the whole model the first ceil(p * n) that the
    submodel holds stay, and one at least. p_max is the submodel itself, wherever its width lies.
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
