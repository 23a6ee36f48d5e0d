"""What the Kafka bus uses of aiokafka beyond its documented interface: an upgrade fails here first.

Each is a thing for which aiokafka has no setting. Where one goes, find what does its work in the
new version, mend the bus, and raise the bound in pyproject.toml.
"""

import ast
import asyncio
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import ProducerClosed
from aiokafka.protocol.metadata import MetadataRequest

from cos2p.log.buses import kafka_link
from cos2p.log.buses.kafka_access import access_from
from cos2p.settings import BusSettings

T = TypeVar("T")
PRIVATE = {
    "_client",
    "_sasl_plain_password",
    "_message_accumulator",
    "_batch_ttl",
    "_sender",
}
NOWHERE = {"bootstrap_servers": "127.0.0.1:9", "request_timeout_ms": 7000}
"""Clients are made and never started."""


def private_names(source: str) -> Iterator[str]:
    """Attributes with a leading underscore that are read or set on anything but `self`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if name.startswith("_") and not name.startswith("__"):
                yield name
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if name.startswith("_"):
                    yield name
            case _:
                pass


def test_the_bus_uses_no_other_private_attribute() -> None:
    folder = Path(kafka_link.__file__).parent
    used = {name for path in folder.glob("kafka*.py") for name in private_names(path.read_text())}

    assert used == PRIVATE


def made(kind: Callable[..., Any], look: Callable[[Any], T], **options: Any) -> T:
    """What is found at a client that is made, never started, and closed."""

    async def body() -> T:
        client = kind(**NOWHERE, **options)
        try:
            return look(client)
        finally:
            await (client.stop() if hasattr(client, "stop") else client.close())

    return asyncio.run(body())


@pytest.mark.parametrize("kind", [AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient])
def test_every_client_holds_its_connections_in_a_client_of_its_own(kind: Any) -> None:
    assert isinstance(made(kind, kafka_link.inner_client), AIOKafkaClient)


def test_a_client_reads_its_password_again_for_each_connection() -> None:
    shown = made(AIOKafkaClient, lambda c: c._sasl_plain_password, sasl_plain_password="old")

    assert "old" == shown
    for connects in (AIOKafkaClient.bootstrap, AIOKafkaClient._get_conn):
        assert "self._sasl_plain_password" in inspect.getsource(connects)


def test_a_producer_has_a_knob_that_keeps_queued_records() -> None:
    """It is the seconds after which a record that could not be sent is given up."""
    assert 7.0 == made(AIOKafkaProducer, lambda p: p._message_accumulator._batch_ttl)


def test_a_producers_queue_can_be_failed() -> None:
    made(AIOKafkaProducer, lambda p: p._message_accumulator.fail_all(ProducerClosed()))


def test_a_producer_that_never_started_has_no_sender_to_cancel() -> None:
    assert made(AIOKafkaProducer, lambda p: p._sender.sender_task) is None


def test_one_connection_can_be_made_with_a_clients_arguments_and_asked() -> None:
    settings = BusSettings(kafka_security="SASL_SSL", kafka_username="w", kafka_password="p")
    arguments = access_from("127.0.0.1:9", settings).client.keys() - {"bootstrap_servers"}

    assert arguments <= set(inspect.signature(create_conn).parameters)
    assert {"send", "close"} <= set(dir(AIOKafkaConnection))
    assert MetadataRequest([], False) is not None
