"""What operators set from outside, one class per role, from the environment (prefix COS2P_).

Invariants: a variable that starts with COS2P_ and that no role knows is an error, with the closest
known name; secrets never appear in a repr or an error.
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
    """A file that holds the password, as a mounted Secret does."""
    kafka_ca_file: Path | None = None
    kafka_cert_file: Path | None = None
    kafka_key_file: Path | None = None
    kafka_timeout_s: float = Field(30.0, gt=0)
    """How long a lost connection is retried before the bus counts as unreachable."""
    signing_key_file: Path | None = None
    """Private key (PEM, Ed25519) that signs what this process says on `fleet`; see `cos2p keys`."""


class ServiceSettings(BusSettings):
    """What every long-running role knows."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    """auto: text on a terminal, else JSON."""
    shutdown_deadline_s: float = Field(10.0, gt=0)
    """A stop that takes longer is forced (exit code 5)."""
    run_id: str | None = None
    """The run that this process is for: another one at its prefix is refused. None takes any."""
    stay: bool = False
    """Wait for topics that are not made yet, and stay, idle, when the run has ended: where a
    supervisor restarts what exits."""
    health_file: Path | None = None
    """Touched while the event loop turns: an exec probe compares its age."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """/metrics, /healthz and /readyz are served here; 0 takes a free port, None serves nothing."""
    metrics_host: str = "127.0.0.1"
    """The address that serves them; 0.0.0.0 for all."""


class PlannerSettings(ServiceSettings):
    """The planner's."""

    planner_id: str = Field("planner", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    keys_file: Path | None = None
    """Register of public keys: then what is said on `fleet` counts only if one of them signed it.
    Read again when it changes."""


class AggregatorSettings(ServiceSettings):
    """The aggregator's."""

    shard: int = Field(0, ge=0)
    """Which shard of the model this process owns; how many there are is set by the run."""


class WorkerSettings(ServiceSettings):
    """The worker's and the evaluator's."""

    worker_id: str = Field("worker-0", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    task: str | None = None
    """module:attribute of the task; None takes the one that the run names."""
    shard_index: int = Field(0, ge=0)
    """Which part of the training data is this device's..."""
    shard_offset: int = Field(0, ge=0)
    """...added to it: where a pod's ordinal is its index, the parts before its class..."""
    shard_count: int = Field(1, ge=1)
    """...of how many."""
    device_class: str = Field("default", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    memory_bytes: int | None = Field(None, gt=0)
    """What training may use; None takes it from the cgroup, the GPU or the machine."""
    slowdown: float = Field(1.0, ge=1.0)
    """Sleep between steps so that the device seems this many times slower (demo)."""
    share_labels: bool = True
    """Tell the planner how many samples of each label there are."""
    scratch_dir: Path | None = None
    """Where dispatched weights are memory-mapped; None takes the system's temporary folder. A
    worker that starts removes what killed ones left there."""
    data_dir: Path | None = None
    """Folder of the task's data, for tasks that read files."""
    threads: int | None = Field(None, ge=1)
    """Threads that compute; None takes whole CPUs of what cgroup and affinity allow."""
    evaluate: bool = False
    """Be the evaluator: read published versions, never train."""


S = TypeVar("S", bound=BusSettings)

ALL_SETTINGS: tuple[type[BusSettings], ...] = (
    PlannerSettings,
    AggregatorSettings,
    WorkerSettings,
)
OTHER_VARIABLES = frozenset(
    {"COS2P_TEST_KAFKA", "COS2P_TEST_IMAGE_TAG", "COS2P_TEST_KAFKA_IMAGE", "COS2P_TEST_KUBERNETES"}
)
"""Variables of the tests."""


def known_variables() -> dict[str, str]:
    """Each COS2P_ variable and its description."""
    found: dict[str, str] = {}
    for kind in ALL_SETTINGS:
        for name, field in kind.model_fields.items():
            found[PREFIX + name.upper()] = field.description or ""
    return found


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse misspelt variables.

    Raises:
        SettingsError: a COS2P_ variable that no role knows.
    """
    known = set(known_variables()) | OTHER_VARIABLES
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            close = difflib.get_close_matches(name.upper(), sorted(known), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"unknown environment variable {name}{hint}")


def load_settings(kind: type[S], **given: object) -> S:
    """Settings of a role: arguments first, then the environment, then defaults.

    Raises:
        SettingsError: an unknown variable or a value that is not allowed.
    """
    check_environment(os.environ)
    try:
        return cast(Callable[..., S], kind)(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        raise SettingsError(f"settings: {plain_validation(error)}") from error
