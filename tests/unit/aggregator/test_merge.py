import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cos2p_aggregator import merge

F32 = NDArray[np.float32]
SIZES = st.sampled_from([1, 7, 1000, merge.BLOCK - 1, merge.BLOCK, 2 * merge.BLOCK + 5])
WEIGHTS = st.floats(1e-3, 1e3)


def values(size: int, seed: int, scale: float = 1.0) -> F32:
    return np.random.default_rng(seed).normal(scale=scale, size=size).astype(np.float32)


def merged(base: F32, updates: list[tuple[F32, float]], server_lr: float = 1.0) -> F32:
    """The base after one version made of (delta, weight) pairs."""
    raw, accumulator = base.copy(), np.full(len(base), np.nan, np.float32)
    scratch = np.empty(merge.BLOCK, np.float32)
    for i, (delta, weight) in enumerate(updates):
        merge.add_weighted(accumulator, delta, weight, first=i == 0, scratch=scratch)
    rate = server_lr / sum(w for _, w in updates)
    merge.apply_step(raw, accumulator, rate, scratch=scratch)
    return raw


@settings(deadline=None)
@given(SIZES, st.lists(WEIGHTS, min_size=1, max_size=6))
def test_weights_over_covering_updates_sum_to_one(size: int, weights: list[float]) -> None:
    """If every update brings the same delta, the mean is that delta, whatever they weigh."""
    base, delta = values(size, 1), values(size, 2)

    made = merged(base, [(delta, w) for w in weights])

    np.testing.assert_allclose(made, base + delta, rtol=0, atol=2e-5)


@settings(deadline=None)
@given(SIZES, WEIGHTS)
def test_one_update_alone_gives_base_plus_delta(size: int, weight: float) -> None:
    base, delta = values(size, 3), values(size, 4)

    np.testing.assert_allclose(merged(base, [(delta, weight)]), base + delta, rtol=0, atol=2e-6)


@settings(deadline=None)
@given(SIZES, st.integers(-6, 6))
def test_one_update_of_a_power_of_two_is_exact(size: int, exponent: int) -> None:
    base, delta = values(size, 5), values(size, 6)

    assert (base + delta).tobytes() == merged(base, [(delta, 2.0**exponent)]).tobytes()


@settings(deadline=None)
@given(SIZES, WEIGHTS, WEIGHTS)
def test_blocks_change_no_bit(size: int, a: float, b: float) -> None:
    """Blocked kernels give what the plain float32 expressions give."""
    base, one, two = values(size, 7), values(size, 8), values(size, 9)
    total = np.float32(a) * one + np.float32(b) * two

    assert (base + total * np.float32(1 / (a + b))).tobytes() == merged(
        base, [(one, a), (two, b)]
    ).tobytes()


@settings(deadline=None)
@given(SIZES, st.floats(0, 0.99))
def test_the_average_moves_by_one_minus_its_decay(size: int, keep: float) -> None:
    average, raw = values(size, 10), values(size, 11)
    expected = average + (raw - average) * np.float32(1 - keep)

    merge.move_average(average, raw, keep, scratch=np.empty(merge.BLOCK, np.float32))

    assert expected.tobytes() == average.tobytes()


def test_the_first_update_of_a_version_overwrites_what_was_there() -> None:
    accumulator = np.full(5, np.nan, np.float32)

    merge.add_weighted(
        accumulator, np.ones(5, np.float32), 3.0, first=True, scratch=np.empty(0, np.float32)
    )

    assert [3.0] * 5 == accumulator.tolist()


@settings(deadline=None)
@given(SIZES, st.data(), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_single_value_that_is_not_finite_is_found(
    size: int, data: st.DataObject, bad: float
) -> None:
    delta = values(size, 12)
    delta[data.draw(st.integers(0, size - 1))] = bad

    assert "not_finite" == merge.inspected(delta, 1e9)[0]


@settings(deadline=None)
@given(SIZES, st.floats(0.5, 2.0))
def test_the_norm_bound_is_the_exact_norm(size: int, ratio: float) -> None:
    """Also near the bound, where a float32 sum could fall on either side."""
    assume(abs(ratio - 1) > 1e-12)
    delta = values(size, 13)
    norm = math.sqrt(math.fsum(v * v for v in delta.tolist()))

    assert ("norm" if ratio < 1 else None) == merge.inspected(delta, norm * ratio)[0]


@pytest.mark.parametrize("nudge", [1 - 1e-9, 1 + 1e-9])
def test_a_norm_within_a_billionth_of_the_bound_is_decided_rightly(nudge: float) -> None:
    delta = values(100_000, 14)
    bound = math.sqrt(merge.exact_square_sum(delta)) * nudge

    assert ("norm" if nudge < 1 else None) == merge.inspected(delta, bound)[0]


@pytest.mark.parametrize(("bound", "fault"), [(5.0, None), (math.nextafter(5.0, 0.0), "norm")])
def test_a_delta_may_be_as_long_as_the_bound_and_no_longer(bound: float, fault: str | None) -> None:
    assert fault == merge.inspected(np.array([3, 4], np.float32), bound)[0]


def test_finite_values_whose_squares_overflow_break_the_norm_bound() -> None:
    assert "norm" == merge.inspected(np.full(10, 1e30, np.float32), 1e3)[0]
    assert None is merge.inspected(np.full(10, 1e30, np.float32), 1e32)[0]


def test_the_decay_is_short_at_first() -> None:
    assert [0.1, 0.9, 0.0] == [
        merge.decay_at(0, 0.9),
        merge.decay_at(1000, 0.9),
        merge.decay_at(1000, 0.0),
    ]
