from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

from cos2p.errors import BlobError, DivergedError, SettingsError
from cos2p.log import messages as m
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.codec import decode
from cos2p.log.mailbox import Outbox
from cos2p.log.topics import MODELS
from cos2p_aggregator.replay import DigestDifference, ReplayResult, replay
from cos2p_aggregator.replay_plan import survey
from cos2p_aggregator.replay_staleness import staleness_rule

if TYPE_CHECKING:
    from unit.aggregator.conftest import NewScript, Script

PREFIX = "t"
D = TypeVar("D", bound=m.Decision)


async def finished(s: Script, shards: int = 1) -> Script:
    """A whole run, aggregated."""
    await s.usual()
    for shard in range(shards):
        await s.aggregate(shard)
    return s


def decisions(s: Script, kind: type[D]) -> Iterator[D]:
    """The log's decisions of a kind."""
    for record in s.bus._log("t-decisions", 0):
        message = decode(record)
        if isinstance(message, kind):
            yield message


def sizes(bus: MemoryBus) -> dict[tuple[str, int], int]:
    return {place: len(log) for place, log in bus._logs.items()}


@pytest.mark.parametrize("average_decay", [0.0, 0.5])
@pytest.mark.parametrize("run_shards", [1, 3])
@pytest.mark.parametrize("replay_shards", [None, 1, 2, 5])
def test_a_replay_gives_the_runs_bytes(
    new_script: NewScript, run_shards: int, replay_shards: int | None, average_decay: float
) -> None:
    async def go() -> ReplayResult:
        s = await finished(new_script(shards=run_shards, average_decay=average_decay), run_shards)
        return await replay(s.bus, PREFIX, shards=replay_shards)

    found = asyncio.run(go())
    found.check()

    assert None is found.difference
    assert [0, 1, 2, 3, 4, 5, 6] == [v.version for v in found.versions]
    assert 7 == found.compared_count
    assert 0 == found.started_at


def test_the_digest_of_a_version_is_that_of_any_number_of_shards(new_script: NewScript) -> None:
    async def go() -> list[ReplayResult]:
        s = await finished(new_script())
        return [await replay(s.bus, PREFIX, shards=n) for n in (1, 2, 3)]

    results = asyncio.run(go())

    assert 1 == len({tuple(v.digest for v in r.versions) for r in results})
    for v in zip(*(r.versions for r in results), strict=True):
        assert pytest.approx(v[0].model_norm) == v[1].model_norm
        assert pytest.approx(v[0].step_norm) == v[2].step_norm
        assert v[0].coverage_min == v[1].coverage_min == v[2].coverage_min


def test_it_writes_nothing(new_script: NewScript) -> None:
    async def go() -> None:
        s = await finished(new_script())
        before = sizes(s.bus)
        await s.bus.append("t-decisions", 0, [])

        await replay(s.bus, PREFIX, shards=2)

        assert before == sizes(s.bus)

    asyncio.run(go())


def test_it_tells_updates_weights_coverage_and_norms(new_script: NewScript) -> None:
    async def go() -> tuple[ReplayResult, dict[int, m.VersionPublished]]:
        s = await finished(new_script())
        return await replay(s.bus, PREFIX), await s.versions()

    found, published = asyncio.run(go())

    assert [0, 2, 3, 2, 3, 3, 1] == [v.update_count for v in found.versions]
    assert [0, 2.0, 2.9, 1.2, 2.9, 2.9, 0.9] == [
        pytest.approx(v.weight_sum) for v in found.versions
    ]
    assert [0, 0, 1, 2, 3, 4, 4] == [v.coverage_min for v in found.versions]
    for v in found.versions:
        assert pytest.approx(published[v.version].model_norm) == v.model_norm
        assert pytest.approx(published[v.version].step_norm) == v.step_norm


@pytest.mark.parametrize("shards", [1, 3])
def test_a_flipped_byte_of_an_update_is_found_by_version_and_unit(
    new_script: NewScript, shards: int
) -> None:
    async def go() -> ReplayResult:
        s = new_script(shards=shards)
        await finished(s, shards)
        # b's second plan, merged into version 2
        ref = next(d.blob for d in decisions(s, m.UpdateAdmitted) if d.plan_id == "p000004")
        value = bytearray(s.bus._log(ref.topic, ref.partition)[ref.last_offset].value)
        value[-1] ^= 1
        await s.replace(ref.topic, ref.partition, ref.last_offset, bytes(value))
        return await replay(s.bus, PREFIX)

    found = asyncio.run(go())

    assert DigestDifference(2, "block1.head.1") == found.difference
    with pytest.raises(DivergedError, match=r"version 2, .* in unit block1\.head\.1"):
        found.check()


def test_until_stops_at_a_version(new_script: NewScript) -> None:
    async def go() -> list[list[int]]:
        s = await finished(new_script())
        return [
            [v.version for v in (await replay(s.bus, PREFIX, until=u)).versions] for u in (0, 3)
        ]

    assert [[0], [0, 1, 2, 3]] == asyncio.run(go())


def test_without_a_worker_its_updates_do_not_count(new_script: NewScript) -> None:
    async def go() -> tuple[ReplayResult, ReplayResult]:
        s = await finished(new_script())
        return await replay(s.bus, PREFIX), await replay(s.bus, PREFIX, without=["a"])

    usual, other = asyncio.run(go())

    assert other.what_if
    assert None is other.difference
    assert 0 == other.compared_count
    assert [0, 1, 2, 2, 2, 2, 1] == [v.update_count for v in other.versions]
    assert usual.versions[0].digest == other.versions[0].digest
    assert usual.versions[1].digest != other.versions[1].digest


def test_the_runs_own_staleness_rule_changes_no_weight(new_script: NewScript) -> None:
    async def go() -> tuple[ReplayResult, ReplayResult, ReplayResult]:
        s = await finished(new_script())
        return (
            await replay(s.bus, PREFIX),
            await replay(s.bus, PREFIX, staleness="poly:0.5"),
            await replay(s.bus, PREFIX, staleness="constant"),
        )

    usual, same, constant = asyncio.run(go())

    assert [pytest.approx(v.weight_sum) for v in usual.versions] == [
        v.weight_sum for v in same.versions
    ]
    assert pytest.approx(1.7 + (0.3 + 0.9) * 2**0.5) == constant.versions[2].weight_sum
    assert usual.versions[2].digest != constant.versions[2].digest


def test_where_staleness_acts_on_deltas_another_rule_changes_them_and_no_weight(
    new_script: NewScript,
) -> None:
    async def go() -> tuple[ReplayResult, ReplayResult]:
        s = new_script()
        rounds = s.config.rounds.model_copy(update={"staleness_on": "delta"})
        s.config = s.config.model_copy(update={"rounds": rounds})
        await finished(s)
        return await replay(s.bus, PREFIX), await replay(s.bus, PREFIX, staleness="constant")

    usual, constant = asyncio.run(go())

    assert [v.weight_sum for v in usual.versions] == [v.weight_sum for v in constant.versions]
    assert usual.versions[2].digest != constant.versions[2].digest


@pytest.mark.parametrize(
    ("rule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("poly:1", [1, 1 / 2, 1 / 3, 1 / 4]),
        ("hinge:2,1", [1, 1, 1 / 3, 1 / 5]),
    ],
)
def test_staleness_rules_are_fedasyncs(rule: str, factors: list[float]) -> None:
    assert [pytest.approx(f) for f in factors] == [staleness_rule(rule)(t) for t in range(4)]


@pytest.mark.parametrize(
    "rule", ["", "poly", "poly:x", "poly:-1", "hinge:1", "linear:1", "poly:nan"]
)
def test_an_unknown_rule_is_told_which_there_are(rule: str) -> None:
    with pytest.raises(SettingsError, match="constant, poly:A or hinge:A,B"):
        staleness_rule(rule)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"until": 7}, "no version 7: the log holds 0 to 6"),
        ({"without": ["zed"]}, "no worker named 'zed' had a plan in this run; known: a, b, c"),
        ({"shards": 0}, "use 1 to 64"),
    ],
)
def test_options_that_fit_no_run_are_refused(
    new_script: NewScript, options: dict[str, object], complaint: str
) -> None:
    async def go() -> None:
        s = await finished(new_script())
        await replay(s.bus, PREFIX, **options)  # type: ignore[arg-type]

    with pytest.raises(SettingsError, match=complaint):
        asyncio.run(go())


def test_no_run_is_said_to_be_there(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script()
        await s.start()
        s.bus.expire("t-decisions", 0, 2)
        await replay(s.bus, PREFIX)

    with pytest.raises(SettingsError, match="no run has started under the prefix 't'"):
        asyncio.run(go())


async def forget_updates_before(s: Script, version: int) -> None:
    """Retention takes the updates merged up to `version`."""
    last: dict[int, int] = {}
    closed = 0
    for decision in decisions(s, m.Decision):
        if isinstance(decision, m.RoundClosed):
            closed = decision.version
        if isinstance(decision, m.UpdateAdmitted) and closed < version:
            last[decision.blob.partition] = decision.blob.last_offset + 1
    for partition, offset in last.items():
        s.bus.expire("t-updates", partition, offset)


@pytest.mark.parametrize("run_shards", [1, 3])
@pytest.mark.parametrize("shards", [1, 2])
def test_it_starts_at_the_oldest_checkpoint_that_is_enough(
    new_script: NewScript, shards: int, run_shards: int
) -> None:
    async def go() -> ReplayResult:
        s = await finished(new_script(shards=run_shards), run_shards)
        await forget_updates_before(s, 3)
        return await replay(s.bus, PREFIX, shards=shards)

    found = asyncio.run(go())

    assert 4 == found.started_at
    assert [4, 5, 6] == [v.version for v in found.versions]
    assert 3 == found.compared_count
    assert None is found.difference


def test_a_version_before_what_is_left_names_what_can_be_replayed(new_script: NewScript) -> None:
    async def go() -> None:
        s = await finished(new_script())
        await forget_updates_before(s, 3)
        await replay(s.bus, PREFIX, until=1)

    with pytest.raises(BlobError, match="the log can be replayed from version 4 on"):
        asyncio.run(go())


def test_a_log_without_any_checkpoint_left_says_so(new_script: NewScript) -> None:
    async def go() -> None:
        s = await finished(new_script())
        ends = await s.bus.end_offsets("t-checkpoints")
        s.bus.expire("t-checkpoints", 0, ends[0].next)
        await replay(s.bus, PREFIX)

    with pytest.raises(BlobError, match="no version can be rebuilt"):
        asyncio.run(go())


def test_what_is_kept_of_a_version_does_not_grow_with_the_model(new_script: NewScript) -> None:
    """A hundred versions of five thousand units: six megabytes on `models`."""
    count, units = 100, 5000

    async def go() -> int:
        s = new_script()
        await s.start()
        outbox = Outbox(s.bus, PREFIX, MODELS)
        for version in range(count):
            await outbox.send(
                m.VersionPublished(
                    run_id="run-1",
                    version=version,
                    shard=0,
                    shard_count=1,
                    decisions_offset=version,
                    digest=bytes(32),
                    unit_digests=bytes(8 * units),
                    unit_norms=bytes(4 * units),
                )
            )
        tracemalloc.start()
        found = await survey(s.bus, PREFIX)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == len(found.published)
        return held

    assert 1500 * count > asyncio.run(go())


def test_the_result_is_plain_json(new_script: NewScript) -> None:
    async def go() -> ReplayResult:
        s = await finished(new_script())
        return await replay(s.bus, PREFIX)

    body = json.loads(json.dumps(asyncio.run(go()).to_json()))

    assert 7 == body["compared_count"]
    assert 64 == len(body["versions"][6]["digest"])
    assert None is body["difference"]
