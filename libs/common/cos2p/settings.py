"""The settings that operators give from outside: one class per role.

They come from environment variables with the prefix COS2P_.

Invariants:
A variable that starts with COS2P_ and that no role knows is an error.
The error gives the closest known name.
Secrets never appear in a repr or an error.
"""

import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar, cast

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cos2p.errors import SettingsError
from cos2p.run_config import plain_validation

PREFIX = "COS2P_"


class BusSettings(BaseSettings):
    """Where the log is and how to reach it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    bus: str = "sqlite:runs/default"
    """kafka://HOST:PORT[,HOST:PORT...] or sqlite:PATH (a run's folder, or an archive file)."""
    prefix: str = Field("cos2p", pattern=r"^[a-z0-9][a-z0-9-]{0,100}$")
    """Prefix of the topics' names; one prefix holds one run."""
    replication: int = Field(0, ge=0, le=9)
    """Replication factor of new Kafka topics; 0 takes the broker's default."""
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_password_file: Path | None = None
    """File that holds the password, for example a mounted Secret."""
    kafka_ca_file: Path | None = None
    kafka_cert_file: Path | None = None
    kafka_key_file: Path | None = None
    kafka_timeout_s: float = Field(30.0, gt=0)
    """How long a lost connection is retried before the bus counts as unreachable."""
    signing_key_file: Path | None = None
    """Private key (PEM, Ed25519) that signs this process's records; see `cos2p keys`."""


class ServiceSettings(BusSettings):
    """The settings of every long-running role."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    """auto: text on a terminal, else JSON."""
    shutdown_deadline_s: float = Field(10.0, gt=0)
    """A stop that takes longer is forced (exit code 5)."""
    run_id: str | None = None
    """The run that this process serves. It refuses another run at its prefix. None takes any."""
    stay: bool = False
    """Wait for topics that do not exist yet, and stay idle when the run has ended. Use it where a
    supervisor restarts processes that exit."""
    health_file: Path | None = None
    """File that is touched while the event loop runs, so that an exec probe can compare its age."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port of /metrics, /healthz and /readyz; 0 takes a free port, None serves nothing."""
    metrics_host: str = "127.0.0.1"
    """Address that serves them; 0.0.0.0 for all."""


class PlannerSettings(ServiceSettings):
    """The planner's settings."""

    planner_id: str = Field("planner", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    keys_file: Path | None = None
    """Register of public keys: records of `fleet` and `heartbeats` count only if one signed them.
    The file is read again when it changes."""


class AggregatorSettings(ServiceSettings):
    """The aggregator's settings."""

    shard: int = Field(0, ge=0)
    """The shard of the model that this process owns. The run sets the number of shards."""


class WorkerSettings(ServiceSettings):
    """The settings of the worker and the evaluator."""

    worker_id: str = Field("worker-0", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    task: str | None = None
    """module:attribute of the task; None takes the task that the run names."""
    shard_index: int = Field(0, ge=0)
    """Number of this device's part of the training data, from 0."""
    shard_offset: int = Field(0, ge=0)
    """Added to `shard_index`. Where a pod's ordinal is its index, it is the number of parts before
    the pod's class."""
    shard_count: int = Field(1, ge=1)
    """Number of parts of the training data."""
    device_class: str = Field("default", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    memory_bytes: int | None = Field(None, gt=0)
    """Memory that training may use; None takes it from the cgroup, the GPU or the machine."""
    slowdown: float = Field(1.0, ge=1.0)
    """Factor by which the device seems slower, because it sleeps between steps (demo)."""
    share_labels: bool = True
    """Report to the planner how many samples of each label there are."""
    scratch_dir: Path | None = None
    """Folder where the worker keeps weights, also for its next start. None takes a folder below the
    system's temporary one, which is removed at the end. A worker that starts removes the folders
    that killed workers left there."""
    store_bytes: int | None = Field(None, gt=0)
    """Most bytes of weights kept in that folder for later plans; None takes two whole models. The
    current plan's weights are kept in any case."""
    data_dir: Path | None = None
    """Folder of the task's data, for tasks that read files."""
    threads: int | None = Field(None, ge=1)
    """Threads that compute; None takes the whole CPUs that cgroup and affinity allow."""
    evaluate: bool = False
    """Work as the evaluator: read published versions and never train."""


S = TypeVar("S", bound=BusSettings)

ALL_SETTINGS: tuple[type[BusSettings], ...] = (PlannerSettings, AggregatorSettings, WorkerSettings)
OTHER_VARIABLES = frozenset(
    {"COS2P_TEST_KAFKA", "COS2P_TEST_IMAGE_TAG", "COS2P_TEST_KAFKA_IMAGE", "COS2P_TEST_KUBERNETES"}
)
"""Variables that only the tests read."""


def known_variables() -> dict[str, str]:
    """Each COS2P_ variable and its description."""
    return {
        PREFIX + name.upper(): field.description or ""
        for kind in ALL_SETTINGS
        for name, field in kind.model_fields.items()
    }


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse misspelt variables.

    Raises:
        SettingsError: no role knows a COS2P_ variable.
    """
    known = set(known_variables()) | OTHER_VARIABLES
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), sorted(known), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"unknown environment variable {name}{hint}")


def load_settings(kind: type[S], **given: object) -> S:
    """Read a role's settings: arguments first, then the environment, then defaults.

    An argument of None leaves the field to the environment.

    Raises:
        SettingsError: a variable is unknown, or a value is not allowed.
    """
    check_environment(os.environ)
    try:
        return cast(Callable[..., S], kind)(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        raise SettingsError(f"settings: {plain_validation(error)}") from error
