"""Runs that an earlier program recorded: this one replays them and resumes them anywhere."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from golden_logs.record import GOLDEN, Golden

from cos2p.clock import SystemClock
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.bus import Bus, NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.fence import EpochFence
from cos2p.log.mailbox import Mailbox
from cos2p.log.messages import Message
from cos2p.log.snapshots import FOLDS, snapshots_of
from cos2p.log.state_codec import pack
from cos2p.log.topics import CATALOGUE, DECISIONS, FLEET, MODELS, SNAPSHOTS, Topic, specs
from cos2p.service.role import RoleContext
from cos2p_aggregator.replay import replay
from cos2p_aggregator.shell import run_aggregator
from cos2p_planner.fold import PlannerState
from cos2p_planner.intake import Intake
from cos2p_planner.snapshot_check import OTHER, compare_snapshots
from cos2p_planner.take_over import take_over
from cos2p_sim.cluster import PREFIX
from cos2p_sim.ring import silent_log

T = TypeVar("T")
EACH = pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: g.name)


def on_the_log(golden: Golden, body: Callable[[Bus], Awaitable[T]]) -> T:
    async def play() -> T:
        bus = SqliteBus(golden.file, SystemClock())
        try:
            return await body(bus)
        finally:
            await bus.close()

    return asyncio.run(play())


async def messages(bus: Bus, topic: Topic) -> list[tuple[int, Message]]:
    mailbox = Mailbox(bus, PREFIX, topic, reader="test")
    found: list[tuple[int, Message]] = []
    end = await mailbox.end()
    while mailbox.offset < end:
        found += [(x.offset, x.message) for x in await mailbox.poll()]
    return found


async def copied(bus: Bus, ends: dict[Topic, int], *, without: tuple[Topic, ...] = ()) -> MemoryBus:
    """The log, cut off at some offsets, in memory."""
    target = MemoryBus(SystemClock())
    partitions = len(await bus.end_offsets("sim-updates"))
    await target.create_topics(specs(PREFIX, partitions))
    for topic in CATALOGUE:
        if topic in without:
            continue
        name = topic.full_name(PREFIX)
        for partition, extent in (await bus.end_offsets(name)).items():
            offset, end = extent.first, min(extent.next, ends.get(topic, extent.next))
            while offset < end:
                records = [r for r in await bus.read(name, partition, offset) if r.offset < end]
                news = [NewRecord(r.value, r.key, r.headers) for r in records]
                await target.append(name, partition, news)
                offset = records[-1].offset + 1
    return target


def digests(found: list[tuple[int, Message]]) -> dict[tuple[int, int], bytes]:
    """Of each version and shard."""
    published = (x for _, x in found if isinstance(x, m.VersionPublished))
    return {(x.version, x.shard): x.unit_digests for x in published}


@EACH
def test_a_golden_log_is_small_and_replays_to_its_own_digests(golden: Golden) -> None:
    result = on_the_log(golden, lambda bus: replay(bus, PREFIX))

    result.check()
    assert len(result.versions) == result.compared_count > 3
    assert 1_000_000 > golden.file.stat().st_size


@EACH
def test_its_snapshots_equal_the_fold_of_the_log(golden: Golden) -> None:
    async def body(bus: Bus) -> None:
        found = []
        for of in FOLDS:
            found += await snapshots_of(bus, PREFIX, of, lambda number, reason: None)

        compared = await compare_snapshots(bus, PREFIX, found)

        assert 2 <= len(compared)
        assert all(c.compared or OTHER == c.reason for c in compared), compared

    on_the_log(golden, body)


@EACH
def test_aggregators_resume_it_after_any_record_and_make_the_same_versions(golden: Golden) -> None:
    """All that was published after the cut is made again from the decisions and the updates."""

    async def body(bus: Bus) -> None:
        made = await messages(bus, MODELS)
        cuts = [offset + 1 for offset, x in made if isinstance(x, m.VersionPublished)]
        shards = next(x.config.merge.shards for _, x in made if isinstance(x, m.RunOpened))
        for cut in cuts:
            log = await copied(bus, {MODELS: cut})
            for shard in range(shards):
                context = RoleContext(log, SystemClock(), silent_log(), PREFIX)
                await run_aggregator(context, shard=shard)
            assert digests(made) == digests(await messages(log, MODELS))

    on_the_log(golden, body)


@EACH
def test_a_planner_resumes_it_at_any_version_with_and_without_its_snapshots(golden: Golden) -> None:
    async def known(log: Bus) -> bytes:
        intake = Intake(RoleContext(log, SystemClock(), silent_log(), PREFIX))
        taken = await take_over(intake, "sim", "planner")
        state = taken.core.known.state
        state.epoch = state.ledger.version  # the number of starts is not the log's
        return pack(PlannerState, state)

    async def body(bus: Bus) -> None:
        fence = EpochFence()
        decided = [
            (offset, d)
            for offset, d in await messages(bus, DECISIONS)
            if isinstance(d, m.Decision) and fence.admits(d)
        ]
        for offset, closed in decided:
            if isinstance(closed, m.RoundClosed):
                ends = {DECISIONS: offset + 1, FLEET: closed.fleet_offset}
                made = [o for o, x in await messages(bus, MODELS) if _obeys(x) <= offset + 1]
                ends[MODELS] = max(made, default=-1) + 1
                with_snapshots = await copied(bus, ends)
                without = await copied(bus, ends, without=(SNAPSHOTS,))

                assert await known(with_snapshots) == await known(without)

    on_the_log(golden, body)


def _obeys(message: Message) -> int:
    assert isinstance(message, m.AggregatorMessage)
    return message.decisions_offset


@EACH
def test_every_record_of_it_can_be_read(golden: Golden) -> None:
    async def body(bus: Bus) -> None:
        for topic in (FLEET, DECISIONS, MODELS, SNAPSHOTS):
            name = topic.full_name(PREFIX)
            for record in await bus.read(name, 0, (await bus.end_offsets(name))[0].first):
                assert type(codec.decode(record)) in topic.messages

    on_the_log(golden, body)


def test_the_golden_logs_cover_shards_kills_and_both_ways_to_close() -> None:
    def opened(golden: Golden) -> m.RunOpened:
        async def body(bus: Bus) -> m.RunOpened:
            return next(x for _, x in await messages(bus, MODELS) if isinstance(x, m.RunOpened))

        return on_the_log(golden, body)

    configs = [opened(golden).config for golden in GOLDEN]

    assert {"semi-async", "synchronous"} <= {c.rounds.closing for c in configs}
    assert max(c.merge.shards for c in configs) > 1
    assert all(Path(golden.file).exists() for golden in GOLDEN)
