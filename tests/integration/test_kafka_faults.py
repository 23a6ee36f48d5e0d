"""The Kafka bus while brokers die and come back: nothing lost, nothing doubled."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from kafka_tools import leader_of

from cos2p.errors import BusUnreachableError, TopicMissingError
from cos2p.log.bus import NewRecord, Record, TopicSpec
from cos2p.log.buses.kafka import KafkaBus
from cos2p.settings import BusSettings

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = pytest.mark.kafka
Make = Callable[..., "KafkaCluster"]


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


async def read_all(bus: KafkaBus, topic: str) -> list[Record]:
    end = (await bus.end_offsets(topic))[0].next
    found: list[Record] = []
    while not found or found[-1].offset + 1 < end:
        found += await bus.read(topic, 0, found[-1].offset + 1 if found else 0, wait_s=5)
    return found


@pytest.mark.slow
def test_a_client_may_start_before_its_broker(kafka_cluster: Make) -> None:
    cluster = kafka_cluster()
    cluster.kill(1)

    async def use(bus: KafkaBus) -> list[int]:
        waiting = asyncio.create_task(bus.create_topics([TopicSpec("late", 1, 1000)]))
        await asyncio.sleep(1)
        await asyncio.to_thread(cluster.start, 1)
        await waiting
        return await bus.append("late", 0, [NewRecord(b"x")])

    assert [0] == run(cluster.bootstrap, use)


@pytest.mark.slow
def test_asking_for_a_topic_never_makes_it(kafka_cluster: Make) -> None:
    cluster = kafka_cluster(auto_create_topics_enable="true")

    async def use(bus: KafkaBus) -> list[str]:
        for call in (bus.read("ghost", 0, 0), bus.append("ghost", 0, [NewRecord(b"x")])):
            with pytest.raises(TopicMissingError):
                await call
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        await admin.start()
        names: list[str] = await admin.list_topics()
        await admin.close()
        return names

    assert "ghost" not in run(cluster.bootstrap, use)


@pytest.mark.slow
def test_a_broker_killed_and_started_again_loses_and_doubles_nothing(kafka_cluster: Make) -> None:
    cluster = kafka_cluster()
    count = 600

    async def use(bus: KafkaBus) -> tuple[list[int], list[bytes], list[bytes]]:
        await bus.create_topics([TopicSpec("log", 1, 1000)])
        reader = KafkaBus(cluster.bootstrap, BusSettings())
        offsets: list[int] = []
        live: list[bytes] = []

        async def follow() -> None:
            while len(live) < count:
                live.extend(
                    bytes(r.value) for r in await reader.read("log", 0, len(live), wait_s=5)
                )

        following = asyncio.create_task(follow())
        for number in range(0, count, 3):
            if number == 150:
                cluster.kill(1)
                starting = asyncio.create_task(asyncio.to_thread(cluster.start, 1))
            offsets += await bus.append("log", 0, numbered(range(number, number + 3)))
        await asyncio.gather(starting, following)
        await reader.close()
        return offsets, live, [bytes(r.value) for r in await read_all(bus, "log")]

    offsets, live, after = run(cluster.bootstrap, use)

    assert list(range(count)) == offsets
    assert [b"%d" % number for number in range(count)] == after
    assert after == live


@pytest.mark.slow
def test_an_append_that_gave_up_is_not_sent_later_and_the_bus_recovers(kafka_cluster: Make) -> None:
    cluster = kafka_cluster()

    async def use(bus: KafkaBus) -> list[bytes]:
        await bus.create_topics([TopicSpec("log", 1, 1000)])
        await bus.append("log", 0, [NewRecord(b"before")])
        cluster.kill(1)
        with pytest.raises(BusUnreachableError, match="connection refused"):
            await bus.append("log", 0, [NewRecord(b"lost")])
        with pytest.raises(BusUnreachableError, match="connection refused"):
            await bus.read("log", 0, 1)
        await asyncio.to_thread(cluster.start, 1)
        deadline = time.monotonic() + 30
        while True:
            try:
                await bus.append("log", 0, [NewRecord(b"after")])
                break
            except BusUnreachableError:
                assert time.monotonic() < deadline
        await asyncio.sleep(1)
        return [bytes(r.value) for r in await read_all(bus, "log")]

    found = run(cluster.bootstrap, use, timeout_s=3)

    assert b"before" == found[0]
    assert b"lost" not in found
    assert b"after" == found[-1]


@pytest.mark.slow
def test_the_leader_of_three_killed_under_an_appender_loses_and_doubles_nothing(
    kafka_cluster: Make,
) -> None:
    cluster = kafka_cluster(brokers=3)
    count, at_once = 2400, 4

    async def use(bus: KafkaBus) -> tuple[list[int], list[bytes]]:
        await bus.create_topics([TopicSpec("log", 1, 1000)])
        offsets: list[int] = []
        for start in range(0, count, at_once):
            if start == 1000:
                cluster.kill(await leader_of(cluster.bootstrap, "log"))
            offsets += await bus.append("log", 0, numbered(range(start, start + at_once)))
        return offsets, [bytes(r.value) for r in await read_all(bus, "log")]

    offsets, found = run(cluster.bootstrap, use)

    assert count == len(offsets)
    assert all(a < b for a, b in itertools.pairwise(offsets))
    assert [b"%d" % number for number in range(count)] == found
