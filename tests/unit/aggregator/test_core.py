from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cos2p.errors import MessageError, SettingsError
from cos2p.log import messages as m

if TYPE_CHECKING:
    from unit.aggregator.conftest import NewScript, Script


async def round_without_end(s: Script) -> None:
    s.version += 1
    await s.close()


async def second_start(s: Script) -> None:
    await s.start()


async def stray_update(s: Script) -> None:
    plan = await s.plan("a")
    await s.admit(plan.model_copy(update={"plan_id": "p999999"}))


async def second_admission(s: Script) -> None:
    plan = await s.plan("a")
    await s.admit(plan)
    await s.admit(plan)


async def unknown_unit(s: Script) -> None:
    plan = (await s.plan("a")).model_copy(update={"plan_id": "p999999", "trained": (0, 99)})
    await s.decide(m.PlanIssued(run_id="run-1", epoch=1, fleet_offset=0, at_s=0.0, plan=plan))


async def wrong_end(s: Script) -> None:
    s.version = 4
    await s.end()


@pytest.mark.parametrize(
    ("deed", "complaint"),
    [
        (round_without_end, "offset 2 closes 2 after 0"),
        (second_start, "offset 3 starts a run that has started before"),
        (stray_update, r"offset 3 admits an update of no open plan \(p999999\)"),
        (second_admission, r"offset 4 admits an update of no open plan \(p000000\)"),
        (unknown_unit, "offset 3 plans units that the model does not have"),
        (wrong_end, "offset 2 ends the run at 4, not 0"),
    ],
)
def test_a_log_that_contradicts_itself_is_an_error_with_its_offset(
    new_script: NewScript, deed: Callable[[Script], Awaitable[None]], complaint: str
) -> None:
    async def go() -> None:
        s = new_script()
        await s.start()
        await deed(s)
        await s.aggregate()

    with pytest.raises(MessageError, match=complaint):
        asyncio.run(go())


def test_a_shard_that_the_run_lacks_is_told_which_there_are(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(shards=2)
        await s.start()
        await s.aggregate(shard=2)

    with pytest.raises(SettingsError, match="the run has 2"):
        asyncio.run(go())


def test_decisions_of_a_replaced_planner_are_void(new_script: NewScript) -> None:
    async def go(*, stale: bool) -> bytes:
        s = new_script()
        await s.start()
        first = await s.plan("a")
        second = await s.plan("b")
        await s.decide(
            m.EpochStarted(run_id="run-1", epoch=2, fleet_offset=0, at_s=0.0, planner_id="x")
        )
        if stale:
            await s.admit(first)
        s.epoch = 2
        await s.admit(second)
        await s.close()
        await s.end()
        await s.aggregate()
        return (await s.versions())[1].digest

    assert asyncio.run(go(stale=False)) == asyncio.run(go(stale=True))


def test_a_refused_duplicate_ends_no_open_plan(new_script: NewScript) -> None:
    """Any device may name any plan in a report."""

    async def go() -> None:
        s = new_script()
        await s.start()
        plan = await s.plan("a")
        ids = {"plan_id": plan.plan_id, "worker_id": "b", "reason": "the plan is a's"}
        stamp = {"run_id": "run-1", "epoch": 1, "fleet_offset": 0, "at_s": 0.0}
        await s.decide(m.UpdateRefused(outcome=m.Outcome.DUPLICATE, **ids, **stamp))
        await s.admit(plan)
        await s.close()
        await s.end()
        await s.aggregate()

        assert 1 == (await s.versions())[1].merged_count

    asyncio.run(go())


def test_the_order_of_the_log_decides_and_not_that_of_arrival(new_script: NewScript) -> None:
    async def go(arrival: tuple[int, int, int]) -> bytes:
        s = new_script()
        await s.start()
        plans = [await s.plan(w) for w in "abc"]
        refs = {i: await s.upload(plans[i]) for i in arrival}
        for i, weight in enumerate((0.3, 1.1, 0.7)):
            await s.admit(plans[i], refs[i], weight=weight)
        await s.close()
        await s.end()
        await s.aggregate()
        return (await s.versions())[1].digest

    assert 1 == len({asyncio.run(go(order)) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0))})


def test_a_plan_gets_the_weights_of_its_point_of_the_log(new_script: NewScript) -> None:
    """Raw weights of trained and frozen units, cut between two versions."""

    async def go() -> None:
        s = new_script()
        await s.start()
        before = await s.plan("a", [4], frozen=(2, 3))
        await s.admit(before)
        await s.close()
        await s.plan("b", [4], frozen=(2, 3))
        await s.end()
        await s.aggregate()

        old, new = await s.payloads(m.Dispatched)
        step = np.concatenate(s.deltas(before))
        moved = _flat(s, new) - _flat(s, old)
        expected = np.zeros(len(moved), np.float32)
        expected[_trained_mask(s)] = step
        assert (0, 1, 2, 4) == before.trained
        np.testing.assert_allclose(moved, expected, atol=1e-6)

    asyncio.run(go())


def test_a_late_delta_is_added_to_what_the_model_has_become(new_script: NewScript) -> None:
    """It was taken against the weights dispatched: the model in between is not subtracted."""

    async def go() -> None:
        s = new_script()
        await s.start()
        late = await s.plan("a", [4], frozen=(2, 3))
        other = await s.plan("b", [4], frozen=(2, 3))
        await s.admit(other)
        await s.close()
        await s.plan("c", [4], frozen=(2, 3))
        await s.admit(late, staleness=1)
        await s.close()
        await s.plan("d", [4], frozen=(2, 3))
        await s.end()
        await s.aggregate()

        _, _, between, after = await s.payloads(m.Dispatched)
        moved = (_flat(s, after) - _flat(s, between))[_trained_mask(s)]
        np.testing.assert_allclose(moved, np.concatenate(s.deltas(late)), atol=1e-6)

    asyncio.run(go())


def test_a_version_may_move_the_model_by_a_part_of_the_mean(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(server_lr=0.5)
        await s.start()
        plan = await s.plan("a", [4], frozen=(2, 3))
        await s.admit(plan)
        await s.close(step=0.25)
        await s.plan("b", [4], frozen=(2, 3))
        await s.end()
        await s.aggregate()

        old, new = await s.payloads(m.Dispatched)
        moved = (_flat(s, new) - _flat(s, old))[_trained_mask(s)]
        np.testing.assert_allclose(moved, 0.125 * np.concatenate(s.deltas(plan)), atol=1e-6)

    asyncio.run(go())


def _trained_mask(s: Script) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    sizes = [s.table.units[u].size for u in range(5)]
    return np.repeat([True, True, True, False, True], sizes)


def _flat(s: Script, payload: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    count = sum(s.table.units[u].size for u in range(5))
    return np.frombuffer(payload[-4 * count :], np.float32)


def test_decisions_after_the_end_change_nothing(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script()
        await s.usual()
        await s.plan("late")
        await s.aggregate()

        published = await s.published_messages()
        assert isinstance(published[-1], m.RunFinished)
        assert all(t.plan.worker_id != "late" for t in published if isinstance(t, m.Dispatched))

    asyncio.run(go())


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_shards_give_the_same_bytes_as_one(new_script: NewScript, shards: int) -> None:
    """Seven shards: some own nothing."""

    async def go(count: int) -> dict[int, dict[int, bytes]]:
        s = new_script(shards=count)
        await s.usual()
        for shard in range(count):
            await s.aggregate(shard)
        found: dict[int, dict[int, bytes]] = {}
        for shard in range(count):
            owned = s.table.owned_by(shard, count)
            for version, published in (await s.versions(shard)).items():
                for i, unit in enumerate(owned):
                    digest = published.unit_digests[8 * i : 8 * i + 8]
                    found.setdefault(version, {})[unit] = digest
        return found

    assert asyncio.run(go(1)) == asyncio.run(go(shards))


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_tell_the_norms_that_one_would(new_script: NewScript, shards: int) -> None:
    """Version 1 merges 0.3 of b's delta and 1.7 of half of a's; version 0 is the first weights."""

    async def go() -> None:
        s = new_script(shards=shards, server_lr=0.5)
        await s.usual()
        for shard in range(shards):
            await s.aggregate(shard)
        published = [await s.versions(shard) for shard in range(shards)]

        weights = np.random.default_rng(s.seed)
        first = [np.linalg.norm(weights.normal(size=u.size)) for u in s.table.units]
        norms = np.zeros(len(s.table))
        for shard, versions in enumerate(published):
            owned = list(s.table.owned_by(shard, shards))
            norms[owned] = np.frombuffer(versions[0].unit_norms, "<f4")
        np.testing.assert_allclose(norms, first, rtol=1e-6)

        a, b = (s.plans[p] for p in ("p000000", "p000001"))
        squares = np.zeros((2, len(s.table)))
        for row, plan in enumerate((a, b)):
            squares[row, list(plan.trained)] = [float(d @ d) for d in s.deltas(plan)]
        mass = np.where(squares > 0, [[1.7], [0.3]], 0)
        total = mass[0] * 0.25 * squares[0] + mass[1] * squares[1]
        touched = mass.sum(0) > 0
        expected = (total[touched] / mass.sum(0)[touched]).sum()
        assert pytest.approx(expected, rel=1e-5) == sum(v[1].delta_square for v in published)

    asyncio.run(go())


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_tell_the_shares_that_one_would(new_script: NewScript, shards: int) -> None:
    """Version 1 merges b with weight 0.3 and a with 1.7; b's frozen units are held as well."""

    async def go() -> None:
        s = new_script(shards=shards)
        await s.usual()
        for shard in range(shards):
            await s.aggregate(shard)
        published = [await s.versions(shard) for shard in range(shards)]

        a, b = (s.plans[p] for p in ("p000000", "p000001"))
        expected = np.zeros(len(s.table))
        expected[list({*a.trained, *a.frozen})] += 1.7
        expected[list({*b.trained, *b.frozen})] += 0.3
        found = np.full(len(s.table), np.nan)
        for shard, versions in enumerate(published):
            owned = list(s.table.owned_by(shard, shards))
            found[owned] = np.frombuffer(versions[1].unit_shares, "<f4")
        assert 3 in b.frozen
        np.testing.assert_allclose(found, expected / 2.0, rtol=1e-6)
        assert b"" == published[0][0].unit_shares

    asyncio.run(go())


def test_every_shard_dispatches_its_units_of_every_plan(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(shards=3)
        await s.start()
        await s.plan("a", [3])
        await s.end()
        for shard in (0, 1, 2):
            await s.aggregate(shard)

        published = [t for t in await s.published_messages() if isinstance(t, m.Dispatched)]
        assert [0, 1, 2] == [t.shard for t in published]
        assert 4 * (23 + 7 + 40) < sum(b.blob.byte_count for t in published for b in t.blobs)

    asyncio.run(go())


def test_only_shard_0_opens_and_finishes_the_run(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(shards=2)
        await s.usual()
        for shard in (1, 0):
            await s.aggregate(shard)

        published = await s.published_messages()
        assert 1 == sum(isinstance(t, m.RunOpened) for t in published)
        assert isinstance(published[-1], m.RunFinished)

    asyncio.run(go())


def test_a_version_that_merges_nothing_keeps_the_raw_weights(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(average_decay=0)
        await s.start()
        await s.close()
        await s.end()
        await s.aggregate()

        versions = await s.versions()
        assert versions[0].digest == versions[1].digest
        assert 0.0 == versions[1].step_norm

    asyncio.run(go())
