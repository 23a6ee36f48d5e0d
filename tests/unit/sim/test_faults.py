"""The faulty bus does what it says, and what is acknowledged is there."""

import asyncio

import numpy as np
import pytest

from cos2p.clock import LoopClock
from cos2p.errors import BusUnreachableError
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p_sim.faults import FaultCount, FaultyBus
from cos2p_sim.loop import run_virtual
from cos2p_sim.scenario import FaultPart

RECORDS = [NewRecord(b"a"), NewRecord(b"b"), NewRecord(b"c")]


def appended(faults: FaultPart, topic: str = "fleet", seed: int = 0) -> tuple[list[bytes], int]:
    """What lies in the log after one append, and how many records were acknowledged."""

    async def run() -> tuple[list[bytes], int]:
        log = MemoryBus(LoopClock())
        await log.create_topics([TopicSpec("fleet", 1, 100), TopicSpec("other", 1, 100)])
        chance = np.random.default_rng(seed)
        bus = FaultyBus(log, LoopClock(), faults, chance, FaultCount(), "fleet")
        try:
            await bus.append(topic, 0, RECORDS)
        except BusUnreachableError:
            assert [] == bus.acknowledged
        return [bytes(r.value) for r in await log.read(topic, 0, 0)], len(bus.acknowledged)

    return run_virtual(run())


def test_without_faults_all_is_written_and_acknowledged() -> None:
    assert ([b"a", b"b", b"c"], 3) == appended(FaultPart())


def test_a_lost_append_writes_nothing() -> None:
    assert ([], 0) == appended(FaultPart(loss_share=1.0))


def test_only_the_fleet_topic_loses_and_repeats() -> None:
    faults = FaultPart(loss_share=1.0, duplicate_share=1.0)

    assert ([b"a", b"b", b"c"], 3) == appended(faults, "other")


def test_a_repeated_append_writes_all_twice_and_acknowledges_the_first() -> None:
    assert ([b"a", b"b", b"c"] * 2, 3) == appended(FaultPart(duplicate_share=1.0))


def test_a_lost_ack_leaves_a_prefix_that_was_never_acknowledged() -> None:
    found = [appended(FaultPart(lost_ack_share=1.0), seed=seed) for seed in range(20)]

    assert {0} == {count for _, count in found}
    assert {1, 2, 3} == {len(values) for values, _ in found}
    assert all(values == [b"a", b"b", b"c"][: len(values)] for values, _ in found)


def test_a_delay_takes_virtual_time_before_and_after_the_write() -> None:
    async def run() -> tuple[float, float]:
        log = MemoryBus(LoopClock())
        await log.create_topics([TopicSpec("fleet", 1, 100)])
        bus = FaultyBus(
            log, LoopClock(), FaultPart(delay_s=5.0), np.random.default_rng(0), FaultCount()
        )
        began_s = LoopClock().now()
        await bus.append("fleet", 0, RECORDS)
        [first, *_] = await log.read("fleet", 0, 0)
        return first.timestamp_s - began_s, LoopClock().now() - began_s

    written_s, acknowledged_s = run_virtual(run())

    assert 0 < written_s < acknowledged_s


def test_a_dead_process_writes_nothing_more() -> None:
    async def run() -> int:
        log = MemoryBus(LoopClock())
        await log.create_topics([TopicSpec("fleet", 1, 100)])
        bus = FaultyBus(
            log, LoopClock(), FaultPart(delay_s=5.0), np.random.default_rng(0), FaultCount()
        )
        append = asyncio.create_task(bus.append("fleet", 0, RECORDS))
        await asyncio.sleep(0)
        bus.dead = True
        with pytest.raises(asyncio.CancelledError):
            await append
        return len(await log.read("fleet", 0, 0))

    assert 0 == run_virtual(run())
