"""Fixtures that more than one folder of tests needs. Cheap to import: no client, no torch."""

import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:
    from kafka_broker import KafkaCluster


@pytest.fixture(autouse=True)
def _logs_as_new() -> None:
    """A service configures logs for its whole process: no test inherits another's."""
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def kafka_bootstrap(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[str]:
    """HOST:PORT of one Apache Kafka that all tests of the session share.

    With pytest-xdist, the first process that asks starts it and the last that leaves stops it.
    """
    import kafka_found
    from kafka_tools import file_lock

    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if parallel else base) / "kafka"
    folder.mkdir(exist_ok=True)
    shared, users, lock = folder / "found.json", folder / "users", folder / "lock"
    with file_lock(lock):
        if not shared.exists():
            found = kafka_found.find(folder / "broker", _sayer(request))
            shared.write_text(json.dumps(asdict(found) if found else None))
        row = json.loads(shared.read_text())
        users.write_text(str(_count(users) + 1))
    if row is None:
        _do_without(kafka_found.ADVICE)
    found = kafka_found.Found(**row)
    _sayer(request)(f"Kafka: {found.way} at {found.bootstrap}")
    yield found.bootstrap
    with file_lock(lock):
        users.write_text(str(_count(users) - 1))
        if _count(users) == 0:
            shared.unlink()
            kafka_found.stop(found)


@pytest.fixture
def kafka_cluster(tmp_path: Path) -> Iterator[Callable[..., "KafkaCluster"]]:
    """Make clusters of the test's own, to hurt: `kafka_cluster(brokers=1, secure=False)`."""
    with _clusters(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def kafka_secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator["KafkaCluster"]:
    """One broker with passwords, certificates and ACLs, for the tests of a file."""
    with _clusters(tmp_path_factory.mktemp("secure")) as make:
        yield make(secure=True)


@pytest.fixture(scope="module")
def kafka_of_site(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., "KafkaCluster"]]:
    """Make clusters for the tests of a file: `kafka_of_site(secure=True, host="10.243.0.1")`."""
    with _clusters(tmp_path_factory.mktemp("site")) as make:
        yield make


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test's topics have: a given Kafka outlives the session."""
    return f"test-{uuid.uuid4().hex[:12]}"


@contextmanager
def _clusters(folder: Path) -> Iterator[Callable[..., "KafkaCluster"]]:
    from kafka_broker import KafkaCluster
    from kafka_tools import missing_tools

    if lacking := missing_tools():
        _do_without(f"tests that hurt or secure a broker need Java 17+ and Maven: {lacking}")
    made: list[KafkaCluster] = []

    def make(
        brokers: int = 1, *, secure: bool = False, host: str = "127.0.0.1", **extra: str
    ) -> KafkaCluster:
        cluster = KafkaCluster(folder / f"kafka-{len(made)}", extra)
        made.append(cluster)
        return cluster.up(brokers, secure=secure, host=host)

    try:
        yield make
    finally:
        for cluster in made:
            cluster.stop_all()


def _count(users: Path) -> int:
    return int(users.read_text()) if users.exists() else 0


def _sayer(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line on standard error, past pytest's capture; xdist's processes share it."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            sys.stderr.write(f"\n{text}\n")

    return say


def _do_without(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(why, pytrace=False)
    pytest.skip(why)
