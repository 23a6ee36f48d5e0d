"""Compacted topics on Apache Kafka: their settings, what its cleaner leaves, what it refuses."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from kafka_broker import KafkaCluster

from cos2p.clock import SystemClock
from cos2p.errors import BusError
from cos2p.log import archive
from cos2p.log.bus import Bus, NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.kafka import KafkaBus
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.topics import CATALOGUE, HEARTBEATS, specs
from cos2p.settings import BusSettings

pytestmark = pytest.mark.kafka

SEGMENT_BYTES = 4 << 20
CLEANED_S = 60.0
MB = 1_000_000


async def settings_of(bootstrap: str, topic: str) -> dict[str, str]:
    """A topic's settings, as the broker has them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    [(code, text, _, _, rows)] = answer.resources
    assert code == 0, text
    return {row[0]: row[1] for row in rows}


async def from_the_start(bus: Bus, topic: str) -> list[Record]:
    ends = (await bus.end_offsets(topic))[0]
    found: list[Record] = []
    offset = ends.first
    while offset < ends.next:
        found += await bus.read(topic, 0, offset, wait_s=10)
        offset = found[-1].offset + 1
    return found


def test_topics_are_made_with_the_settings_of_their_kind(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def story() -> dict[str, dict[str, str]]:
        bus = KafkaBus(kafka_bootstrap, BusSettings())
        await bus.create_topics(specs(topic_prefix, 1))
        await bus.close()
        return {
            t.name: await settings_of(kafka_bootstrap, t.full_name(topic_prefix)) for t in CATALOGUE
        }

    found = asyncio.run(story())
    policies = {name: settings["cleanup.policy"] for name, settings in found.items()}
    assert {"compact,delete"} == {policies.pop("heartbeats")}
    assert {"compact"} == {policies.pop("snapshots")}
    assert {"delete"} == set(policies.values())
    for name in ("heartbeats", "snapshots"):
        assert (str(SEGMENT_BYTES), "300000") == (
            found[name]["segment.bytes"],
            found[name]["segment.ms"],
        )
        assert float(found[name]["min.cleanable.dirty.ratio"]) <= 0.1
    assert ("86400000", "-1") == (
        found["heartbeats"]["retention.ms"],
        found["snapshots"]["retention.ms"],
    )
    assert "5400000" == found["submodels"]["segment.ms"], "a quarter of six hours"


@pytest.mark.slow  # it waits for Kafka's cleaner
def test_reading_a_compacted_topic_from_its_start_stays_a_few_megabytes(
    kafka_cluster: Callable[..., KafkaCluster], tmp_path: Path
) -> None:
    """A day's heartbeats in a minute: 40 MB of 16 keys, one of them silent since the start."""

    async def story() -> None:
        cluster = kafka_cluster(log_cleaner_backoff_ms="200")
        bus = KafkaBus(cluster.bootstrap, BusSettings())
        name = HEARTBEATS.full_name("site")
        await bus.create_topics(specs("site", 1))
        await bus.append(name, 0, [NewRecord(b"only", b"silent")])
        for i in range(100):
            batch = [NewRecord(bytes(25_000), b"worker-%d" % k) for k in range(16)]
            assert 1 + 16 * i == (await bus.append(name, 0, batch))[0]
        await bus.append(name, 0, [NewRecord(b"%d" % k, b"worker-%d" % k) for k in range(16)])

        found = await cleaned(bus, name)
        newest = {bytes(r.key): bytes(r.value) for r in found}
        assert {b"silent": b"only"} | {b"worker-%d" % k: b"%d" % k for k in range(16)} == newest
        offsets = [r.offset for r in found]
        assert sorted(offsets) == offsets
        assert {0: Offsets(0, 1617)} == await bus.end_offsets(name)
        assert offsets[1] > 1, "the cleaner left a gap behind the silent one"
        assert offsets[1] == (await bus.read(name, 0, 1, wait_s=10))[0].offset

        extent = await archive.extent_of(bus, "site")
        await archive.copy(bus, "site", extent, tmp_path / "run.sqlite")
        copied = SqliteBus(tmp_path / "run.sqlite", SystemClock())
        kept = await from_the_start(copied, name)
        assert [0, *range(1601, 1617)] == [r.offset for r in kept]
        assert {0: Offsets(0, 1617)} == await copied.end_offsets(name)
        await copied.close()
        await bus.close()

    asyncio.run(story())


async def cleaned(bus: Bus, topic: str) -> list[Record]:
    """What is left once the cleaner has been there: at most two segments and one of each key."""
    deadline = asyncio.get_running_loop().time() + CLEANED_S
    while True:
        found = await from_the_start(bus, topic)
        size = sum(len(r.value) for r in found)
        if size < 2 * SEGMENT_BYTES + 16 * 25_000:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"{size} bytes after {CLEANED_S} s"
        await asyncio.sleep(0.5)


def test_a_record_of_a_megabyte_fits_a_compacted_topic(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def story() -> list[int]:
        bus = KafkaBus(kafka_bootstrap, BusSettings())
        await bus.create_topics([TopicSpec(topic_prefix, 1, MB, None, compacted=True)])
        given = [(await bus.append(topic_prefix, 0, [NewRecord(bytes(MB), b"k")]))[0]]
        given += await bus.append(topic_prefix, 0, [NewRecord(bytes(MB), b"k")] * 5)
        await bus.close()
        return given

    assert list(range(6)) == asyncio.run(story())


def test_a_bus_that_did_not_make_the_topic_names_the_missing_key(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    async def story() -> list[int]:
        maker = KafkaBus(kafka_bootstrap, BusSettings())
        await maker.create_topics([TopicSpec(topic_prefix, 1, MB, None, compacted=True)])
        await maker.close()
        bus = KafkaBus(kafka_bootstrap, BusSettings())
        with pytest.raises(BusError, match=rf"{topic_prefix}, which has no key.*cleanup\.policy"):
            await bus.append(topic_prefix, 0, [NewRecord(b"no key")])
        given = await bus.append(topic_prefix, 0, [NewRecord(b"x", b"key")])
        await bus.close()
        return given

    assert [0] == asyncio.run(story())
