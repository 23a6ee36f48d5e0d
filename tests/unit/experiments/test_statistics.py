"""What the reports say of several seeds, against cases worked by hand."""

import math

import pytest

from cos2p_experiments.statistics import (
    Censored,
    PairedDifference,
    Spread,
    censored,
    first_reach,
    holm,
    mean_height,
    paired,
    spread,
    value_at,
)


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert Spread(4, 5.0, math.sqrt(20 / 3)) == spread([2.0, 4.0, 6.0, 8.0])


def test_one_value_has_a_mean_and_no_spread() -> None:
    assert Spread(1, 0.7, None) == spread([0.7])


def test_no_values_have_no_spread() -> None:
    assert None is spread([])


def test_a_paired_difference_has_student_s_interval_and_p() -> None:
    """Differences 1, 2, 3: t = 2 sqrt 3; with two degrees of freedom p = 1 - t / sqrt(t^2 + 2)."""
    found = paired({0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0})

    assert found is not None
    assert (3, 2.0) == (found.count, found.mean)
    assert pytest.approx(4.302653 / math.sqrt(3), rel=1e-6) == found.half_width
    assert pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14), rel=1e-9) == found.p


def test_only_seeds_that_both_sides_have_are_paired() -> None:
    assert PairedDifference(1, 1.0, None, None) == paired({0: 2.0, 1: 9.0}, {0: 1.0, 2: 7.0})


def test_sides_without_a_common_seed_have_no_difference() -> None:
    assert None is paired({0: 1.0}, {1: 1.0})


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (0.5, 0.0)])
def test_differences_that_are_all_alike_have_the_limit_of_p(shift: float, expected: float) -> None:
    found = paired({0: 1.0 + shift, 1: 2.0 + shift}, {0: 1.0, 1: 2.0})

    assert PairedDifference(2, shift, 0.0, expected) == found


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    """Sorted .005 .01 .03 .04 by 4 3 2 1: .02 .03 .06 and .04, which may not fall below .06."""
    assert pytest.approx([0.03, 0.06, 0.06, 0.02]) == holm([0.01, 0.04, 0.03, 0.005])


def test_holm_stays_at_or_below_one() -> None:
    assert [1.0, 1.0] == holm([0.8, 0.9])


def test_a_comparison_without_p_is_no_part_of_the_family() -> None:
    assert [None, 0.04] == holm([None, 0.04])


@pytest.mark.parametrize(("x", "expected"), [(0.5, None), (1.0, 0.2), (2.9, 0.2), (3.0, 0.6)])
def test_a_moment_has_the_newest_value_that_was_known(x: float, expected: float | None) -> None:
    assert expected == value_at([1.0, 3.0], [0.2, 0.6], x)


@pytest.mark.parametrize(
    ("target", "expected"), [(0.1, 1.0), (0.2, 1.0), (0.4, 2.0), (0.6, 3.0), (0.7, None)]
)
def test_the_time_to_a_target_lies_between_points(target: float, expected: float | None) -> None:
    assert expected == first_reach([1.0, 3.0, 5.0], [0.2, 0.6, 0.3], target)


def test_a_curve_that_falls_and_returns_is_there_the_first_time() -> None:
    assert 3.0 == first_reach([1.0, 3.0, 5.0, 7.0], [0.2, 0.6, 0.3, 0.9], 0.6)


def test_the_median_counts_what_was_not_reached_as_larger() -> None:
    assert Censored(3, 2, 5.0) == censored([None, 2.0, 5.0])


@pytest.mark.parametrize("values", [[None, None, 1.0], [1.0, 2.0, None, None], [None]])
def test_a_median_that_falls_among_the_unknown_is_unknown(values: list[float | None]) -> None:
    assert None is censored(values).median


def test_nothing_has_no_median() -> None:
    assert Censored(0, 0, None) == censored([])


def test_the_mean_height_is_a_staircase_s() -> None:
    """0 for 1 s, 0.2 for 2 s, 0.6 for 1 s, over 4 s: 1 / 4."""
    assert pytest.approx(0.25) == mean_height([1.0, 3.0, 9.0], [0.2, 0.6, 1.0], 4.0)


def test_a_curve_that_begins_after_the_end_has_no_height() -> None:
    assert None is mean_height([5.0], [0.2], 4.0)
