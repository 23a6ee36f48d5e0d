"""Which Kafka the tests run against: a given one, a container of the official image, or Java's.

Invariant: it is Apache Kafka itself, never a stand-in; what was found is said, and why not.
"""

import gc
import os
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kafka_broker import KafkaCluster
from kafka_tools import VERSION, free_ports, missing_tools

VARIABLE = "COS2P_TEST_KAFKA"
IMAGE = f"apache/kafka:{VERSION}"
ENGINE_S = 5
PULL_S = 120
CONTAINER_S = 60.0
ADVICE = (
    f"no Apache Kafka to test against: set {VARIABLE}=HOST:PORT, or run a Docker engine that has "
    f"or can pull {IMAGE}, or install Java 17+ and Maven"
)


@dataclass(frozen=True)
class Found:
    """A running Kafka.

    Attributes:
        bootstrap: HOST:PORT.
        way: how it was come by, for people.
        state: what `stop` in another process needs to know; empty where it is not ours.
    """

    bootstrap: str
    way: str
    state: str = ""


def find(folder: Path, report: Callable[[str], None]) -> Found | None:
    """Bring one broker up, by the first way that works; None if none does."""
    if given := os.environ.get(VARIABLE):
        return Found(given, f"{VARIABLE}={given}")
    with warnings.catch_warnings():
        # Docker's SDK leaves its socket open where no engine answers.
        warnings.simplefilter("ignore", ResourceWarning)
        found = _container(report)
        gc.collect()
    if found is not None:
        return found
    if lacking := missing_tools():
        report(f"no Kafka by Java: {lacking}")
        return None
    cluster = KafkaCluster(folder).up()
    return Found(cluster.bootstrap, f"Apache Kafka {VERSION} by Java", f"folder {folder}")


def stop(found: Found) -> None:
    """Stop what `find` started."""
    kind, _, what = found.state.partition(" ")
    if kind == "folder":
        KafkaCluster(Path(what)).stop_all()
    elif kind == "container":
        import docker

        client = docker.from_env(timeout=ENGINE_S * 4)
        client.containers.get(what).remove(force=True, v=True)
        client.close()


def _container(report: Callable[[str], None]) -> Found | None:
    try:
        import docker
        from docker.errors import DockerException
        from requests.exceptions import RequestException
    except ImportError:
        report("no Kafka by Docker: its SDK is not installed")
        return None
    try:
        client = docker.from_env(timeout=ENGINE_S)
        client.ping()
    except (DockerException, RequestException):
        report("no Kafka by Docker: no engine answers")
        return None
    port = free_ports(1, 1)[0][0]
    try:
        if not client.images.list(name=IMAGE):
            docker.from_env(timeout=PULL_S).images.pull("apache/kafka", tag=VERSION)
        container = client.containers.run(
            IMAGE,
            detach=True,
            ports={"9092/tcp": ("127.0.0.1", port)},
            environment=_environment(port),
            labels={"cos2p-test": "kafka"},
        )
    except (DockerException, RequestException) as error:
        report(f"no Kafka by Docker: {' '.join(str(error).split())[:200]}")
        return None
    found = Found(f"127.0.0.1:{port}", f"container of {IMAGE}", f"container {container.id}")
    if _answers(port):
        return found
    report(f"no Kafka by Docker: the container did not listen in {CONTAINER_S:g} s")
    stop(found)
    return None


def _environment(port: int) -> dict[str, str]:
    """One broker that is its own controller, reached from this machine alone."""
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_HEAP_OPTS": "-Xmx512m",
    }


def _answers(port: int) -> bool:
    """Docker's proxy takes connections before the broker does, and drops them at once."""
    deadline = time.monotonic() + CONTAINER_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as peer:
                peer.settimeout(0.5)
                if peer.recv(1):
                    return True
        except TimeoutError:
            return True  # it listens, and waits for us to speak
        except OSError:
            pass
        time.sleep(0.3)
    return False
