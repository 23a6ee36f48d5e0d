"""An aggregator's start: from its checkpoint and what follows, whatever the log's length."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from counting_bus import CountingBus

from cos2p.clock import LoopClock, SystemClock
from cos2p.errors import MessageError
from cos2p.log import messages as m
from cos2p.log.bus import Bus, NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.buses.passing import PassingBus
from cos2p.log.codec import decode
from cos2p.log.fence import EpochFence
from cos2p.log.topics import specs
from cos2p.service.logs import configure_logs
from cos2p.service.role import RoleContext
from cos2p_aggregator.core import AggregatorCore
from cos2p_aggregator.effects import Load, Merge
from cos2p_aggregator.shell import run_aggregator
from cos2p_aggregator.start import read_published
from cos2p_aggregator.stream import load_checkpoint, merge_update

if TYPE_CHECKING:
    from unit.aggregator.conftest import NewScript, Script

RUN = "run-1"
DECISIONS, MODELS = "t-decisions", "t-models"


class CrashError(Exception):
    """The process dies here."""


class MortalBus(PassingBus):
    """Dies at an append, after it is written."""

    def __init__(self, inner: Bus, crash_at: int) -> None:
        super().__init__(inner)
        self._left = crash_at

    async def append(self, topic: str, partition: int, records: Any) -> list[int]:
        self._left -= 1
        offsets = await super().append(topic, partition, records)
        if not self._left:
            raise CrashError
        return offsets


async def run_on(bus: Bus, shard: int = 0, stop: asyncio.Event | None = None) -> None:
    log = configure_logs("error", "json")
    stop = stop or asyncio.Event()
    await run_aggregator(RoleContext(bus, LoopClock(), log, "t", stop), shard=shard)


async def run_until(s: Script, version: int, shard: int = 0) -> None:
    """Run a shard until it has published a version, then stop it."""
    stop = asyncio.Event()
    running = asyncio.create_task(run_on(s.bus, shard, stop))
    async with asyncio.timeout(60):
        while version not in await s.versions(shard):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def turn(s: Script) -> None:
    """One version of one short plan."""
    await s.admit(await s.plan("b", [3, 4]))
    await s.close()


async def messages_of(s: Script) -> list[m.Message]:
    """What stands on `models`, without where blobs lie."""
    places = {"blobs": (), "checkpoint": None}
    return [t.model_copy(update=places) for t in await s.published_messages()]


async def of_one_life(s: Script, shard: int = 0) -> list[m.Message]:
    await s.aggregate(shard)
    return await messages_of(s)


def records_of_a_restart(new_script: NewScript, versions: int) -> Counter[str]:
    """How many records a shard reads that restarts after so many versions, two plans open."""

    async def go() -> Counter[str]:
        s = new_script(checkpoint_every=10)
        await s.start()
        old = await s.plan("a", [6, 7])
        for _ in range(versions):
            await turn(s)
        await s.plan("c", [9])
        await run_until(s, versions)
        await s.admit(old, staleness=versions)
        await s.close()
        await s.end()
        counted = CountingBus(s.bus)
        await run_on(counted)
        assert versions + 1 == max(await s.versions())
        return counted.counts

    return asyncio.run(go())


def test_a_restart_reads_as_much_after_50_versions_as_after_500(new_script: NewScript) -> None:
    few, many = (records_of_a_restart(new_script, n) for n in (55, 505))

    assert few[MODELS] == many[MODELS] == 64
    assert few[DECISIONS] == pytest.approx(many[DECISIONS], abs=20)
    assert 400 > many[DECISIONS]


def version_after(decisions: list[m.Decision]) -> int:
    """The newest version that these decisions make."""
    fence = EpochFence()
    closed = [d.version for d in decisions if fence.admits(d) and isinstance(d, m.RoundClosed)]
    return max(closed, default=0)


async def cut_off(s: Script, cut: int) -> list[NewRecord]:
    """Give the script a bus whose decisions end at an offset; those that it lacks."""
    whole, s.bus = s.bus, MemoryBus(SystemClock())
    topics = specs("t", s.config.partitions)
    await s.bus.create_topics(topics)
    rest: list[NewRecord] = []
    for topic in topics:
        for partition in range(topic.partitions):
            news = [NewRecord(r.value, r.key, r.headers) for r in whole._log(topic.name, partition)]
            if topic.name == DECISIONS:
                news, rest = news[:cut], news[cut:]
            await s.bus.append(topic.name, partition, news)
    return rest


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_a_restart_before_any_decision_gives_the_bytes_of_one_life(
    new_script: NewScript, shards: int, every: int
) -> None:
    """A plan stays open all the while; the planner changes twice, the old ones go on writing."""

    async def script(s: Script) -> list[m.Decision]:
        await s.start()
        old = await s.plan("a", [6, 7])
        for number in range(4):
            await turn(s)
            if number % 2:
                await s.take_over()
        await s.admit(old, weight=0.5, staleness=4)
        await s.close()
        await s.plan("d", [9])
        await s.end()
        found = [decode(r) for r in s.bus._log(DECISIONS, 0)]
        return [d for d in found if isinstance(d, m.Decision)]

    async def go() -> None:
        merge = {"shards": shards, "checkpoint_every": every}
        whole = new_script(**merge)
        decisions = await script(whole)
        last = shards - 1
        expected = await of_one_life(whole, last)
        for cut in range(2, len(decisions), 3):
            s = new_script(**merge)
            await script(s)
            rest = await cut_off(s, cut)
            await run_until(s, version_after(decisions[:cut]), last)
            await s.bus.append(DECISIONS, 0, rest)
            assert expected == await of_one_life(s, last), f"cut at {cut}"

    asyncio.run(go())


def test_a_run_that_ends_with_a_plan_open_tells_nothing_twice(new_script: NewScript) -> None:
    """The last version's checkpoint comes after a plan that was dispatched from it."""

    async def script(s: Script) -> Script:
        await s.start()
        for _ in range(3):
            await turn(s)
        await s.plan("c", [9])
        await s.end()
        return s

    async def go() -> None:
        expected = await of_one_life(await script(new_script(checkpoint_every=2)))
        for crash_at in range(1, 100):
            s = await script(new_script(checkpoint_every=2))
            try:
                await run_on(MortalBus(s.bus, crash_at))
            except CrashError:
                await run_on(s.bus)
            else:
                break
            assert expected == await messages_of(s), f"crash at append {crash_at}"
        assert 10 < crash_at < 100

    asyncio.run(go())


def test_a_whole_version_names_the_plans_that_are_open(new_script: NewScript) -> None:
    async def go() -> dict[int, m.VersionPublished]:
        s = new_script(checkpoint_every=2)
        await s.start()
        await s.plan("a", [6, 7])
        await turn(s)
        await s.plan("c", [9])
        await turn(s)
        await s.end()
        await s.aggregate()
        return await s.versions()

    found = asyncio.run(go())

    assert [(), (), (2, 6)] == [found[v].open_plans for v in range(3)]


def test_a_plan_that_a_checkpoint_rests_on_and_is_not_there_is_an_error(
    new_script: NewScript,
) -> None:
    async def go() -> None:
        s = new_script(checkpoint_every=1)
        await s.start()
        await s.plan("a", [6, 7])
        await turn(s)
        await run_until(s, 1)
        log = s.bus._log(DECISIONS, 0)
        log[2] = log[0]
        await s.end()
        with pytest.raises(MessageError, match=r"offset 2 .* is not in the log"):
            await run_on(s.bus)

    asyncio.run(go())


def test_what_was_told_leaves_the_memory_when_it_is_obeyed_again(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(checkpoint_every=100)
        await s.start()
        for _ in range(5):
            plan = await s.plan("a", [3])
            await s.admit(plan)
            await s.close()
        await run_until(s, 5)
        ledger = await read_published(s.bus, "t", RUN, 0)
        assert (5, 6) == (len(ledger.dispatched), len(ledger.versions))
        core = AggregatorCore(0, "t-updates", ledger=ledger)
        for offset, record in enumerate(list(s.bus._log(DECISIONS, 0))):
            decision = decode(record)
            assert isinstance(decision, m.Decision)
            for effect in core.feed(offset, decision):
                if isinstance(effect, Load):
                    await load_checkpoint(s.bus, effect)
                if isinstance(effect, Merge):
                    await merge_update(s.bus, effect)

        assert ({}, {}) == (ledger.dispatched, ledger.versions)

    asyncio.run(go())


def test_rubbish_at_the_end_of_models_hides_nothing(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script(checkpoint_every=2)
        await s.start()
        for _ in range(3):
            await turn(s)
        await run_until(s, 3)
        await s.bus.append(MODELS, 0, [NewRecord(b"junk")])

        assert [2, 3] == sorted((await read_published(s.bus, "t", RUN, 0)).versions)

    asyncio.run(go())
