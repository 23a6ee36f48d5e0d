"""Mailboxes: each letter once, in order; what can't be read is kept, counted, stops nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from cos2p.clock import SystemClock
from cos2p.log import codec
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import DEAD_LETTERS_MAX, WRITERS_MAX, Letter, Mailbox, Outbox, Refusal
from cos2p.log.messages import DeadLetter, EpochStarted, Goodbye, Message, StopRequested
from cos2p.log.topics import DEAD_LETTERS, DECISIONS, FLEET, specs

PREFIX = "test"
NAME = FLEET.full_name(PREFIX)


def run(story: Callable[[MemoryBus], Awaitable[None]]) -> None:
    async def whole() -> None:
        bus = MemoryBus(SystemClock())
        await bus.create_topics(specs(PREFIX, 2))
        await story(bus)

    asyncio.run(whole())


def goodbye(number: int, run_id: str = "r1") -> Goodbye:
    return Goodbye(run_id=run_id, worker_id="w", incarnation=number)


def inbox(bus: MemoryBus, run_id: str | None = "r1", offset: int = 0) -> Mailbox:
    return Mailbox(bus, PREFIX, FLEET, reader="planner", run_id=run_id, offset=offset)


def messages(letters: list[Letter]) -> list[Message]:
    return [letter.message for letter in letters]


async def dead_letters(bus: MemoryBus) -> list[DeadLetter]:
    records = await bus.read(DEAD_LETTERS.full_name(PREFIX), 0, 0)
    found = [codec.decode(r) for r in records]
    assert all(isinstance(m, DeadLetter) for m in found)
    return [m for m in found if isinstance(m, DeadLetter)]


def newer(message: Message) -> NewRecord:
    record = codec.encode(message)
    return replace(record, headers={**record.headers, codec.VERSION_HEADER: b"2"})


UNREADABLE = {
    "no headers": NewRecord(b"\x80"),
    "a newer version": newer(goodbye(0)),
    "an unknown message": replace(
        codec.encode(goodbye(0)),
        headers={codec.NAME_HEADER: b"Farewell", codec.VERSION_HEADER: b"1"},
    ),
    "a body that is no msgpack": replace(codec.encode(goodbye(0)), value=b"\xc1"),
    "an empty body": replace(codec.encode(goodbye(0)), value=b""),
    "a field out of range": replace(
        codec.encode(goodbye(0)), value=codec.encode(StopRequested(run_id="r1")).value
    ),
}


def test_letters_come_once_in_order_with_their_offsets() -> None:
    async def story(bus: MemoryBus) -> None:
        outbox, box = Outbox(bus, PREFIX, FLEET), inbox(bus)
        assert [0, 1] == await outbox.send(goodbye(1), goodbye(2))
        first = await box.poll()
        assert [2] == await outbox.send(goodbye(3))

        letters = [*first, *await box.poll(), *await box.poll()]
        assert [goodbye(1), goodbye(2), goodbye(3)] == messages(letters)
        assert [0, 1, 2] == [letter.offset for letter in letters]
        assert 3 == box.offset

    run(story)


def test_a_mailbox_goes_on_from_an_offset() -> None:
    async def story(bus: MemoryBus) -> None:
        await Outbox(bus, PREFIX, FLEET).send(*(goodbye(i) for i in range(5)))

        assert [goodbye(3), goodbye(4)] == messages(await inbox(bus, offset=3).poll())

    run(story)


def test_a_poll_waits_for_the_next_letter() -> None:
    async def story(bus: MemoryBus) -> None:
        waiting = asyncio.create_task(inbox(bus).poll(wait_s=10))
        await asyncio.sleep(0.01)
        await Outbox(bus, PREFIX, FLEET).send(goodbye(1))

        assert [goodbye(1)] == messages(await waiting)

    run(story)


async def streamed(box: Mailbox) -> list[Message]:
    return [letter.message async for letter in box.stream()]


def test_a_stream_reads_to_the_end_as_it_was() -> None:
    async def story(bus: MemoryBus) -> None:
        outbox, box = Outbox(bus, PREFIX, FLEET), inbox(bus)
        assert [] == await streamed(box)
        await outbox.send(*(goodbye(i) for i in range(50)))

        assert [goodbye(i) for i in range(50)] == await streamed(box)
        assert [] == await streamed(box)

    run(story)


def test_a_poll_takes_no_more_than_it_may_hold() -> None:
    async def story(bus: MemoryBus) -> None:
        box = inbox(bus)
        size = len(codec.encode(goodbye(1)).value)
        await Outbox(bus, PREFIX, FLEET).send(*(goodbye(1) for _ in range(10)))

        assert 3 == len(await box.poll(bytes_max=3 * size))
        assert 1 == len(await box.poll(bytes_max=1))
        assert 6 == len(await box.poll())

    run(story)


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_unreadable_record_is_buried_and_stops_nothing(case: str) -> None:
    async def story(bus: MemoryBus) -> None:
        box = inbox(bus)
        good = codec.encode(goodbye(1))
        await bus.append(NAME, 0, [good, UNREADABLE[case], good])

        letters = await box.poll()
        assert [0, 2] == [letter.offset for letter in letters]
        assert (1, 0) == (box.unreadable_count, box.foreign_count)
        (dead,) = await dead_letters(bus)
        assert ("r1", NAME, 0, 1, "planner") == (
            dead.run_id,
            dead.topic,
            dead.partition,
            dead.offset,
            dead.reader,
        )
        assert UNREADABLE[case].value == dead.value_head
        assert dead.reason

    run(story)


def test_a_dead_letter_names_the_version_that_is_too_new() -> None:
    async def story(bus: MemoryBus) -> None:
        await bus.append(NAME, 0, [UNREADABLE["a newer version"]])
        await inbox(bus).poll()

        assert "Goodbye version 2 is newer" in (await dead_letters(bus))[0].reason

    run(story)


def test_a_dead_letter_keeps_the_head_of_a_long_record() -> None:
    async def story(bus: MemoryBus) -> None:
        await bus.append(NAME, 0, [NewRecord(b"\xc1" * 100_000)])
        await inbox(bus, run_id=None).poll()

        (dead,) = await dead_letters(bus)
        assert ("unknown", b"\xc1" * 4096) == (dead.run_id, dead.value_head)

    run(story)


def test_a_stream_gets_past_a_tail_of_unreadable_records() -> None:
    async def story(bus: MemoryBus) -> None:
        box = inbox(bus)
        await bus.append(NAME, 0, [codec.encode(goodbye(1)), *UNREADABLE.values()])

        assert [goodbye(1)] == await streamed(box)
        assert len(UNREADABLE) == box.unreadable_count

    run(story)


def unreadable(writer: bytes, number: int = 0) -> NewRecord:
    return NewRecord(b"\xc1 %d" % number, key=writer)


def test_of_one_writer_only_the_first_refused_records_are_buried() -> None:
    count = 25

    async def story(bus: MemoryBus) -> None:
        box = inbox(bus)
        await bus.append(NAME, 0, [unreadable(b"w1", i) for i in range(count)])
        await bus.append(NAME, 0, [unreadable(b"w2")])
        await streamed(box)

        buried = [dead.offset for dead in await dead_letters(bus)]
        assert [*range(DEAD_LETTERS_MAX), count] == buried
        assert count + 1 == box.unreadable_count

    run(story)


def test_writers_beyond_what_is_counted_share_one_grave() -> None:
    async def story(bus: MemoryBus) -> None:
        invented = [unreadable(b"w%d" % i) for i in range(WRITERS_MAX + 500)]
        await bus.append(NAME, 0, invented)
        await streamed(inbox(bus))

        end = (await bus.end_offsets(DEAD_LETTERS.full_name(PREFIX)))[0].next
        assert WRITERS_MAX + DEAD_LETTERS_MAX == end

    run(story)


def test_a_refused_record_that_an_earlier_reader_buried_is_told_and_not_buried() -> None:
    async def story(bus: MemoryBus) -> None:
        told: list[Refusal] = []
        await bus.append(NAME, 0, [unreadable(b"w"), unreadable(b"w"), unreadable(b"w")])
        box = Mailbox(
            bus,
            PREFIX,
            FLEET,
            reader="planner",
            run_id="r1",
            dead_letters_from=2,
            refused=told.append,
        )
        await box.poll()

        assert [2] == [dead.offset for dead in await dead_letters(bus)]
        assert [(0, 1), (1, 2), (2, 3)] == [(each.offset, each.number) for each in told]

    run(story)


def test_records_of_another_run_are_counted_and_passed_over() -> None:
    async def story(bus: MemoryBus) -> None:
        box = inbox(bus)
        await Outbox(bus, PREFIX, FLEET).send(goodbye(1, "r2"), goodbye(2), goodbye(3, "r2"))

        assert [goodbye(2)] == messages(await box.poll())
        assert (0, 2) == (box.unreadable_count, box.foreign_count)
        assert [] == await dead_letters(bus)

    run(story)


def test_messages_of_another_topic_are_counted_and_passed_over() -> None:
    async def story(bus: MemoryBus) -> None:
        box = inbox(bus)
        astray = EpochStarted(run_id="r1", epoch=1, fleet_offset=0, at_s=0.0, planner_id="p")
        await bus.append(NAME, 0, [codec.encode(astray), codec.encode(goodbye(1))])

        assert [goodbye(1)] == messages(await box.poll())
        assert 1 == box.foreign_count

    run(story)


def test_a_mailbox_without_a_run_takes_that_of_the_first_letter() -> None:
    async def story(bus: MemoryBus) -> None:
        box = inbox(bus, run_id=None)
        await bus.append(NAME, 0, [UNREADABLE["no headers"]])
        await Outbox(bus, PREFIX, FLEET).send(goodbye(1, "r7"), goodbye(2, "r8"))

        assert [goodbye(1, "r7")] == messages(await box.poll())
        assert ("r7", 1) == (box.run_id, box.foreign_count)

    run(story)


def test_an_outbox_refuses_what_its_topic_does_not_hold() -> None:
    async def story(bus: MemoryBus) -> None:
        with pytest.raises(TypeError, match="Goodbye has no place in decisions"):
            await Outbox(bus, PREFIX, DECISIONS).send(goodbye(1))

        assert [] == await Outbox(bus, PREFIX, FLEET).send()

    run(story)
