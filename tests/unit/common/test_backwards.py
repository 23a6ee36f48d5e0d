"""A topic read from its end: newest first, each once, no more than was asked for."""

import asyncio
from collections.abc import Sequence

import pytest
from counting_bus import CountingBus

from cos2p.clock import SystemClock
from cos2p.log import codec
from cos2p.log.backwards import end_of, newest_first
from cos2p.log.bus import Bus, NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Outbox
from cos2p.log.messages import Goodbye, Message, StopRequested
from cos2p.log.topics import FLEET, specs

PREFIX = "test"
NAME = FLEET.full_name(PREFIX)


def goodbye(number: int, run_id: str = "r1", reason: str = "") -> Goodbye:
    return Goodbye(run_id=run_id, worker_id="w", incarnation=number, reason=reason)


async def log_of(*messages: Message | NewRecord) -> MemoryBus:
    bus = MemoryBus(SystemClock())
    await bus.create_topics(specs(PREFIX, 1))
    records = [m if isinstance(m, NewRecord) else codec.encode(m) for m in messages]
    await bus.append(NAME, 0, records)
    return bus


async def read(
    bus: Bus, kinds: Sequence[type[Message]] = (Goodbye,), before: int | None = None
) -> list[Message]:
    letters = newest_first(bus, PREFIX, FLEET, kinds, run_id="r1", before=before)
    return [letter.message async for letter in letters]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000, 5000])
def test_every_message_comes_once_newest_first(count: int) -> None:
    async def go() -> list[Message]:
        return await read(await log_of(*(goodbye(i) for i in range(count))))

    assert [goodbye(i) for i in reversed(range(count))] == asyncio.run(go())


def test_it_goes_back_from_an_offset_and_no_further_than_retention_has_left() -> None:
    async def go() -> list[Message]:
        bus = await log_of(*(goodbye(i) for i in range(300)))
        bus.expire(NAME, 0, 100)
        return await read(bus, before=200)

    assert [goodbye(i) for i in reversed(range(100, 200))] == asyncio.run(go())


def test_other_kinds_other_runs_and_rubbish_are_passed_over() -> None:
    async def go() -> list[Message]:
        stop, junk = StopRequested(run_id="r1"), NewRecord(b"junk")
        torn = NewRecord(b"\xc1", headers=codec.encode(goodbye(0)).headers)
        return await read(await log_of(goodbye(1), stop, junk, torn, goodbye(2, "r2"), goodbye(3)))

    assert [goodbye(3), goodbye(1)] == asyncio.run(go())


def test_who_finds_it_near_the_end_has_read_the_end_only() -> None:
    async def go() -> int:
        bus = CountingBus(await log_of(*(goodbye(i) for i in range(5000))))
        async for _ in newest_first(bus, PREFIX, FLEET, (Goodbye,), run_id="r1"):
            break
        return bus.counts[NAME]

    assert 64 == asyncio.run(go())


def test_the_end_is_where_the_next_record_goes() -> None:
    async def go() -> tuple[int, list[int]]:
        bus = await log_of(goodbye(1), goodbye(2))
        return await end_of(bus, PREFIX, FLEET), await Outbox(bus, PREFIX, FLEET).send(goodbye(3))

    assert (2, [2]) == asyncio.run(go())
