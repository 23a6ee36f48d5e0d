"""How often units were there of late, folded from what shards publish."""

from collections.abc import Sequence

import numpy as np
import pytest
from any_table import tables
from hypothesis import given
from hypothesis import strategies as st

from cos2p.history.survival import WINDOW, Survival
from cos2p.log.messages import VersionPublished
from cos2p.model.units import STEM, Unit, UnitTable

TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, 5, 0, 0),
        Unit("block0.core", "core", 0, 3, 0, 0),
        Unit("block0.head.0", "head", 0, 40, 0, 0),
        Unit("block1.core", "core", 1, 3, 0, 0),
        Unit("block1.head.0", "head", 1, 30, 0, 0),
    )
)


def published(
    version: int,
    shares: Sequence[float],
    *,
    table: UnitTable = TABLE,
    shard: int = 0,
    shard_count: int = 1,
) -> VersionPublished:
    """What a shard publishes where these are the shares of all units."""
    owned = list(table.owned_by(shard, shard_count))
    return VersionPublished(
        run_id="r",
        version=version,
        shard=shard,
        shard_count=shard_count,
        decisions_offset=1,
        digest=bytes(32),
        unit_digests=bytes(8 * len(owned)),
        unit_shares=np.array(shares, "<f4")[owned].tobytes(),
    )


def folded(*messages: VersionPublished) -> Survival:
    survival = Survival(TABLE)
    for message in messages:
        survival.take(message)
    return survival


def test_before_the_first_version_every_unit_counts_in_full() -> None:
    silent = published(0, [0] * 5).model_copy(update={"unit_shares": b""})

    assert [1.0] * 5 == folded(silent).at(0).tolist()


def test_the_newest_shares_count_most_and_each_older_version_nine_tenths_of_the_next() -> None:
    survival = folded(
        published(1, [1, 1, 0.5, 0, 0]),
        published(2, [1, 0.5, 0.5, 0, 1]),
        published(3, [1, 0, 0.5, 0, 0]),
    )

    assert [1, 1, 0.5, 0, 0] == survival.at(1).tolist()
    assert pytest.approx([1, (0.9 + 0.5) / 1.9, 0.5, 0, 1 / 1.9]) == survival.at(2)
    assert pytest.approx([1, (0.81 + 0.45) / 2.71, 0.5, 0, 0.9 / 2.71]) == survival.at(3)


def test_what_no_submodel_holds_any_more_falls_silent() -> None:
    survival = folded(
        published(1, [1, 1, 1, 0, 0]), *(published(v, [1, 1, 0, 0, 0]) for v in range(2, 102))
    )

    found = survival.at(101)

    assert 0 < found[2] < 1e-5
    assert [1, 1, 0, 0] == found[[0, 1, 3, 4]].tolist()


def test_versions_before_the_window_don_t_count() -> None:
    """By whatever the shares began with: a reader from the end has the same factors."""
    rows = [published(v, [1, (v % 7) / 7, v % 2, 0, 0.3]) for v in range(1, 301)]
    newest_first = folded(*reversed(rows[300 - WINDOW :]))

    assert folded(*rows).at(300).tolist() == newest_first.at(300).tolist()
    assert folded(*rows).at(299).tolist() != newest_first.at(299).tolist()


def test_what_is_forgotten_is_not_needed_later() -> None:
    rows = [published(v, [1, (v % 7) / 7, v % 2, 0, 0.3]) for v in range(1, 301)]
    survival = folded(*rows[:290])
    survival.forget_before(290)
    for message in rows:
        survival.take(message)

    assert folded(*rows).at(290).tolist() == survival.at(290).tolist()
    assert folded(*rows).at(300).tolist() == survival.at(300).tolist()


def test_versions_that_nobody_asked_for_count_all_the_same() -> None:
    messages = [published(v, [1, 1 / v, 0, 1, 0.3]) for v in (1, 2, 3)]
    step_by_step = folded(*messages)
    for version in (1, 2):
        step_by_step.at(version)

    assert step_by_step.at(3).tolist() == folded(*messages).at(3).tolist()


def test_versions_after_the_one_asked_for_wait() -> None:
    survival = folded(published(2, [1, 0, 0, 0, 0]), published(1, [1, 1, 1, 1, 1]))

    assert [1.0] * 5 == survival.at(1).tolist()
    assert pytest.approx([1] + 4 * [0.9 / 1.9]) == survival.at(2)


@pytest.mark.parametrize("asked", [False, True])
def test_a_version_told_again_counts_once(*, asked: bool) -> None:
    first, second = published(1, [1, 1, 1, 0, 0]), published(2, [1, 0, 0, 1, 1])
    survival = folded(first)
    if asked:
        survival.at(1)
    for message in (first, second):
        survival.take(message)

    assert folded(first, second).at(2).tolist() == survival.at(2).tolist()


def test_units_of_a_shard_that_has_not_told_keep_what_they_had() -> None:
    """Of two shards one has block 0 alone; the other's part of version 2 is not there."""
    of_block0 = next(s for s in (0, 1) if TABLE.owned_by(s, 2) == (1, 2))
    parts = [published(1, [0.5] * 5, shard=s, shard_count=2) for s in (0, 1)]
    survival = folded(*parts, published(2, [0.0] * 5, shard=of_block0, shard_count=2))

    found = survival.at(2)

    assert [0.5, 0.5, 0.5] == found[[0, 3, 4]].tolist()
    assert pytest.approx([0.45 / 1.9] * 2) == found[[1, 2]]


def test_shares_of_another_number_of_units_say_nothing() -> None:
    short = published(1, [0] * 5)
    short = short.model_copy(update={"unit_shares": short.unit_shares[:-4]})

    assert [1.0] * 5 == folded(short).at(1).tolist()


def test_shares_that_are_none_are_held_between_0_and_1() -> None:
    broken = published(1, [float("nan"), float("inf"), float("-inf"), 7, -1])

    assert [0, 1, 0, 1, 0] == folded(broken).at(1).tolist()


@given(st.data())
def test_shards_in_any_order_give_the_factors_that_one_gives(data: st.DataObject) -> None:
    table, shards = data.draw(tables()), data.draw(st.integers(1, 4))
    share = st.floats(0, 1, width=32)
    row = st.lists(share, min_size=len(table), max_size=len(table))
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    one, many = Survival(table), Survival(table)
    for version, shares in enumerate(rows, 1):
        one.take(published(version, shares, table=table))
    parts = [
        published(version, shares, table=table, shard=shard, shard_count=shards)
        for version, shares in enumerate(rows, 1)
        for shard in range(shards)
    ]
    for part in data.draw(st.permutations(parts)):
        many.take(part)

    found = many.at(len(rows))

    assert one.at(len(rows)).tolist() == found.tolist()
    assert ((found >= 0) & (found <= 1)).all()
