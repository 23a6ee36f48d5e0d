"""A secured Apache Kafka: who may, and what those who may not are told."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cos2p.errors import BusError, SettingsError
from cos2p.log.bus import NewRecord, Record, TopicSpec
from cos2p.log.buses.kafka import KafkaBus
from cos2p.settings import BusSettings

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.xdist_group("kafka-secure")]

AT_ONCE_S = 3.0
"""A wrong setting is told within this, however long an absent broker would be waited for."""
PASSWORD = "guessed-by-mallory"
Use = Callable[[KafkaBus], Awaitable[Any]]


@pytest.fixture(scope="module")
def cluster(kafka_secure: "KafkaCluster") -> "KafkaCluster":
    """With a topic that worker may write and planner may read, and one that neither may."""

    async def prepare(bus: KafkaBus) -> None:
        await bus.create_topics([TopicSpec("open", 1, 1000), TopicSpec("closed", 1, 1000)])

    run(kafka_secure.bootstrap, {}, prepare)
    kafka_secure.allow("worker", ("Write", "Describe"), "open")
    kafka_secure.allow("planner", ("Read", "Describe"), "open")
    return kafka_secure


def run(address: str, security: dict[str, Any], use: Use) -> Any:
    async def body() -> Any:
        bus = KafkaBus(address, BusSettings(kafka_timeout_s=10, **security))
        try:
            return await use(bus)
        finally:
            await bus.close()

    return asyncio.run(body())


def error_of(address: str, security: dict[str, Any], use: Use) -> str:
    """The text of the error, which must come at once, in one line, with host and no password."""
    start = time.monotonic()
    with pytest.raises(BusError) as caught:
        run(address, security, use)
    assert time.monotonic() - start < AT_ONCE_S
    text = str(caught.value)
    assert address in text
    assert "\n" not in text
    assert PASSWORD not in text
    return text


def password(cluster: "KafkaCluster", user: str = "worker", **other: Any) -> dict[str, Any]:
    return {
        "kafka_security": "SASL_SSL",
        "kafka_username": user,
        "kafka_password": f"{user}-secret",
        "kafka_ca_file": cluster.tls / "ca.pem",
        **other,
    }


def certificate(cluster: "KafkaCluster", user: str | None = "worker") -> dict[str, Any]:
    own = {} if user is None else {"kafka_cert_file": cluster.tls / f"{user}.pem"}
    return {"kafka_security": "SSL", "kafka_ca_file": cluster.tls / "ca.pem", **own}


async def write_open(bus: KafkaBus) -> list[int]:
    return await bus.append("open", 0, [NewRecord(b"x")])


async def write_closed(bus: KafkaBus) -> list[int]:
    return await bus.append("closed", 0, [NewRecord(b"x")])


async def read_open(bus: KafkaBus) -> list[Record]:
    return await bus.read("open", 0, 0, wait_s=1)


async def read_closed(bus: KafkaBus) -> list[Record]:
    return await bus.read("closed", 0, 0)


def test_a_user_with_a_password_writes_and_another_one_reads(cluster: "KafkaCluster") -> None:
    offsets = run(cluster.scram, password(cluster), write_open)
    found = run(cluster.scram, password(cluster, "planner"), read_open)

    assert b"x" == found[0].value
    assert offsets[0] >= 0


def test_the_password_may_lie_in_a_file(cluster: "KafkaCluster", tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("worker-secret\n")
    security = password(cluster, kafka_password=None, kafka_password_file=secret)

    assert run(cluster.scram, security, write_open)


def test_a_client_certificate_is_enough_of_a_name(cluster: "KafkaCluster") -> None:
    assert run(cluster.mtls, certificate(cluster), write_open)


@pytest.mark.parametrize("user", ["worker", "mallory"])
def test_wrong_password_and_unknown_user_are_named(cluster: "KafkaCluster", user: str) -> None:
    security = password(cluster, user, kafka_password=PASSWORD)

    assert f"wrong user or password (user '{user}')" in error_of(
        cluster.scram, security, write_open
    )


def test_another_password_mechanism_is_named(cluster: "KafkaCluster") -> None:
    security = password(cluster, kafka_mechanism="SCRAM-SHA-256")

    assert "does not accept SCRAM-SHA-256" in error_of(cluster.scram, security, write_open)


def test_a_missing_password_is_named(cluster: "KafkaCluster") -> None:
    text = error_of(cluster.scram, certificate(cluster, None), write_open)

    assert "asks for a user and password" in text


def test_a_missing_client_certificate_is_named(cluster: "KafkaCluster") -> None:
    text = error_of(cluster.mtls, certificate(cluster, None), write_open)

    assert "a client certificate is required" in text


def test_an_untrusted_certificate_is_named(cluster: "KafkaCluster") -> None:
    security = password(cluster, kafka_ca_file=None)

    assert "certificate not trusted" in error_of(cluster.scram, security, read_open)


def test_plain_words_to_a_tls_port_are_named(cluster: "KafkaCluster") -> None:
    assert "the broker uses TLS, this client does not" in error_of(cluster.scram, {}, read_open)


def test_tls_to_a_plain_port_is_named(cluster: "KafkaCluster") -> None:
    text = error_of(cluster.bootstrap, password(cluster), write_open)

    assert "this client uses TLS, the broker does not" in text


def test_a_password_for_a_port_that_takes_none_is_named(cluster: "KafkaCluster") -> None:
    security = password(cluster, kafka_security="SASL_PLAINTEXT")

    assert "accepts no user and password" in error_of(cluster.bootstrap, security, write_open)


@pytest.mark.parametrize("use", [write_closed, read_closed])
def test_a_topic_without_any_acl_is_named(cluster: "KafkaCluster", use: Use) -> None:
    text = error_of(cluster.scram, password(cluster), use)

    assert "not allowed: no ACL for topic closed" in text


def test_a_topic_that_one_may_see_but_not_read_is_named(cluster: "KafkaCluster") -> None:
    text = error_of(cluster.scram, password(cluster), read_open)

    assert "not allowed: no ACL for topic open" in text


def test_a_topic_that_one_may_see_but_not_write_is_named(cluster: "KafkaCluster") -> None:
    text = error_of(cluster.scram, password(cluster, "planner"), write_open)

    assert "not allowed: no ACL for topic open" in text


def test_making_a_topic_without_leave_is_named(cluster: "KafkaCluster") -> None:
    async def make(bus: KafkaBus) -> None:
        await bus.create_topics([TopicSpec("new", 1, 1000)])

    assert "no ACL" in error_of(cluster.scram, password(cluster), make)


def test_a_bus_that_was_refused_a_topic_still_writes_another(cluster: "KafkaCluster") -> None:
    async def both(bus: KafkaBus) -> list[int]:
        with pytest.raises(BusError):
            await write_closed(bus)
        return await write_open(bus)

    assert run(cluster.scram, password(cluster), both)


@pytest.mark.parametrize(
    ("security", "named"),
    [
        ({"kafka_security": "SSL", "kafka_ca_file": "/nowhere/ca.pem"}, "KAFKA_CA_FILE"),
        ({"kafka_security": "SSL", "kafka_cert_file": "/nowhere/me.pem"}, "KAFKA_CERT_FILE"),
        ({"kafka_security": "SSL", "kafka_key_file": __file__}, "KAFKA_CERT_FILE"),
        ({"kafka_security": "SSL", "kafka_cert_file": __file__}, "KAFKA_CERT_FILE"),
        ({"kafka_security": "SSL", "kafka_ca_file": __file__}, "KAFKA_CA_FILE"),
        ({"kafka_security": "SASL_SSL"}, "KAFKA_USERNAME"),
        ({"kafka_security": "SASL_SSL", "kafka_username": "w"}, "KAFKA_PASSWORD"),
        (
            {
                "kafka_security": "SASL_SSL",
                "kafka_username": "w",
                "kafka_password_file": "/nowhere/password",
            },
            "KAFKA_PASSWORD_FILE",
        ),
    ],
)
def test_a_wrong_file_or_missing_setting_is_named_before_any_connection(
    security: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        KafkaBus("127.0.0.1:1", BusSettings(**security))


@pytest.mark.parametrize(
    "address", ["host", "host:", ":9092", "host:x", "host:0", "a:1,", "a:99999"]
)
def test_an_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        KafkaBus(address, BusSettings())


def test_a_certificate_for_another_host_name_is_named(cluster: "KafkaCluster") -> None:
    port = cluster.scram.rpartition(":")[2]

    text = error_of(f"0.0.0.0:{port}", password(cluster), write_open)

    assert "certificate not trusted" in text
    assert "'0.0.0.0'" in text
