"""What `cos2p.log.bus` promises, sentence by sentence, on every bus."""

import asyncio
import time

import pytest
from bus_logs import BusLog

from cos2p.errors import (
    BusError,
    OffsetExpiredError,
    RecordTooLargeError,
    TopicMismatchError,
    TopicMissingError,
)
from cos2p.log.blobs import read_blob, write_blob
from cos2p.log.bus import Bus, NewRecord, Offsets, Record, TopicSpec

PATIENCE_S = 20.0
"""Longer than any healthy bus takes."""


def values(records: list[Record]) -> list[bytes]:
    return [bytes(r.value) for r in records]


def news(*texts: str) -> list[NewRecord]:
    return [NewRecord(text.encode()) for text in texts]


def keyed(*pairs: str) -> list[NewRecord]:
    """Records from "key=value"."""
    return [
        NewRecord(v.encode(), k.encode()) for k, _, v in (pair.partition("=") for pair in pairs)
    ]


async def newest(bus: Bus, topic: str, offset: int = 0, partition: int = 0) -> dict[bytes, Record]:
    """The last record of each key, as a reader meets them from `offset` on."""
    end = (await bus.end_offsets(topic))[partition].next
    found: dict[bytes, Record] = {}
    while offset < end:
        records = await bus.read(topic, partition, offset, bytes_max=1, wait_s=PATIENCE_S)
        for record in records:
            assert record.offset >= offset
            offset = record.offset + 1
            found[bytes(record.key)] = record
    return found


async def read_all(bus: Bus, topic: str, count: int, partition: int = 0) -> list[Record]:
    """The first `count` records, in as many reads as it takes."""
    found: list[Record] = []
    while len(found) < count:
        offset = found[-1].offset + 1 if found else 0
        more = await bus.read(topic, partition, offset, wait_s=PATIENCE_S)
        assert more, f"{len(found)} of {count} records after {PATIENCE_S} s"
        found += more
    return found


# ---------------------------------------------------------------- topics


def test_creating_a_topic_twice_keeps_its_records(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a"))
            await bus.create_topics([log.spec()])

            assert [b"a"] == values(await read_all(bus, log.topic, 1))

    asyncio.run(story())


def test_only_the_missing_topics_are_made(log: BusLog) -> None:
    async def story() -> None:
        other = TopicSpec(log.topic + "-2", 1, 1000)
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a"))
            await bus.create_topics([log.spec(), other])

            assert {0: Offsets(0, 1)} == await bus.end_offsets(log.topic)
            assert {0: Offsets(0, 0)} == await bus.end_offsets(other.name)

    asyncio.run(story())


def test_another_partition_count_is_refused_by_name(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(partitions=2), log.bus() as second:
            with pytest.raises(TopicMismatchError, match=log.topic):
                await second.create_topics([log.spec(partitions=3)])

            assert {0, 1} == set(await second.end_offsets(log.topic))

    asyncio.run(story())


@pytest.mark.parametrize("verb", ["append", "read", "end_offsets"])
def test_a_missing_topic_is_named_and_not_made(log: BusLog, verb: str) -> None:
    async def use(bus: Bus) -> object:
        if verb == "append":
            return await bus.append(log.topic, 0, news("a"))
        if verb == "read":
            return await bus.read(log.topic, 0, 0)
        return await bus.end_offsets(log.topic)

    async def story() -> None:
        async with log.bus() as bus:
            await bus.create_topics([TopicSpec(log.topic + "-other", 1, 1000)])
            for _ in range(2):
                with pytest.raises(TopicMissingError, match=log.topic):
                    await use(bus)

    asyncio.run(story())


@pytest.mark.parametrize("partition", [2, -1])
def test_a_partition_that_the_topic_lacks_is_an_error(log: BusLog, partition: int) -> None:
    async def story() -> None:
        async with log.topic_bus(partitions=2) as bus:
            with pytest.raises(TopicMissingError, match=log.topic):
                await bus.append(log.topic, partition, news("a"))
            with pytest.raises(TopicMissingError, match=log.topic):
                await bus.read(log.topic, partition, 0)

    asyncio.run(story())


# ---------------------------------------------------------------- append


def test_offsets_start_at_zero_and_rise_by_one(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            given = await bus.append(log.topic, 0, news("a", "b", "c"))
            given += await bus.append(log.topic, 0, news("d"))

            assert [0, 1, 2, 3] == given
            assert [0, 1, 2, 3] == [r.offset for r in await read_all(bus, log.topic, 4)]

    asyncio.run(story())


def test_appending_nothing_gives_no_offsets(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            assert [] == await bus.append(log.topic, 0, [])
            assert {0: Offsets(0, 0)} == await bus.end_offsets(log.topic)

    asyncio.run(story())


def test_a_record_comes_back_as_it_was_appended(log: BusLog) -> None:
    async def story() -> None:
        everything = bytes(range(256)) * 4
        new = NewRecord(everything, b"\x00key\xff", {"name": b"\x00\xff", "empty": b""})
        async with log.topic_bus(partitions=2) as bus:
            before_s = log.clock.now()
            await bus.append(log.topic, 1, [new])
            (found,) = await read_all(bus, log.topic, 1, partition=1)

            assert (log.topic, 1, 0) == (found.topic, found.partition, found.offset)
            assert everything == bytes(found.value)
            assert new.key == bytes(found.key)
            assert new.headers == {k: bytes(v) for k, v in found.headers.items()}
            assert before_s - 5 < found.timestamp_s < log.clock.now() + 5

    asyncio.run(story())


def test_empty_value_key_and_headers_come_back_empty(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, [NewRecord(b"")])
            (found,) = await read_all(bus, log.topic, 1)

            assert (b"", b"", {}) == (bytes(found.value), bytes(found.key), dict(found.headers))

    asyncio.run(story())


@pytest.mark.parametrize("byte_count", [10, 300_000])
@pytest.mark.parametrize("bulk", [False, True])
def test_any_buffer_is_a_value_and_may_change_after_the_append(
    log: BusLog, byte_count: int, bulk: bool
) -> None:
    async def story() -> None:
        buffer = bytearray(b"x" * byte_count)
        async with log.topic_bus(bulk=bulk) as bus:
            await bus.append(
                log.topic, 0, [NewRecord(buffer), NewRecord(memoryview(buffer)[: byte_count // 2])]
            )
            buffer[:] = b"y" * byte_count

            found = values(await read_all(bus, log.topic, 2))
            assert [b"x" * byte_count, b"x" * (byte_count // 2)] == found

    asyncio.run(story())


def test_partitions_count_their_offsets_apart(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(partitions=3) as bus:
            await bus.append(log.topic, 2, news("c1", "c2"))
            await bus.append(log.topic, 0, news("a1"))

            assert {0: Offsets(0, 1), 1: Offsets(0, 0), 2: Offsets(0, 2)} == await bus.end_offsets(
                log.topic
            )
            assert [b"a1"] == values(await read_all(bus, log.topic, 1, 0))
            assert [b"c1", b"c2"] == values(await read_all(bus, log.topic, 2, 2))
            assert [] == await bus.read(log.topic, 1, 0)

    asyncio.run(story())


def test_a_value_at_the_limit_is_taken_and_one_byte_more_is_not(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(record_bytes_max=1000) as bus:
            await bus.append(log.topic, 0, [NewRecord(b"x" * 1000)])
            with pytest.raises(RecordTooLargeError, match=f"1001 bytes.*{log.topic}.*1000"):
                await bus.append(log.topic, 0, [NewRecord(b"x" * 1001)])

            assert {0: Offsets(0, 1)} == await bus.end_offsets(log.topic)

    asyncio.run(story())


def test_one_record_over_the_limit_keeps_the_whole_append_out(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(record_bytes_max=1000, bulk=True) as bus:
            with pytest.raises(RecordTooLargeError):
                await bus.append(log.topic, 0, [*news("a", "b"), NewRecord(b"x" * 1001)])

            assert {0: Offsets(0, 0)} == await bus.end_offsets(log.topic)

    asyncio.run(story())


def test_concurrent_appenders_get_different_offsets_and_keep_their_own_order(log: BusLog) -> None:
    async def story() -> None:
        async def write(bus: Bus, name: str) -> list[int]:
            given = []
            for i in range(0, 20, 2):
                given += await bus.append(log.topic, 0, news(f"{name}{i}", f"{name}{i + 1}"))
            return given

        async with log.topic_bus() as first, log.bus() as second, log.bus() as third:
            names = {"a": first, "b": second, "c": third, "d": first}
            given = await asyncio.gather(*(write(bus, name) for name, bus in names.items()))
            found = await read_all(second, log.topic, 80)

        assert list(range(80)) == sorted(offset for offsets in given for offset in offsets)
        assert list(range(80)) == [r.offset for r in found]
        for name, offsets in zip(names, given, strict=True):
            assert sorted(offsets) == offsets
            assert [f"{name}{i}".encode() for i in range(20)] == [
                bytes(found[offset].value) for offset in offsets
            ]

    asyncio.run(story())


# ---------------------------------------------------------------- read


def test_two_readers_see_the_same_records_in_the_same_order(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as first, log.bus() as second:
            for i in range(10):
                await (first, second)[i % 2].append(log.topic, 0, news(str(i)))

            expected = [str(i).encode() for i in range(10)]
            assert expected == values(await read_all(first, log.topic, 10))
            assert expected == values(await read_all(second, log.topic, 10))

    asyncio.run(story())


def test_what_is_acknowledged_outlives_the_bus_that_wrote_it(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a"))
        async with log.bus() as later:
            assert [b"a"] == values(await read_all(later, log.topic, 1))
            assert [1] == await later.append(log.topic, 0, news("b"))

    asyncio.run(story())


def test_reading_moves_nothing(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a", "b", "c"))
            await read_all(bus, log.topic, 3)

            for offset, expected in [(2, b"c"), (0, b"a"), (1, b"b"), (1, b"b")]:
                found = await bus.read(log.topic, 0, offset, wait_s=PATIENCE_S)
                assert (offset, expected) == (found[0].offset, bytes(found[0].value))

    asyncio.run(story())


def test_a_read_gives_one_record_at_least_however_small_the_limit(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, [NewRecord(b"x" * 5000), NewRecord(b"y" * 5000)])

            found = await bus.read(log.topic, 0, 0, bytes_max=10, wait_s=PATIENCE_S)
            assert [b"x" * 5000] == values(found)

    asyncio.run(story())


@pytest.mark.parametrize("bulk", [False, True])
def test_a_read_gives_about_the_limit_at_most(log: BusLog, bulk: bool) -> None:
    async def story() -> None:
        async with log.topic_bus(bulk=bulk) as bus:
            await bus.append(log.topic, 0, [NewRecord(bytes([i]) * 10_000) for i in range(10)])

            offset = 0
            while offset < 10:
                found = await bus.read(log.topic, 0, offset, bytes_max=35_000, wait_s=PATIENCE_S)
                assert 1 <= len(found) <= 4
                assert [bytes([offset + i]) * 10_000 for i in range(len(found))] == values(found)
                offset += len(found)

    asyncio.run(story())


def test_a_read_at_the_end_returns_nothing_at_once(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a"))
            await read_all(bus, log.topic, 1)

            started_s = time.monotonic()
            assert [] == await bus.read(log.topic, 0, 1)
            assert time.monotonic() - started_s < 2

    asyncio.run(story())


@pytest.mark.parametrize("offset", [0, 7])
def test_a_waiting_read_gives_up_after_its_time_and_not_before(log: BusLog, offset: int) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.end_offsets(log.topic)

            started_s = time.monotonic()
            assert [] == await bus.read(log.topic, 0, offset, wait_s=0.5)
            assert 0.45 < time.monotonic() - started_s < 3

    asyncio.run(story())


@pytest.mark.parametrize("writer", ["the same bus", "another bus"])
def test_a_waiting_read_wakes_when_a_record_comes(log: BusLog, writer: str) -> None:
    async def story() -> None:
        async with log.topic_bus() as reading, log.bus() as other:
            writing = reading if writer == "the same bus" else other
            await writing.append(log.topic, 0, news("a"))
            await read_all(reading, log.topic, 1)
            waiting = asyncio.create_task(reading.read(log.topic, 0, 1, wait_s=PATIENCE_S))
            await asyncio.sleep(0.3)
            assert not waiting.done()

            started_s = time.monotonic()
            await writing.append(log.topic, 0, news("b"))
            assert [b"b"] == values(await waiting)
            assert time.monotonic() - started_s < 1

    asyncio.run(story())


def test_a_waiting_read_sleeps_through_what_comes_elsewhere(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(partitions=2) as bus:
            waiting = asyncio.create_task(bus.read(log.topic, 0, 0, wait_s=PATIENCE_S))
            for i in range(5):
                await bus.append(log.topic, 1, news(str(i)))
                await asyncio.sleep(0.02)
            assert not waiting.done()

            await bus.append(log.topic, 0, news("mine"))
            assert [b"mine"] == values(await waiting)

    asyncio.run(story())


def test_many_readers_of_one_partition_wait_at_once(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            waiting = [
                asyncio.create_task(bus.read(log.topic, 0, offset, wait_s=PATIENCE_S))
                for offset in (0, 0, 1, 2)
            ]
            await asyncio.sleep(0.1)
            await bus.append(log.topic, 0, news("a", "b", "c"))
            found = await asyncio.gather(*waiting)

            assert [b"a", b"a", b"b", b"c"] == [bytes(records[0].value) for records in found]

    asyncio.run(story())


def test_a_cancelled_read_leaves_the_bus_usable(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            waiting = asyncio.create_task(bus.read(log.topic, 0, 0, wait_s=PATIENCE_S))
            await asyncio.sleep(0.1)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

            await bus.append(log.topic, 0, news("a"))
            assert [b"a"] == values(await read_all(bus, log.topic, 1))

    asyncio.run(story())


# ---------------------------------------------------------------- retention


def test_an_expired_offset_is_an_error_and_the_rest_stays(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a", "b", "c"))
            log.pass_retention()
            await bus.append(log.topic, 0, news("d", "e"))
            await log.expire(bus, 3)

            assert {0: Offsets(3, 5)} == await bus.end_offsets(log.topic)
            for offset in (0, 2):
                with pytest.raises(OffsetExpiredError, match=f"{log.topic}.*3"):
                    await bus.read(log.topic, 0, offset, wait_s=0.1)
            found = await bus.read(log.topic, 0, 3, wait_s=PATIENCE_S)
            assert b"d" == bytes(found[0].value)

    asyncio.run(story())


def test_offsets_are_not_reused_when_all_records_have_expired(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.append(log.topic, 0, news("a", "b"))
            log.pass_retention()
            await log.expire(bus, 2)
            assert {0: Offsets(2, 2)} == await bus.end_offsets(log.topic)
        async with log.bus() as later:
            assert [2] == await later.append(log.topic, 0, news("c"))
            with pytest.raises(OffsetExpiredError):
                await later.read(log.topic, 0, 1)

    asyncio.run(story())


# ---------------------------------------------------------------- compaction


def test_the_newest_record_of_each_key_stays(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus, log.bus() as reader:
            await bus.append(log.topic, 0, keyed("a=1", "b=1"))
            await bus.append(log.topic, 0, keyed("a=2", "c=1"))
            await bus.append(log.topic, 0, keyed("a=3", "b=2"))

            found = await newest(reader, log.topic)
            assert {b"c": (3, b"1"), b"a": (4, b"3"), b"b": (5, b"2")} == {
                key: (record.offset, bytes(record.value)) for key, record in found.items()
            }

    asyncio.run(story())


def test_a_key_twice_in_one_append_keeps_the_last(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus:
            given = await bus.append(log.topic, 0, keyed("a=1", "b=1", "a=2"))

            assert [0, 1, 2] == given
            found = await newest(bus, log.topic)
            assert (2, b"2") == (found[b"a"].offset, bytes(found[b"a"].value))
            assert (1, b"1") == (found[b"b"].offset, bytes(found[b"b"].value))

    asyncio.run(story())


def test_compaction_moves_no_end_and_reuses_no_offset(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus:
            for count in range(1, 6):
                assert [count - 1] == await bus.append(log.topic, 0, keyed("a=x"))
                assert {0: Offsets(0, count)} == await bus.end_offsets(log.topic)
        async with log.bus() as later:
            assert [5] == await later.append(log.topic, 0, keyed("b=x"))

    asyncio.run(story())


def test_a_read_within_a_gap_goes_on_behind_it(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus:
            await bus.append(log.topic, 0, keyed("a=1", "a=2", "a=3", "b=1", "a=4"))

            for offset in range(4):
                assert {b"a": 4, b"b": 3} == {
                    key: r.offset for key, r in (await newest(bus, log.topic, offset)).items()
                }
            assert [4] == [r.offset for r in await bus.read(log.topic, 0, 4, wait_s=PATIENCE_S)]
            assert [] == await bus.read(log.topic, 0, 5)

    asyncio.run(story())


def test_a_waiting_read_wakes_for_a_key_that_was_there(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus:
            await bus.append(log.topic, 0, keyed("a=1"))
            waiting = asyncio.create_task(bus.read(log.topic, 0, 1, wait_s=PATIENCE_S))
            await asyncio.sleep(0.1)
            await bus.append(log.topic, 0, keyed("a=2"))

            assert [b"2"] == values(await waiting)

    asyncio.run(story())


def test_partitions_compact_apart(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(2, compacted=True) as bus:
            await bus.append(log.topic, 0, keyed("a=here"))
            await bus.append(log.topic, 1, keyed("a=there"))

            assert [b"here"] == values(list((await newest(bus, log.topic)).values()))
            assert [b"there"] == values(list((await newest(bus, log.topic, partition=1)).values()))

    asyncio.run(story())


def test_retention_takes_the_newest_record_too(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus:
            await bus.append(log.topic, 0, keyed("a=1", "b=1", "a=2"))
            log.pass_retention()
            await log.expire(bus, 3)

            assert {0: Offsets(3, 3)} == await bus.end_offsets(log.topic)
            assert [3, 4] == await bus.append(log.topic, 0, keyed("b=2", "a=3"))
            with pytest.raises(OffsetExpiredError, match=f"{log.topic}.*3"):
                await bus.read(log.topic, 0, 1, wait_s=0.1)
            assert [b"a", b"b"] == sorted(await newest(bus, log.topic, 3))

    asyncio.run(story())


def test_a_record_without_a_key_keeps_the_whole_append_out(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus(compacted=True) as bus:
            with pytest.raises(BusError, match=f"{log.topic} has no key.*compacted"):
                await bus.append(log.topic, 0, [*keyed("a=1"), NewRecord(b"2")])

            assert {0: Offsets(0, 0)} == await bus.end_offsets(log.topic)
            assert [0] == await bus.append(log.topic, 0, keyed("a=3"))

    asyncio.run(story())


# ---------------------------------------------------------------- ends, close, blobs


def test_end_offsets_follow_the_appends_of_others(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as first, log.bus() as second:
            for count in (1, 2, 3):
                await first.append(log.topic, 0, news("a"))
                assert {0: Offsets(0, count)} == await second.end_offsets(log.topic)

    asyncio.run(story())


def test_closing_twice_or_before_use_is_fine(log: BusLog) -> None:
    async def story() -> None:
        async with log.topic_bus() as bus:
            await bus.close()
            await bus.close()
        unused = log.open()
        await unused.close()

    asyncio.run(story())


def test_a_blob_of_three_megabytes_comes_back_whole(log: BusLog) -> None:
    async def story() -> None:
        data = bytes(range(251)) * 12_000
        async with log.topic_bus(bulk=True) as writer, log.bus() as reader:
            await writer.append(log.topic, 0, news("before"))
            ref = await write_blob(writer, log.topic, 0, "blob", [data[:10], data[10:]])
            await writer.append(log.topic, 0, news("after"))

            assert (1, 4, 4, len(data)) == (
                ref.first_offset,
                ref.last_offset,
                ref.chunk_count,
                ref.byte_count,
            )
            assert data == b"".join([bytes(chunk) async for chunk in read_blob(reader, ref)])

    asyncio.run(story())


def test_blobs_written_at_once_into_one_partition_do_not_mix(log: BusLog) -> None:
    async def story() -> None:
        blobs = {f"blob{i}": bytes([i]) * 2_000_000 for i in range(3)}
        async with log.topic_bus(bulk=True) as bus, log.bus() as reader:
            refs = await asyncio.gather(
                *(
                    write_blob(bus, log.topic, 0, name, [data], chunk_bytes=200_000)
                    for name, data in blobs.items()
                )
            )
            for ref in refs:
                found = b"".join([bytes(chunk) async for chunk in read_blob(reader, ref)])
                assert blobs[ref.blob_id] == found

    asyncio.run(story())
