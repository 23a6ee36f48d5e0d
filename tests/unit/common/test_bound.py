import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos2p.model import bound

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=60)


def counts(*values: int) -> bound.Counts:
    return np.array(values, np.int64)


def test_the_low_quantile_is_reached_by_all_but_a_twentieth_of_the_units() -> None:
    assert 3 == bound.low_coverage(counts(0, *[3] * 19, 9))
    assert 0 == bound.low_coverage(counts(0, 0, *[3] * 19))
    assert 0 == bound.low_coverage(counts())


def test_equal_coverage_has_a_gini_coefficient_of_0() -> None:
    assert pytest.approx(0) == bound.gini(counts(4, 4, 4))
    assert 0 == bound.gini(counts(0, 0))
    assert 0 == bound.gini(counts())


@given(COUNTS)
def test_the_gini_coefficient_is_the_mean_difference_over_twice_the_mean(values: list[int]) -> None:
    x = np.array(values, np.float64)
    mean = x.mean()
    expected = np.abs(x[:, None] - x[None]).mean() / (2 * mean) if mean else 0.0

    assert pytest.approx(expected, abs=1e-12) == bound.gini(np.array(values, np.int64))


def test_the_distance_is_the_total_variation_from_everybodys_labels() -> None:
    """Everybody has (1/2, 1/2). Unit 0 was trained by (1, 0) with weight 3 and (0, 1) with 1, that
    is (3/4, 1/4); unit 1 by the first alone, unit 2 by nobody."""
    trained = np.array([[True, True, False], [True, False, False]])

    found = bound.label_distances(
        trained, np.array([3.0, 1.0]), np.array([[8.0, 0], [0, 2]]), np.array([50.0, 50])
    )

    np.testing.assert_allclose(found, [0.25, 0.5, np.nan])


def test_pruning_noise_is_the_share_of_the_square_that_a_submodel_lacks() -> None:
    present = np.array([True, False, True])

    assert 0.25 == bound.pruning_noise(present, np.array([1.0, 2.0, 5.0]))
    assert None is bound.pruning_noise(present, np.zeros(3))


def test_dispersion_is_the_variance_of_the_updates_and_never_negative() -> None:
    """Two updates of weight 1, +3 and -1 in one coordinate: mean 1, mean square 5, variance 4."""
    assert 4.0 == bound.dispersion(5.0, 1.0)
    assert 0.0 == bound.dispersion(1.0, 1.0 + 1e-9)


def test_the_gradient_proxy_of_plain_gradient_steps_is_the_squared_gradient_norm() -> None:
    """Ten steps of 0.1 along a gradient of norm 3 move by 3."""
    assert pytest.approx(9.0) == bound.gradient_proxy(3.0**2, 0.1 * 10)
    assert None is bound.gradient_proxy(1.0, 0.0)
