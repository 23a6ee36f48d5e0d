"""The whole ring on Apache Kafka, and what brokers do in mid-run: nothing is lost or doubled."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kafka_tools import leader_of
from ring import Ring, config, table

from cos2p.log import messages as m
from cos2p.log.topics import DECISIONS

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

Opened = Callable[[str], Ring]


@pytest.fixture
def open_ring(tmp_path: Path, topic_prefix: str) -> Iterator[Opened]:
    made: list[Ring] = []

    def make(bootstrap: str) -> Ring:
        made.append(Ring(f"kafka://{bootstrap}", topic_prefix, tmp_path))
        return made[-1]

    yield make
    for ring in made:
        ring.stop_all()


async def check_the_end(ring: Ring, versions: int) -> None:
    ended = await ring.wait_for_end(180)

    assert ended.reason == "target", ended.detail
    assert ended.version == versions
    await ring.check_history()
    await ring.check_replay()
    await ring.bus.close()


def closed(message: object) -> bool:
    return isinstance(message, m.RoundClosed)


def test_a_run_on_kafka_replays_to_the_same_bytes(kafka_bootstrap: str, open_ring: Opened) -> None:
    async def body() -> None:
        ring = open_ring(kafka_bootstrap)
        await ring.request(config(), table())
        ring.start_all(worker_count=3)
        await check_the_end(ring, versions=6)

    asyncio.run(body())


@pytest.mark.parametrize("victim", ["planner-0", "aggregator-0", "worker-1"])
def test_a_role_killed_on_kafka_comes_back(
    kafka_bootstrap: str, open_ring: Opened, victim: str
) -> None:
    async def body() -> None:
        ring = open_ring(kafka_bootstrap)
        await ring.request(config(), table())
        ring.start_all(worker_count=3)
        await ring.wait_for(DECISIONS, closed, count=2)
        ring.kill(victim)
        role, index = victim.split("-")
        ring.start(role, int(index))
        await check_the_end(ring, versions=6)

    asyncio.run(body())


@pytest.mark.slow
def test_a_broker_restart_in_mid_run_loses_and_doubles_nothing(
    kafka_cluster: Callable[..., "KafkaCluster"], open_ring: Opened
) -> None:
    async def body() -> None:
        cluster = kafka_cluster()
        ring = open_ring(cluster.bootstrap)
        await ring.request(config(versions=12), table())
        ring.start_all(worker_count=3)
        await ring.wait_for(DECISIONS, closed, count=2)
        cluster.kill(1)
        await asyncio.sleep(2)
        await asyncio.to_thread(cluster.start, 1)
        await check_the_end(ring, versions=12)

    asyncio.run(body())


@pytest.mark.slow
def test_a_leader_killed_of_three_brokers_loses_and_doubles_nothing(
    kafka_cluster: Callable[..., "KafkaCluster"], open_ring: Opened
) -> None:
    async def body() -> None:
        cluster = kafka_cluster(brokers=3)
        ring = open_ring(cluster.bootstrap)
        await ring.request(config(versions=12), table())
        ring.start_all(worker_count=3)
        await ring.wait_for(DECISIONS, closed, count=2)
        cluster.kill(await leader_of(cluster.bootstrap, f"{ring.prefix}-decisions"))
        await check_the_end(ring, versions=12)

    asyncio.run(body())
