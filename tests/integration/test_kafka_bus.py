"""The Kafka bus on Apache Kafka: what only a real broker can show, faults apart."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psutil
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from cos2p.errors import (
    BusUnreachableError,
    OffsetExpiredError,
    RecordTooLargeError,
    TopicMismatchError,
    TopicMissingError,
)
from cos2p.log.blobs import read_blob, write_blob
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.kafka import KafkaBus
from cos2p.settings import BusSettings

pytestmark = pytest.mark.kafka


def run(address: str, use: Callable[[KafkaBus], Awaitable[Any]], timeout_s: float = 30.0) -> Any:
    async def body() -> Any:
        bus = KafkaBus(address, BusSettings(kafka_timeout_s=timeout_s))
        try:
            return await use(bus)
        finally:
            await bus.close()

    return asyncio.run(body())


def numbered(numbers: range) -> list[NewRecord]:
    return [NewRecord(b"%d" % number) for number in numbers]


@pytest.mark.parametrize("verb", ["append", "read", "end_offsets"])
def test_a_missing_topic_is_named_with_its_remedy(
    kafka_bootstrap: str, topic_prefix: str, verb: str
) -> None:
    topic = f"{topic_prefix}-none"

    async def use(bus: KafkaBus) -> None:
        if verb == "append":
            await bus.append(topic, 0, [NewRecord(b"x")])
        elif verb == "read":
            await bus.read(topic, 0, 0)
        else:
            await bus.end_offsets(topic)

    with pytest.raises(TopicMissingError, match=f"{topic}: run `cos2p topics create`"):
        run(kafka_bootstrap, use)


def test_a_partition_that_is_not_there_is_named(kafka_bootstrap: str, topic_prefix: str) -> None:
    async def use(bus: KafkaBus) -> None:
        await bus.create_topics([TopicSpec(topic_prefix, 2, 1000)])
        await bus.append(topic_prefix, 2, [NewRecord(b"x")])

    with pytest.raises(TopicMissingError, match="has 2 partitions"):
        run(kafka_bootstrap, use)


def test_another_number_of_partitions_is_named(kafka_bootstrap: str, topic_prefix: str) -> None:
    async def use(bus: KafkaBus) -> None:
        await bus.create_topics([TopicSpec(topic_prefix, 2, 1000)])
        await bus.create_topics([TopicSpec(topic_prefix, 3, 1000)])

    with pytest.raises(TopicMismatchError, match=f"{topic_prefix} has 2 partitions, not 3"):
        run(kafka_bootstrap, use)


def test_two_processes_may_make_the_same_topics_at_once(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    specs = [TopicSpec(f"{topic_prefix}-{n}", 1, 1000) for n in range(3)]

    async def use(bus: KafkaBus) -> list[int]:
        other = KafkaBus(kafka_bootstrap, BusSettings())
        await asyncio.gather(bus.create_topics(specs), other.create_topics(specs))
        offsets = await other.append(specs[0].name, 0, [NewRecord(b"x")])
        await other.close()
        return offsets

    assert [0] == run(kafka_bootstrap, use)


def test_a_record_over_the_limit_is_refused_before_anything_is_written(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> Offsets:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        with pytest.raises(RecordTooLargeError, match=r"1001 bytes.*limit of 1000"):
            await bus.append(topic_prefix, 0, [NewRecord(b"x"), NewRecord(bytes(1001))])
        return (await bus.end_offsets(topic_prefix))[0]

    assert Offsets(0, 0) == run(kafka_bootstrap, use)


def test_a_record_over_the_brokers_limit_is_refused_and_the_next_one_taken(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> list[int]:
        maker = KafkaBus(kafka_bootstrap, BusSettings())
        await maker.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        await maker.close()
        with pytest.raises(RecordTooLargeError, match=r"max\.message\.bytes"):
            await bus.append(topic_prefix, 0, [NewRecord(bytes(100_000))])
        return await bus.append(topic_prefix, 0, [NewRecord(b"fits")])

    assert [0] == run(kafka_bootstrap, use)


def test_many_small_records_fit_a_topic_with_a_small_limit(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> list[int]:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 10)])
        return await bus.append(topic_prefix, 0, numbered(range(5000)))

    assert list(range(5000)) == run(kafka_bootstrap, use)


def test_an_expired_offset_is_named_with_what_is_left(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> list[Record]:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        await bus.append(topic_prefix, 0, numbered(range(10)))
        assert [b"0"] == [r.value for r in await bus.read(topic_prefix, 0, 0, bytes_max=1)]
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
        await admin.start()
        await admin.delete_records({TopicPartition(topic_prefix, 0): RecordsToDelete(4)})
        await admin.close()
        with pytest.raises(OffsetExpiredError, match=r"starts at 4, not at 3"):
            await bus.read(topic_prefix, 0, 3, wait_s=5)
        return await bus.read(topic_prefix, 0, 4, bytes_max=1)

    assert [b"4"] == [record.value for record in run(kafka_bootstrap, use)]


def test_the_newest_of_many_records_is_found_without_waiting(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> list[bytes | memoryview]:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        await bus.append(topic_prefix, 0, numbered(range(1000)))
        at_the_end = await bus.read(topic_prefix, 0, 1000)
        return [r.value for r in [*at_the_end, *await bus.read(topic_prefix, 0, 999)]]

    assert [b"999"] == run(kafka_bootstrap, use)


def test_readers_of_one_partition_do_not_disturb_each_other(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    payloads = [os.urandom(2_500_000) for _ in range(3)]

    async def use(bus: KafkaBus) -> list[bytes]:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1_000_000, bulk=True)])
        refs = [
            await write_blob(bus, topic_prefix, 0, f"b{n}", [payload])
            for n, payload in enumerate(payloads)
        ]

        async def whole(number: int) -> bytes:
            return b"".join([bytes(part) async for part in read_blob(bus, refs[number])])

        return await asyncio.gather(*(whole(number) for number in (0, 1, 2, 2, 1, 0)))

    assert [payloads[n] for n in (0, 1, 2, 2, 1, 0)] == run(kafka_bootstrap, use)


def test_a_read_that_waits_holds_up_no_other_read_of_its_partition(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> float:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        await bus.append(topic_prefix, 0, numbered(range(3)))
        waiting = asyncio.create_task(bus.read(topic_prefix, 0, 3, wait_s=20))
        await asyncio.sleep(0.5)
        start = time.monotonic()
        await bus.read(topic_prefix, 0, 0)
        seconds = time.monotonic() - start
        waiting.cancel()
        await asyncio.wait({waiting})
        return seconds

    assert run(kafka_bootstrap, use) < 2


def test_a_cancelled_read_leaves_the_bus_as_it_was(kafka_bootstrap: str, topic_prefix: str) -> None:
    async def use(bus: KafkaBus) -> list[Record]:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        for _ in range(5):
            waiting = asyncio.create_task(bus.read(topic_prefix, 0, 0, wait_s=20))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.wait({waiting})
        await bus.append(topic_prefix, 0, [NewRecord(b"x")])
        return await bus.read(topic_prefix, 0, 0)

    assert [b"x"] == [record.value for record in run(kafka_bootstrap, use)]


def test_a_waiting_read_sees_a_record_within_milliseconds(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def use(bus: KafkaBus) -> float:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        reader = KafkaBus(kafka_bootstrap, BusSettings())
        await bus.append(topic_prefix, 0, [NewRecord(b"warm")])
        await reader.read(topic_prefix, 0, 0)
        lags = []
        for offset in range(1, 30):
            waiting = asyncio.create_task(reader.read(topic_prefix, 0, offset, wait_s=10))
            await asyncio.sleep(0.03)
            start = time.monotonic()
            await bus.append(topic_prefix, 0, [NewRecord(b"x")])
            await waiting
            lags.append(time.monotonic() - start)
        await reader.close()
        return sorted(lags)[len(lags) // 2]

    assert run(kafka_bootstrap, use) < 0.05


def test_idle_readers_stay_few_however_many_partitions_are_read(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    port = int(kafka_bootstrap.rpartition(":")[2])

    async def use(bus: KafkaBus) -> int:
        await bus.create_topics([TopicSpec(topic_prefix, 20, 1000)])
        for partition in range(20):
            await bus.append(topic_prefix, partition, [NewRecord(b"x")])
            await bus.read(topic_prefix, partition, 0)
        return sum(
            1
            for peer in psutil.Process().net_connections("tcp")
            if peer.raddr and peer.raddr.port == port and peer.status == psutil.CONN_ESTABLISHED
        )

    assert run(kafka_bootstrap, use) <= 13


def test_a_closed_bus_leaves_no_connection(kafka_bootstrap: str, topic_prefix: str) -> None:
    port = int(kafka_bootstrap.rpartition(":")[2])

    async def use(bus: KafkaBus) -> None:
        await bus.create_topics([TopicSpec(topic_prefix, 1, 1000)])
        await bus.append(topic_prefix, 0, [NewRecord(b"x")])
        await bus.read(topic_prefix, 0, 0)

    run(kafka_bootstrap, use)

    assert not [
        peer
        for peer in psutil.Process().net_connections("tcp")
        if peer.raddr and peer.raddr.port == port and peer.status == psutil.CONN_ESTABLISHED
    ]


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("127.0.0.1:9", "connection refused"),
        ("no-such-host.invalid:9092", "does not resolve"),
        ("127.0.0.1:9,127.0.0.1:7", "connection refused"),
    ],
)
def test_a_broker_that_is_not_there_is_waited_for_and_then_named(address: str, cause: str) -> None:
    async def use(bus: KafkaBus) -> None:
        await bus.end_offsets("any")

    start = time.monotonic()
    with pytest.raises(BusUnreachableError, match=cause) as caught:
        run(address, use, timeout_s=1)

    assert address in str(caught.value)
    assert 0.5 < time.monotonic() - start < 5
