"""The containers of a ring as plain descriptions: what the chart's templates are on a cluster.

Invariants: pure; the same images, commands, variables and rights as the chart's pods; only Kafka
has a port outside the private network, and only on the loopback address; two equal descriptions
have one digest, by which a container that is there is known to be as wanted.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from cos2p_cli.containers.classes import Limits

Role = Literal["kafka", "init", "planner", "aggregator", "evaluator", "worker"]

NAME, ROLE, SPEC = "co-s2p.name", "co-s2p.role", "co-s2p.spec"
RUN, PORT, PARTS = "co-s2p.run", "co-s2p.port", "co-s2p.parts"
CLASS, PART, MEMORY, CPUS = "co-s2p.class", "co-s2p.part", "co-s2p.memory", "co-s2p.cpus"

KAFKA_IMAGE = "apache/kafka:4.3.1"
"""The chart's."""
CLUSTER_ID = "Y28tczJwLWJ1bmRsZWQtMA"
"""The chart's: kept for the life of the volume."""
INSIDE, OUTSIDE = 9092, 9094
"""Kafka's ports in its container: for the ring, and for this machine."""
MIB = 1 << 20
SERVICE_USER, KAFKA_USER = "10001:10001", "1000:1000"
SCRATCH = "/var/tmp"
"""A volume on disk, since a tmpfs would count as the device's memory; every base image has this
folder, and anybody may write there. It lives as long as its container, through all restarts."""
RESTARTS_MAX = 10
GRACE_S = 10
"""Between a service's own deadline for a stop and the engine's patience."""


@dataclass(frozen=True)
class Mount:
    """A volume by name, a folder of the machine (absolute), or a volume of its own (empty)."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerSpec:
    """One container.

    Attributes:
        name: its name, and its host name on the network.
        role: what it is in the ring.
        site: whose it is.
        image: name and tag.
        command: None takes the image's own.
        environment: variables.
        memory_bytes: its limit; there is no swap beside it.
        cpus: processors; None for no limit.
        user: uid and gid.
        read_only: whether its root file system is.
        mounts: volumes and folders.
        tmpfs: folders in memory, with options.
        ports: host port on the loopback address, by port of the container.
        restarts_max: how often it is started again after a failure.
        stop_s: how long a stop waits before it kills.
        facts: labels beside those that every container has.
    """

    name: str
    role: Role
    site: str
    image: str
    command: tuple[str, ...] | None
    environment: Mapping[str, str]
    memory_bytes: int
    cpus: float | None = None
    user: str = SERVICE_USER
    read_only: bool = True
    mounts: tuple[Mount, ...] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, int] = field(default_factory=dict)
    restarts_max: int = RESTARTS_MAX
    stop_s: int = 20
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The same for equal descriptions."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def labels(self) -> dict[str, str]:
        """By which it is found again."""
        return {NAME: self.site, ROLE: self.role, SPEC: self.digest, **self.facts}


@dataclass(frozen=True)
class Site:
    """What all containers of one ring have in common.

    Attributes:
        name: of the ring; names of containers, network and volume begin with it.
        run_id: the run's name and the prefix of its topics.
        port: Kafka's on 127.0.0.1.
        core_image: of planner and aggregator.
        worker_image: of whatever needs PyTorch.
        kafka_image: of the broker.
        parts: into how many the training data is cut.
        data_dir: the task's data files on this machine.
    """

    name: str
    run_id: str
    port: int
    core_image: str
    worker_image: str
    kafka_image: str
    parts: int
    data_dir: Path | None = None

    @property
    def network(self) -> str:
        """The private network."""
        return self.name

    @property
    def volume(self) -> str:
        """Where Kafka keeps the log."""
        return volume_of(self.name)

    @property
    def bus(self) -> str:
        """How this machine reaches the log."""
        return f"kafka://127.0.0.1:{self.port}"


def volume_of(name: str) -> str:
    """The volume with the log of the ring of this name."""
    return f"{name}-kafka"


def kafka(site: Site) -> ContainerSpec:
    """One broker that is its own controller, with one listener inside and one for this machine."""
    host = f"{site.name}-kafka"
    return ContainerSpec(
        name=host,
        role="kafka",
        site=site.name,
        image=site.kafka_image,
        command=None,
        environment={
            "CLUSTER_ID": CLUSTER_ID,
            "KAFKA_HEAP_OPTS": "-Xms512m -Xmx512m",
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": f"PLAINTEXT://:{INSIDE},HOST://:{OUTSIDE},CONTROLLER://localhost:9093",
            "KAFKA_ADVERTISED_LISTENERS": (
                f"PLAINTEXT://{host}:{INSIDE},HOST://127.0.0.1:{site.port}"
            ),
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": (
                "PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "PLAINTEXT",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_DEFAULT_REPLICATION_FACTOR": "1",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_LOG_DIRS": "/var/lib/kafka/data/log",
        },
        memory_bytes=1536 * MIB,
        user=KAFKA_USER,
        read_only=False,  # the image writes its own configuration
        mounts=(Mount(site.volume, "/var/lib/kafka/data"),),
        ports={OUTSIDE: site.port},
        stop_s=40,
        facts={PORT: str(site.port)},
    )


def init(site: Site, task: str, run_file: str) -> ContainerSpec:
    """Writes version 0 and asks for the run, once.

    The run file travels as a variable: a folder of this machine may be none of the engine's.
    """
    script = (
        'printf %s "$RUN_FILE" >/tmp/run.toml && '
        'exec cos2p init --if-absent --task "$0" --run-id "$1" --config /tmp/run.toml'
    )
    return ContainerSpec(
        name=f"{site.name}-init",
        role="init",
        site=site.name,
        image=site.worker_image,
        command=("sh", "-c", script, task, site.run_id),
        environment={**_environment(site), **_data(site), "RUN_FILE": run_file},
        memory_bytes=2048 * MIB,
        mounts=_mounts(site),
        tmpfs=_tmpfs(),
        restarts_max=0,
    )


def planner(site: Site) -> ContainerSpec:
    """The one that decides."""
    return ContainerSpec(
        name=f"{site.name}-planner",
        role="planner",
        site=site.name,
        image=site.core_image,
        command=("cos2p-planner",),
        environment=_environment(site, deadline_s=10),
        memory_bytes=512 * MIB,
        tmpfs=_tmpfs(),
        stop_s=10 + GRACE_S,
        facts={RUN: site.run_id},
    )


def aggregator(site: Site, shard: int) -> ContainerSpec:
    """A shard of the model."""
    return ContainerSpec(
        name=f"{site.name}-aggregator-{shard}",
        role="aggregator",
        site=site.name,
        image=site.core_image,
        command=("cos2p-aggregator",),
        environment={**_environment(site, deadline_s=20), "COS2P_SHARD": str(shard)},
        memory_bytes=2048 * MIB,
        tmpfs=_tmpfs(),
        stop_s=20 + GRACE_S,
    )


def evaluator(site: Site) -> ContainerSpec:
    """The one that judges versions."""
    return ContainerSpec(
        name=f"{site.name}-evaluator",
        role="evaluator",
        site=site.name,
        image=site.worker_image,
        command=("cos2p-worker", "--evaluate"),
        environment={
            **_environment(site, deadline_s=10),
            **_data(site),
            "COS2P_WORKER_ID": "evaluator",
        },
        memory_bytes=2048 * MIB,
        mounts=_mounts(site),
        tmpfs=_tmpfs(),
        stop_s=10 + GRACE_S,
    )


def worker(
    site: Site, device_class: str, ordinal: int, limits: Limits, part: int, cpus_max: float
) -> ContainerSpec:
    """One device.

    Args:
        site: the ring.
        device_class: its class.
        ordinal: which of its class.
        limits: what it may use.
        part: which part of the training data is its own.
        cpus_max: processors of the machine: Docker refuses more.
    """
    name = worker_name(site.name, device_class, ordinal)
    return ContainerSpec(
        name=name,
        role="worker",
        site=site.name,
        image=site.worker_image,
        command=("cos2p-worker",),
        environment={
            **_environment(site, deadline_s=20),
            **_data(site),
            "COS2P_WORKER_ID": name,
            "COS2P_DEVICE_CLASS": device_class,
            "COS2P_SHARD_INDEX": str(part),
            "COS2P_SHARD_COUNT": str(site.parts),
            "COS2P_SCRATCH_DIR": f"{SCRATCH}/co-s2p",
        },
        memory_bytes=limits.memory_bytes,
        cpus=min(limits.cpus, cpus_max),
        mounts=(*_mounts(site), Mount("", SCRATCH)),
        tmpfs=_tmpfs(),
        stop_s=20 + GRACE_S,
        facts={
            CLASS: device_class,
            PART: str(part),
            MEMORY: str(limits.memory_bytes),
            CPUS: f"{limits.cpus:g}",
        },
    )


def worker_name(site: str, device_class: str, ordinal: int) -> str:
    """A worker's name, as a StatefulSet would give it to a pod."""
    return f"{site}-worker-{device_class}-{ordinal}"


def _environment(site: Site, deadline_s: int | None = None) -> dict[str, str]:
    own = {} if deadline_s is None else {"COS2P_SHUTDOWN_DEADLINE_S": str(deadline_s)}
    return {
        "COS2P_BUS": f"kafka://{site.name}-kafka:{INSIDE}",
        "COS2P_PREFIX": site.run_id,
        "COS2P_LOG_FORMAT": "json",
        **own,
    }


def _data(site: Site) -> dict[str, str]:
    return {} if site.data_dir is None else {"COS2P_DATA_DIR": "/data"}


def _mounts(site: Site) -> tuple[Mount, ...]:
    return () if site.data_dir is None else (Mount(str(site.data_dir), "/data", read_only=True),)


def _tmpfs() -> dict[str, str]:
    return {"/tmp": "size=64m,mode=1777,nosuid,nodev"}
