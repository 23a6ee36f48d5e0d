from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from cos2p.clock import LoopClock
from cos2p.errors import ChunkMissingError, DigestError, DivergedError
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.codec import encode
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.service.logs import configure_logs
from cos2p.service.role import RoleContext
from cos2p_aggregator.replay import replay
from cos2p_aggregator.shell import run_aggregator

if TYPE_CHECKING:
    from unit.aggregator.conftest import NewScript, Script

PREFIX = "t"


class CrashError(Exception):
    """The process dies here."""


class CrashingBus:
    """A bus whose `crash_at`-th append kills its user, before or after it is written."""

    def __init__(self, bus: MemoryBus, crash_at: int, *, written: bool) -> None:
        self._bus, self._crash_at, self._written = bus, crash_at, written
        self.append_count = 0

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        await self._bus.create_topics(specs)

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        self.append_count += 1
        crash = self.append_count == self._crash_at
        if crash and not self._written:
            raise CrashError
        offsets = await self._bus.append(topic, partition, records)
        if crash:
            raise CrashError
        return offsets

    async def read(self, topic: str, partition: int, offset: int, **how: Any) -> list[Record]:
        return await self._bus.read(topic, partition, offset, **how)

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        return await self._bus.end_offsets(topic)

    async def close(self) -> None:
        await self._bus.close()


async def run_on(bus: Any, *, shard: int = 0, stop: asyncio.Event | None = None) -> None:
    log = configure_logs("error", "json")
    await run_aggregator(
        RoleContext(bus, LoopClock(), log, PREFIX, stop or asyncio.Event()), shard=shard
    )


def without_places(message: m.Message) -> m.Message:
    """The message without where its blob lies."""
    if isinstance(message, m.Dispatched):
        return message.model_copy(update={"blobs": ()})
    if isinstance(message, m.VersionPublished):
        return message.model_copy(update={"checkpoint": message.checkpoint is not None})
    return message


async def outcome(s: Script) -> tuple[list[m.Message], list[bytes], list[bytes]]:
    """What a run told, and the bytes of each blob that it told of."""
    published = [without_places(t) for t in await s.published_messages()]
    return published, await s.payloads(m.Dispatched), await s.payloads(m.VersionPublished)


async def until_published(s: Script, version: int) -> None:
    """Wait for a version."""
    offset = 0
    while version not in await s.versions():
        offset += len(await s.bus.read("t-models", 0, offset, wait_s=5))


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("average_decay", [0.0, 0.5])
def test_a_crash_at_any_append_changes_nothing(
    new_script: NewScript, written: bool, average_decay: float
) -> None:
    async def go() -> None:
        s = new_script(checkpoint_every=4, average_decay=average_decay)
        await s.usual()
        whole = CrashingBus(s.bus, 0, written=False)
        await run_on(whole)
        expected = await outcome(s)
        assert 30 < whole.append_count
        for crash_at in range(1, whole.append_count + 1):
            s = new_script(checkpoint_every=4, average_decay=average_decay)
            await s.usual()
            with pytest.raises(CrashError):
                await run_on(CrashingBus(s.bus, crash_at, written=written))
            await s.aggregate()
            assert expected == await outcome(s), f"crash at append {crash_at}"

    asyncio.run(go())


def test_a_process_that_crashes_at_every_third_append_ends_at_the_same_bytes(
    new_script: NewScript,
) -> None:
    async def go() -> None:
        s, other = new_script(), new_script()
        await s.usual()
        await s.aggregate()
        await other.usual()
        crashes = 0
        while crashes < 1000:
            try:
                await run_on(CrashingBus(other.bus, 3, written=True))
                break
            except CrashError:
                crashes += 1

        assert 5 < crashes < 1000
        assert await outcome(s) == await outcome(other)

    asyncio.run(go())


def test_it_follows_a_run_live_and_a_restart_catches_up(new_script: NewScript) -> None:
    """A stop in mid-run, then more decisions, then a new process."""

    async def go() -> None:
        s, whole = new_script(), new_script()
        await whole.usual()
        await whole.aggregate()
        stop = asyncio.Event()
        first = asyncio.create_task(run_on(s.bus, stop=stop))
        await s.usual()
        await until_published(s, 0)
        stop.set()
        await first
        await s.aggregate()

        assert await outcome(whole) == await outcome(s)

    asyncio.run(go())


class StoppingBus(CrashingBus):
    """Asks for a stop when the first chunk of a checkpoint is written."""

    def __init__(self, bus: MemoryBus, stop: asyncio.Event) -> None:
        super().__init__(bus, 0, written=False)
        self._stop = stop

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        if topic == "t-checkpoints":
            self._stop.set()
        return await super().append(topic, partition, records)


def test_a_stop_does_not_wait_for_a_whole_checkpoint(new_script: NewScript) -> None:
    """Units of two megabytes, so that one append is not all of the blob."""

    async def go() -> None:
        units = (Unit(f"core{i}", "core", STEM, 500_000, 1, 1) for i in range(8))
        s, stop = new_script(checkpoint_every=1), asyncio.Event()
        s.table = UnitTable(tuple(units))
        await s.start(chunk_bytes=900_000)
        await s.close()
        await s.end()
        before = (await s.bus.end_offsets("t-checkpoints"))[0].next
        await run_on(StoppingBus(s.bus, stop), stop=stop)

        assert 4 == (await s.bus.end_offsets("t-checkpoints"))[0].next - before
        assert [0] == list(await s.versions())
        await s.aggregate()
        assert 1 == max(await s.versions())

    asyncio.run(go())


def test_a_stop_while_nothing_is_there_ends_it(new_script: NewScript) -> None:
    async def go() -> None:
        s, stop = new_script(), asyncio.Event()
        waiting = asyncio.create_task(run_on(s.bus, stop=stop))
        await asyncio.sleep(0.01)
        stop.set()
        async with asyncio.timeout(2):
            await waiting

    asyncio.run(go())


class FastClock:
    """A clock on which a sleep takes no time, and each look at it four seconds."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        self._now += 4.0
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds
        await asyncio.sleep(0)


def test_it_says_that_it_waits_for_a_run(new_script: NewScript) -> None:
    async def go() -> list[str]:
        s, stop = new_script(), asyncio.Event()
        configure_logs("info", "json")
        with structlog.testing.capture_logs() as logs:
            log = structlog.get_logger()
            waiting = asyncio.create_task(
                run_aggregator(RoleContext(s.bus, FastClock(), log, PREFIX, stop), shard=0)
            )
            async with asyncio.timeout(20):
                while not logs:  # noqa: ASYNC110 - a list of log lines has no event
                    await asyncio.sleep(0.01)
            stop.set()
            await waiting
        return [entry["event"] for entry in logs]

    assert "waited_for_run" == asyncio.run(go())[0]


def test_a_published_version_that_comes_out_otherwise_is_named(new_script: NewScript) -> None:
    """The update changes between a run and its restart: no second truth is told."""

    async def go() -> None:
        s = new_script(checkpoint_every=100)
        await s.start()
        plan = await s.plan("a")
        ref = await s.upload(plan)
        await s.admit(plan, ref)
        await s.close()
        stop = asyncio.Event()
        first = asyncio.create_task(run_on(s.bus, stop=stop))
        await until_published(s, 1)
        stop.set()
        await first
        value = bytearray(s.bus._log(ref.topic, ref.partition)[ref.last_offset].value)
        value[-1] ^= 1
        await s.replace(ref.topic, ref.partition, ref.last_offset, bytes(value))

        with pytest.raises(DivergedError, match=r"version 1, .* in unit block2\.head\.1"):
            async with asyncio.timeout(20):
                await run_on(s.bus)

    asyncio.run(go())


def test_a_damaged_checkpoint_is_an_error(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script()
        await s.start()
        last = s.bus._log("t-checkpoints", 0)[-1]
        value = bytearray(last.value)
        value[-1] ^= 1
        await s.replace("t-checkpoints", 0, last.offset, bytes(value))

        with pytest.raises(DigestError, match=r"v0 is damaged in unit block2\.head\.1"):
            await s.aggregate()

    asyncio.run(go())


def test_a_checkpoint_that_has_left_the_log_is_an_error(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script()
        await s.start()
        s.bus.expire("t-checkpoints", 0, 1)

        with pytest.raises(ChunkMissingError, match="'v0'"):
            await s.aggregate()

    asyncio.run(go())


def test_records_of_others_and_rubbish_stop_nothing(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script()
        await s.start()
        await s.bus.append("t-decisions", 0, [NewRecord(b"rubbish")])
        foreign = m.EpochStarted(run_id="other", epoch=9, fleet_offset=0, at_s=0.0, planner_id="x")
        await s.bus.append("t-decisions", 0, [encode(foreign)])
        await s.admit(await s.plan("a"))
        await s.close()
        await s.end()
        await s.aggregate()

        assert 1 == max(await s.versions())
        assert 1 == (await s.bus.end_offsets("t-dead-letters"))[0].next
        assert None is (await replay(s.bus, PREFIX)).difference

    asyncio.run(go())


def test_half_a_blob_of_an_earlier_life_is_no_trouble(new_script: NewScript) -> None:
    async def go() -> None:
        s = new_script()
        for name in ("p000000.s0", "v2.s0"):
            await s.bus.create_topics([TopicSpec("t-checkpoints", 2, 10_000)])
            await s.orphan("t-checkpoints", 0, name)
        await s.usual()
        await s.aggregate()

        assert 4 == len(await s.payloads(m.VersionPublished))

    asyncio.run(go())
