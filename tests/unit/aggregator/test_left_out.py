from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cos2p.log import messages as m
from cos2p_aggregator.replay import replay

if TYPE_CHECKING:
    from unit.aggregator.conftest import NewScript, Script

Upload = Callable[["Script", m.Plan], Awaitable[m.BlobRef]]
ALL = list(range(11))
PREFIX = "t"


async def not_a_number(s: Script, plan: m.Plan) -> m.BlobRef:
    deltas = s.deltas(plan)
    deltas[3][5] = np.nan
    return await s.upload(plan, deltas)


async def infinite(s: Script, plan: m.Plan) -> m.BlobRef:
    deltas = s.deltas(plan)
    deltas[10][0] = np.inf
    return await s.upload(plan, deltas)


async def too_large(s: Script, plan: m.Plan) -> m.BlobRef:
    deltas = s.deltas(plan)
    deltas[6] *= 10_000
    return await s.upload(plan, deltas)


async def flipped_bit(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    record = s.bus._log(ref.topic, ref.partition)[ref.last_offset]
    value = bytearray(record.value)
    value[-1] ^= 1
    await s.replace(ref.topic, ref.partition, ref.last_offset, bytes(value))
    return ref


async def anothers_payload(s: Script, plan: m.Plan) -> m.BlobRef:
    return await s.upload(plan, owner="p999999")


async def units_not_in_the_plan(s: Script, plan: m.Plan) -> m.BlobRef:
    units = (*plan.trained[:-1], 12)
    return await s.upload(plan, units=units)


async def no_payload_at_all(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    record = s.bus._log(ref.topic, ref.partition)[ref.first_offset]
    await s.replace(ref.topic, ref.partition, ref.first_offset, b"\xff" * len(record.value))
    return ref


async def one_unit_short(s: Script, plan: m.Plan) -> m.BlobRef:
    return await s.upload(plan, s.deltas(plan)[:-1], units=plan.trained[:-1])


async def never_written(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    return ref.model_copy(update={"blob_id": "other"})


async def another_topic(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    return ref.model_copy(update={"topic": "nowhere"})


async def another_partition(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    return ref.model_copy(update={"partition": 7})


async def last_chunk_lost(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    return ref.model_copy(update={"last_offset": ref.last_offset - 1})


async def chunk_repeated(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    log = s.bus._log(ref.topic, ref.partition)
    first = log[ref.first_offset + 1]
    log[ref.first_offset + 2] = dataclasses.replace(first, offset=ref.first_offset + 2)
    return ref


async def gap_in_the_middle(s: Script, plan: m.Plan) -> m.BlobRef:
    ref = await s.upload(plan)
    log = s.bus._log(ref.topic, ref.partition)
    log[ref.first_offset + 2] = dataclasses.replace(log[ref.first_offset + 2], headers={})
    return ref


FAULTS = [
    (not_a_number, {3: "not_finite"}),
    (infinite, {10: "not_finite"}),
    (too_large, {6: "norm"}),
    (flipped_bit, {10: "digest"}),
    (anothers_payload, dict.fromkeys(ALL, "foreign")),
    (units_not_in_the_plan, dict.fromkeys(ALL, "foreign")),
    (no_payload_at_all, dict.fromkeys(ALL, "foreign")),
    (one_unit_short, dict.fromkeys(ALL, "size")),
    (never_written, dict.fromkeys(ALL, "missing")),
    (another_topic, dict.fromkeys(ALL, "foreign")),
    (another_partition, dict.fromkeys(ALL, "foreign")),
    (last_chunk_lost, dict.fromkeys(ALL, "missing")),
    (chunk_repeated, dict.fromkeys(range(4, 11), "foreign")),
    (gap_in_the_middle, dict.fromkeys(range(4, 11), "missing")),
]
IDS = [f[0].__name__ for f in FAULTS]


async def one_faulty_round(s: Script, upload: Upload, shards: int) -> dict[int, str]:
    """A good and a faulty update in one version; what was left out of the second."""
    await s.start()
    good = await s.plan("good", [3])
    bad = await s.plan("bad")
    await s.admit(good)
    await s.admit(bad, await upload(s, bad))
    await s.close()
    await s.end()
    left: dict[int, str] = {}
    for shard in range(shards):
        await s.aggregate(shard)
        published = (await s.versions(shard))[1]
        assert {"bad"} >= {out.worker_id for out in published.left_out}
        left |= {out.unit: out.reason for out in published.left_out}
    return left


@pytest.mark.parametrize(("upload", "expected"), FAULTS, ids=IDS)
def test_what_fails_a_check_is_left_out_and_named(
    new_script: NewScript, upload: Upload, expected: dict[int, str]
) -> None:
    async def go() -> dict[int, str]:
        return await one_faulty_round(new_script(), upload, 1)

    found = asyncio.run(go())

    assert expected == found


@pytest.mark.parametrize(("upload", "expected"), FAULTS, ids=IDS)
def test_shards_and_replays_leave_out_the_same(
    new_script: NewScript, upload: Upload, expected: dict[int, str]
) -> None:
    async def go() -> None:
        one, three = (new_script(shards=n) for n in (1, 3))

        assert await one_faulty_round(one, upload, 1) == await one_faulty_round(three, upload, 3)
        for s in (one, three):
            for shards in (1, 2):
                found = await replay(s.bus, PREFIX, shards=shards)
                assert None is found.difference
                assert 2 == found.compared_count

    asyncio.run(go())


@pytest.mark.parametrize(("upload", "expected"), FAULTS, ids=IDS)
def test_units_that_pass_are_merged_and_units_left_out_are_not(
    new_script: NewScript, upload: Upload, expected: dict[int, str]
) -> None:
    """Left out units outside the good update's keep the bytes of version 0."""

    async def go() -> None:
        s = new_script(average_decay=0)
        left = await one_faulty_round(s, upload, 1)

        versions = await s.versions()
        same = {
            u
            for u in ALL
            if versions[0].unit_digests[8 * u : 8 * u + 8]
            == versions[1].unit_digests[8 * u : 8 * u + 8]
        }
        assert set(left) - {0, 1, 2, 3} == same

    asyncio.run(go())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("upload", [flipped_bit, another_topic, gap_in_the_middle])
def test_what_is_left_out_was_in_the_submodel_all_the_same(
    new_script: NewScript, upload: Upload, shards: int
) -> None:
    """The good update's submodel held four units, the bad one's all."""

    async def go() -> None:
        s = new_script(shards=shards)
        await one_faulty_round(s, upload, shards)

        shares = np.zeros(len(s.table))
        for shard in range(shards):
            published = (await s.versions(shard))[1].unit_shares
            shares[list(s.table.owned_by(shard, shards))] = np.frombuffer(published, "<f4")
        assert [1.0 if u in (0, 1, 2, 3) else 0.5 for u in ALL] == shares.tolist()

    asyncio.run(go())
