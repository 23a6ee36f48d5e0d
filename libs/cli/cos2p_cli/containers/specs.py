"""The containers of a ring as plain descriptions. On a cluster, the chart's templates do this.

Invariants: all functions are pure. Images, commands, variables and rights equal those of the
chart's pods. Only Kafka has a port outside the private network, and only on the loopback address.
Equal descriptions have equal digests. By its digest `up` sees that a container is unchanged.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from cos2p_cli.containers.classes import Limits

Role = Literal["kafka", "init", "planner", "aggregator", "evaluator", "worker"]

NAME, ROLE, SPEC = "co-s2p.name", "co-s2p.role", "co-s2p.spec"
RUN, PORT, PARTS = "co-s2p.run", "co-s2p.port", "co-s2p.parts"
CLASS, PART, MEMORY, CPUS = "co-s2p.class", "co-s2p.part", "co-s2p.memory", "co-s2p.cpus"

KAFKA_IMAGE = "apache/kafka:4.3.1"
"""The chart's image of the broker."""
CLUSTER_ID = "Y28tczJwLWJ1bmRsZWQtMA"
"""The chart's cluster id. It must stay the same for the life of the volume."""
INSIDE, OUTSIDE = 9092, 9094
"""Kafka's ports in its container: one for the ring, one for this machine."""
MIB = 1 << 20
SERVICE_USER, KAFKA_USER = "10001:10001", "1000:1000"
SCRATCH = "/var/tmp"
"""The scratch folder, a volume on disk. A tmpfs would count as the device's memory.

Every base image has this folder, and every user may write there. The volume lives as long as its
container, through all restarts.
"""
RESTARTS_MAX = 10
GRACE_S = 10
"""How much longer the engine waits for a stop than the service's own deadline."""


@dataclass(frozen=True)
class Mount:
    """A mount. Its source is a volume's name, an absolute folder, or empty: an unnamed volume."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerSpec:
    """One container.

    Attributes:
        name: the container's name, also its host name on the network.
        site: the name of its ring.
        command: the command; None takes the image's own.
        memory_bytes: the memory limit; there is no swap in addition.
        cpus: the number of processors; None for no limit.
        user: the uid and gid.
        tmpfs: the folders in memory, with their options.
        ports: the host ports on the loopback address, by port of the container.
        stop_s: how long a stop waits before it kills.
        facts: the labels in addition to those that every container has.
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
        """The digest of the description."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def labels(self) -> dict[str, str]:
        """The labels by which the container is found again."""
        return {NAME: self.site, ROLE: self.role, SPEC: self.digest, **self.facts}


@dataclass(frozen=True)
class Site:
    """The values that all containers of one ring share.

    Attributes:
        name: the ring's name. Names of containers, network and volume begin with it.
        run_id: the run's name and the prefix of its topics.
        port: Kafka's port on 127.0.0.1.
        core_image: the image of planner and aggregator.
        worker_image: the image of the roles that need PyTorch.
        parts: the number of parts into which the training data is cut.
        data_dir: the folder of the task's data files on this machine.
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
    def volume(self) -> str:
        """The name of the volume where Kafka keeps the log."""
        return volume_of(self.name)

    @property
    def bus(self) -> str:
        """The bus address by which this machine reaches the log."""
        return f"kafka://127.0.0.1:{self.port}"


def volume_of(name: str) -> str:
    """Return the name of the volume with the log of a ring."""
    return f"{name}-kafka"


def kafka(site: Site) -> ContainerSpec:
    """Describe one broker that is its own controller, with one listener inside and one outside."""
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
    """Describe the job that writes version 0 and requests the run, once.

    The run file is passed as a variable, because the engine may not see this machine's folders.
    """
    script = (
        'printf %s "$RUN_FILE" >/tmp/run.toml && '
        'exec cos2p init --if-absent --task "$0" --run-id "$1" --config /tmp/run.toml'
    )
    command = ("sh", "-c", script, task, site.run_id)
    spec = _with_task(site, "init", command, {"RUN_FILE": run_file})
    return replace(spec, restarts_max=0)


def planner(site: Site) -> ContainerSpec:
    """Describe the planner."""
    spec = _service(site, "planner", ("cos2p-planner",), deadline_s=10)
    return replace(spec, memory_bytes=512 * MIB, facts={RUN: site.run_id})


def aggregator(site: Site, shard: int) -> ContainerSpec:
    """Describe the aggregator of one shard of the model."""
    environment = {"COS2P_SHARD": str(shard)}
    spec = _service(site, "aggregator", ("cos2p-aggregator",), environment, deadline_s=20)
    return replace(spec, name=f"{spec.name}-{shard}")


def evaluator(site: Site) -> ContainerSpec:
    """Describe the evaluator, which measures versions."""
    environment = {"COS2P_WORKER_ID": "evaluator"}
    command = ("cos2p-worker", "--evaluate")
    return _with_task(site, "evaluator", command, environment, deadline_s=10)


def worker(
    site: Site, device_class: str, ordinal: int, limits: Limits, part: int, cpus_max: float
) -> ContainerSpec:
    """Describe the worker of device `ordinal` of its class, with its part of the training data.

    `cpus_max` is the number of processors of the machine. Docker refuses more.
    """
    name = worker_name(site.name, device_class, ordinal)
    environment = {
        "COS2P_WORKER_ID": name,
        "COS2P_DEVICE_CLASS": device_class,
        "COS2P_SHARD_INDEX": str(part),
        "COS2P_SHARD_COUNT": str(site.parts),
        "COS2P_SCRATCH_DIR": f"{SCRATCH}/co-s2p",
    }
    spec = _with_task(site, "worker", ("cos2p-worker",), environment, deadline_s=20)
    return replace(
        spec,
        name=name,
        memory_bytes=limits.memory_bytes,
        cpus=min(limits.cpus, cpus_max),
        mounts=(*spec.mounts, Mount("", SCRATCH)),
        facts={
            CLASS: device_class,
            PART: str(part),
            MEMORY: str(limits.memory_bytes),
            CPUS: f"{limits.cpus:g}",
        },
    )


def worker_name(site: str, device_class: str, ordinal: int) -> str:
    """Return a worker's name, in the form that a StatefulSet gives to a pod."""
    return f"{site}-worker-{device_class}-{ordinal}"


def _service(
    site: Site,
    role: Role,
    command: tuple[str, ...],
    environment: Mapping[str, str] | None = None,
    deadline_s: int | None = None,
) -> ContainerSpec:
    """Describe a container that runs a command of ours from the core image."""
    own = {} if deadline_s is None else {"COS2P_SHUTDOWN_DEADLINE_S": str(deadline_s)}
    return ContainerSpec(
        name=f"{site.name}-{role}",
        role=role,
        site=site.name,
        image=site.core_image,
        command=command,
        environment={
            "COS2P_BUS": f"kafka://{site.name}-kafka:{INSIDE}",
            "COS2P_PREFIX": site.run_id,
            "COS2P_LOG_FORMAT": "json",
            **own,
            **(environment or {}),
        },
        memory_bytes=2048 * MIB,
        tmpfs={"/tmp": "size=64m,mode=1777,nosuid,nodev"},
        stop_s=(deadline_s or GRACE_S) + GRACE_S,
    )


def _with_task(
    site: Site,
    role: Role,
    command: tuple[str, ...],
    environment: Mapping[str, str],
    deadline_s: int | None = None,
) -> ContainerSpec:
    """Describe a container that loads the task: PyTorch's image, and the data if there is any."""
    spec = replace(_service(site, role, command, environment, deadline_s), image=site.worker_image)
    if site.data_dir is None:
        return spec
    return replace(
        spec,
        environment={**spec.environment, "COS2P_DATA_DIR": "/data"},
        mounts=(Mount(str(site.data_dir), "/data", read_only=True),),
    )
