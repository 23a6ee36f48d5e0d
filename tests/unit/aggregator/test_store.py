import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos2p.errors import RunFailedError
from cos2p.model.units import STEM, Unit, UnitTable, unit_digest
from cos2p_aggregator.merge import F32Array
from cos2p_aggregator.store import ModelStore

TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, 5, 0, 0),
        Unit("block0.norm", "core", 0, 3, 0, 0),
        Unit("block0.head.0", "head", 0, 40, 0, 0),
        Unit("block0.head.1", "head", 0, 40, 0, 0),
    )
)


def filled(*, averaged: bool = True, owned: tuple[int, ...] = (0, 1, 2, 3)) -> ModelStore:
    store = ModelStore(TABLE, owned, averaged=averaged)
    for unit in owned:
        rng = np.random.default_rng(unit)
        store.load(unit, rng.normal(size=2 * TABLE.units[unit].size).astype(np.float32))
    return store


def add(store: ModelStore, unit: int, delta: F32Array, *, weight: float, scale: float) -> None:
    square_sum = float(np.square(delta, dtype=np.float64).sum())
    store.add(unit, delta, weight=weight, scale=scale, square_sum=square_sum)


def closed(
    store: ModelStore, version: int = 3, server_lr: float = 1.0, average_decay: float = 0.5
) -> None:
    list(store.close(version, server_lr, average_decay))


def shares(store: ModelStore) -> list[float]:
    return [float(share) for share in np.frombuffer(store.unit_shares, "<f4")]


@settings(deadline=None)
@given(st.sets(st.integers(0, 3)))
def test_an_untouched_unit_keeps_its_bytes(touched: set[int]) -> None:
    store = filled()
    before = {u: store.raw(u).tobytes() for u in store.owned}
    for unit in touched:
        add(store, unit, np.ones(TABLE.units[unit].size, np.float32), weight=0.7, scale=1.0)

    closed(store)

    assert touched == {u for u in store.owned if store.raw(u).tobytes() != before[u]}


def test_the_next_version_starts_from_an_empty_accumulator() -> None:
    store = filled()
    add(store, 2, np.ones(40, np.float32), weight=1.0, scale=1.0)
    closed(store)
    before = store.raw(2).copy()

    add(store, 2, np.full(40, 0.5, np.float32), weight=4.0, scale=1.0)
    closed(store)

    np.testing.assert_array_equal(before + np.float32(0.5), store.raw(2))
    assert 0 == store.counts.sum()


def test_scale_acts_on_the_delta_and_weight_on_the_mean() -> None:
    store = filled()
    before = store.raw(1).copy()
    add(store, 1, np.ones(3, np.float32), weight=1.0, scale=0.5)
    add(store, 1, np.ones(3, np.float32), weight=3.0, scale=0.5)

    closed(store)

    np.testing.assert_allclose(store.raw(1), before + 0.5, rtol=1e-6)


def test_the_server_rate_scales_the_step() -> None:
    store = filled()
    before = store.raw(1).copy()
    add(store, 1, np.ones(3, np.float32), weight=2.0, scale=1.0)

    closed(store, 1, 0.25, 0.0)

    np.testing.assert_allclose(store.raw(1), before + 0.25, rtol=1e-6)


def test_without_an_average_the_raw_weights_are_published_and_nothing_more_is_held() -> None:
    store = filled(averaged=False)

    assert np.shares_memory(store.raw(2), store.average(2))


def test_the_average_moves_towards_the_raw_weights() -> None:
    store = filled()
    expected = store.average(0) + (store.raw(0) - store.average(0)) * np.float32(1 - 4 / 13)

    closed(store, 3, 1.0, 0.5)

    np.testing.assert_array_equal(expected, store.average(0))


def test_digests_are_those_of_the_bytes_after_every_version() -> None:
    store = filled()
    for version in range(1, 4):
        store.digest(3), store.raw_digest(3)
        add(store, 3, np.ones(40, np.float32), weight=1.0, scale=1.0)
        closed(store, version, 1.0, 0.5)

    assert [unit_digest(store.raw(u), store.average(u)) for u in range(4)] == [
        store.digest(u) for u in range(4)
    ]
    assert [unit_digest(store.raw(u)) for u in range(4)] == [store.raw_digest(u) for u in range(4)]


def test_norms_are_those_of_step_and_model() -> None:
    store = filled()
    add(store, 2, np.full(40, 0.5, np.float32), weight=1.0, scale=1.0)

    closed(store)

    everything = np.concatenate([store.raw(u) for u in range(4)])
    assert pytest.approx(np.sqrt(40 * 0.25)) == store.step_norm
    assert pytest.approx(np.linalg.norm(everything)) == store.model_norm


def test_each_owned_unit_tells_the_norm_of_its_raw_weights() -> None:
    store = filled(owned=(1, 3))
    add(store, 3, np.ones(40, np.float32), weight=1.0, scale=1.0)

    closed(store)

    expected = [np.linalg.norm(store.raw(u)) for u in (1, 3)]
    np.testing.assert_allclose(np.frombuffer(store.unit_norms, "<f4"), expected, rtol=1e-6)


def test_the_square_of_deltas_is_averaged_as_the_merge_weighs_them() -> None:
    """By hand: unit 1 has (1 * 12 + 3 * 0.25 * 48) / 4 = 12, unit 2 has 40; unit 3 is untouched."""
    store = filled()
    add(store, 1, np.full(3, 2, np.float32), weight=1.0, scale=1.0)
    add(store, 1, np.full(3, 4, np.float32), weight=3.0, scale=0.5)
    add(store, 2, np.ones(40, np.float32), weight=7.0, scale=1.0)

    closed(store)

    assert pytest.approx(52.0) == store.delta_square


def test_the_square_of_deltas_is_that_of_the_last_version_alone() -> None:
    store = filled()
    add(store, 1, np.full(3, 2, np.float32), weight=5.0, scale=1.0)
    closed(store)
    add(store, 1, np.ones(3, np.float32), weight=2.0, scale=1.0)

    closed(store)
    last = store.delta_square
    closed(store)

    assert pytest.approx(3.0) == last
    assert 0.0 == store.delta_square


def test_a_units_share_is_the_weight_of_the_submodels_that_held_it_over_that_of_all() -> None:
    """Weights 1, 3 and 4: the stem 8 / 8, the block's core 4 / 8, its heads 1 / 8 and 3 / 8."""
    store = filled()
    store.hold((0, 1, 2), 1.0)
    store.hold((0, 1, 3), 3.0)
    store.hold((0,), 4.0)

    closed(store)

    assert [1.0, 0.5, 0.125, 0.375] == shares(store)


def test_shares_are_those_of_the_last_version_alone() -> None:
    store = filled()
    store.hold((0, 1, 2), 5.0)
    closed(store)
    store.hold((0,), 2.0)

    closed(store)

    assert [1.0, 0.0, 0.0, 0.0] == shares(store)


def test_a_unit_that_a_plan_names_twice_is_held_once() -> None:
    store = filled()
    store.hold((0, 1, 2, 1), 2.0)

    closed(store)

    assert [1.0, 1.0, 1.0, 0.0] == shares(store)


def test_a_shard_tells_the_shares_of_its_own_units_over_all_updates() -> None:
    store = filled(owned=(1, 3))
    store.hold((0, 1, 3), 1.0)
    store.hold((0,), 1.0)
    store.hold((0, 1, 2), 2.0)

    closed(store)

    assert [0.75, 0.25] == shares(store)


def test_there_are_no_shares_before_a_version_is_made() -> None:
    assert [] == shares(filled())


def test_a_version_of_no_updates_has_no_shares() -> None:
    store = filled()
    store.hold((0, 1, 2), 5.0)
    closed(store)

    closed(store)

    assert [] == shares(store)


def test_updates_that_agree_have_no_dispersion() -> None:
    store = filled()
    for weight in (0.3, 1.7):
        add(store, 2, np.full(40, 0.5, np.float32), weight=weight, scale=1.0)

    closed(store, 1, 0.25, 0.0)

    assert pytest.approx((store.step_norm / 0.25) ** 2) == store.delta_square


def test_weights_that_overflow_end_the_run_by_name() -> None:
    store = filled()
    huge = np.full(40, 3e38, np.float32)
    add(store, 2, huge, weight=1.0, scale=1.0)
    add(store, 2, huge, weight=1.0, scale=1.0)

    with pytest.raises(RunFailedError, match=r"block0\.head\.0 overflows"):
        closed(store)


def test_a_shard_that_owns_nothing_closes_versions_too() -> None:
    store = filled(owned=())

    closed(store)

    assert 0.0 == store.model_norm
    assert [] == shares(store)
