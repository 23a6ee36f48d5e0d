"""Nested widths of a submodel, which ordered dropout trains (FjORD, arXiv 2102.13451).

Invariants:
Each width holds the one before it.
The last width is the submodel itself.
Core units are in all widths.
"""

from collections.abc import Sequence

from cos2p.model.units import UnitTable

FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Values of p: shares of the whole model's width."""


def nested_widths(table: UnitTable, units: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The submodels with p <= p_max within a submodel of these units, narrowest first, each once.

    At p, the first ceil(p * n) units that the submodel holds of a ring of n units stay, at least
    one. p_max is the submodel itself, whatever its width.
    """
    present = set(units)
    held_of = [
        (ring, [u for u in ring.units.tolist() if u in present])
        for rings in table.rings.values()
        for ring in rings
    ]
    found: dict[tuple[int, ...], None] = {}
    for p in FRACTIONS:
        dropped = {u for ring, held in held_of for u in held[ring.count(p) :]}
        found[tuple(u for u in units if u not in dropped)] = None
    return tuple(found)
