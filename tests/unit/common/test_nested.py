"""Widths within widths."""

import pytest

from cos2p.model.nested import nested_widths
from cos2p.model.units import Unit, UnitTable

TABLE = UnitTable(
    (
        Unit("stem", "core", -1, 1, 1, 1),
        Unit("classifier", "core", -1, 1, 1, 1),
        Unit("core", "core", 0, 1, 1, 1),
        *(Unit(f"head{i}", "head", 0, 1, 1, 1) for i in range(3)),
        *(Unit(f"neurons{i}", "neurons", 0, 1, 1, 1) for i in range(5)),
    )
)
CORE = (0, 1, 2)


def test_the_whole_model_has_the_five_published_widths() -> None:
    """ceil(p * 3) heads and ceil(p * 5) groups of neurons for p = 0.2, 0.4 .. 1."""
    expected = [(1, 1), (2, 2), (2, 3), (3, 4), (3, 5)]

    found = nested_widths(TABLE, range(len(TABLE)))

    assert expected == [(sum(3 <= u < 6 for u in w), sum(u >= 6 for u in w)) for w in found]
    assert all(set(CORE) <= set(w) for w in found)


@pytest.mark.parametrize("held", [(3, 4, 6, 7), (3, 5, 8, 10)])
def test_a_submodel_has_those_within_it_and_then_itself(held: tuple[int, ...]) -> None:
    """p_max = 0.4: of the units held the first ceil(0.2 n), then all."""
    assert ((*CORE, held[0], held[2]), (*CORE, *held)) == nested_widths(TABLE, (*CORE, *held))


def test_the_narrowest_submodel_has_one_width() -> None:
    assert ((*CORE, 3, 6),) == nested_widths(TABLE, (*CORE, 3, 6))
