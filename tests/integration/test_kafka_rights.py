"""A run on a secured Apache Kafka with exactly the rights that `cos2p topics acls` prints."""

import asyncio
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ring import Ring, config, table

from cos2p.log.bus import NewRecord
from cos2p.log.buses.kafka import KafkaBus
from cos2p.log.rights import ROLES, rights
from cos2p.log.topics import CATALOGUE, Role, specs
from cos2p.settings import BusSettings
from cos2p_cli.acls import TOOL, commands, users_of

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.processes, pytest.mark.slow]

PREFIX = "site"
BLOBS = 2


@pytest.fixture(scope="module")
def cluster(kafka_secure: "KafkaCluster") -> "KafkaCluster":
    """With the rights of every role, each a user of its own name."""
    for line in commands(PREFIX, users_of([])):
        kafka_secure.acls(*shlex.split(line.removeprefix(TOOL)))
    return kafka_secure


@pytest.fixture
def ring(cluster: "KafkaCluster", tmp_path: Path) -> Iterator[Ring]:
    def access(role: str) -> dict[str, str]:
        return {
            "kafka_security": "SASL_SSL",
            "kafka_username": role,
            "kafka_password": f"{role}-secret",
            "kafka_ca_file": str(cluster.tls / "ca.pem"),
        }

    ring = Ring(f"kafka://{cluster.scram}", PREFIX, tmp_path, access=access)
    yield ring
    ring.stop_all()


def test_a_run_needs_no_right_that_is_not_printed(ring: Ring) -> None:
    async def body() -> None:
        await ring.request(config(), table())
        ring.start_all(worker_count=3)
        ended = await ring.wait_for_end(180)
        assert ended.reason == "target", ended.detail
        ring.kill("aggregator-0")
        ring.kill("planner-0")
        await ring.check_history()
        await ring.check_replay()
        await ring.bus.close()

    asyncio.run(body())


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_whatever_else_it_tries(ring: Ring, role: Role) -> None:
    async def refused(bus: KafkaBus) -> set[tuple[str, str]]:
        found = set()
        for topic in CATALOGUE:
            name = topic.full_name(PREFIX)
            for operation, trial in (
                ("Read", bus.read(name, 0, 0, wait_s=1)),
                ("Write", bus.append(name, 0, [NewRecord(b"forged")])),
            ):
                (answer,) = await asyncio.gather(trial, return_exceptions=True)
                if f"not allowed: no ACL for topic {name}" in str(answer):
                    found.add((operation, name))
        return found

    async def body() -> set[tuple[str, str]]:
        await ring.bus.create_topics(specs(PREFIX, BLOBS))
        await ring.bus.close()
        own: dict[str, Any] = dict(ring.access(role))
        settings = BusSettings(kafka_timeout_s=10, **own)
        bus = KafkaBus(ring.bus_url.removeprefix("kafka://"), settings)
        try:
            return await refused(bus)
        finally:
            await bus.close()

    granted = {(o, r.topic) for r in rights(PREFIX, [role]) for o in r.operations}
    everything = {(o, t.full_name(PREFIX)) for o in ("Read", "Write") for t in CATALOGUE}

    assert everything - granted == asyncio.run(body())
