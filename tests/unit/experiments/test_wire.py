import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from cos2p.clock import LoopClock
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.topics import specs
from cos2p_experiments.wire import WireBus
from cos2p_sim.loop import run_virtual


def seconds_of(topic: str, verb: str, *sizes: int) -> float:
    async def work() -> float:
        log = MemoryBus(LoopClock())
        await log.create_topics(specs("t", 1))
        wire = WireBus(log, LoopClock(), "t", bytes_per_s=100.0)
        records = [NewRecord(bytes(n)) for n in sizes]
        doing: Coroutine[Any, Any, Any] = wire.append(topic, 0, records)
        if verb == "read":
            doing.close()
            await log.append(topic, 0, records)
            doing = wire.read(topic, 0, 0)
        begun = asyncio.get_running_loop().time()
        await doing
        return asyncio.get_running_loop().time() - begun

    return run_virtual(work())


@pytest.mark.parametrize(("topic", "verb"), [("t-updates", "append"), ("t-submodels", "read")])
def test_weights_take_their_bytes_over_the_links_speed(topic: str, verb: str) -> None:
    assert pytest.approx(3.5) == seconds_of(topic, verb, 300, 50)


@pytest.mark.parametrize(("topic", "verb"), [("t-fleet", "append"), ("t-models", "read")])
def test_small_records_take_no_time(topic: str, verb: str) -> None:
    assert 0.0 == seconds_of(topic, verb, 300)


def test_an_update_is_not_there_before_its_last_byte() -> None:
    async def work() -> tuple[int, int]:
        log = MemoryBus(LoopClock())
        await log.create_topics(specs("t", 1))
        wire = WireBus(log, LoopClock(), "t", bytes_per_s=100.0)
        task = asyncio.create_task(wire.append("t-updates", 0, [NewRecord(bytes(100))]))
        await asyncio.sleep(0.99)
        early = (await log.end_offsets("t-updates"))[0].next
        await task
        return early, (await log.end_offsets("t-updates"))[0].next

    assert (0, 1) == run_virtual(work())
