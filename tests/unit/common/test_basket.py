"""Filling a submodel under limits: cores come with their blocks, and no limit is exceeded."""

import numpy as np
from any_table import tables
from hypothesis import given, settings
from hypothesis import strategies as st

from cos2p.model.basket import Basket, Choice, Limit, filled
from cos2p.model.cost import CostModel
from cos2p.model.units import STEM, Unit, UnitTable

UNIT_BYTES = 80
"""Every unit has 10 parameters, weights and gradients."""
TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, 10, 1, 0),
        Unit("0.core", "core", 0, 10, 1, 0),
        Unit("0.a", "neurons", 0, 10, 1, 0),
        Unit("0.b", "neurons", 0, 10, 1, 0),
        Unit("1.core", "core", 1, 30, 1, 0),
        Unit("1.a", "neurons", 1, 10, 1, 0),
    )
)
COSTS = CostModel(TABLE, slots=0, batch_size=1)


def fill(unit_count: int, *units: int) -> Choice | None:
    return filled(COSTS, UNIT_BYTES * unit_count, np.array(units))


def test_a_block_s_first_unit_brings_its_core_and_the_next_one_does_not_pay_again() -> None:
    assert Choice((0, 1, 2)) == fill(3, 2, 3)
    assert Choice((0, 1, 2, 3)) == fill(4, 2, 3)


def test_a_unit_that_does_not_fit_with_its_core_is_left_out_and_the_next_may_fit() -> None:
    assert Choice((0, 1, 3)) == fill(4, 5, 3)
    assert Choice((0, 4, 5)) == fill(5, 5, 3)


def test_where_not_even_the_stem_or_no_unit_fits_there_is_no_submodel() -> None:
    assert fill(0, 2) is None
    assert fill(2, 2) is None


@settings(max_examples=50, deadline=None)
@given(tables(), st.floats(0, 1), st.integers(0, 1000))
def test_a_filled_submodel_is_closed_and_within_all_limits(
    table: UnitTable, fraction: float, seed: int
) -> None:
    costs, rng = CostModel(table, 2, 8), np.random.default_rng(seed)
    seconds = rng.random(len(table))
    limits = [
        Limit.of_memory(costs, costs.memory_for_fraction(fraction)),
        Limit(seconds, seconds, float(seconds[table.cores[STEM]].sum()) + 2.0),
    ]
    basket = Basket(table, limits)

    assert basket.take(table.cores[STEM])
    basket.fill(rng.permutation(np.flatnonzero(table.prunable)))

    trained = basket.choice.trained
    assert trained == table.close(trained)
    assert costs.peak_bytes(trained) <= limits[0].most
    assert seconds[list(trained)].sum() <= limits[1].most + 1e-9
