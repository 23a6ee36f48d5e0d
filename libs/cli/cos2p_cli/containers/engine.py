"""The engine: what a ring asks of it, and Docker's answer. The only module that imports its SDK.

Invariants: whatever Docker refuses is one line that says what to do; nothing is touched that does
not carry the ring's label; a call ends within its deadline, for a stop the container's own.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from cos2p.errors import Cos2pError, ExitCode, SettingsError
from cos2p_cli.containers.specs import MEMORY, NAME, ROLE, SPEC, ContainerSpec

CALL_S = 60
Kind = Literal["container", "network", "volume"]


class EngineError(Cos2pError):
    """The container engine can't be reached, or refuses; the text says why."""

    exit_code = ExitCode.ENGINE


@dataclass(frozen=True)
class Found:
    """A container that is there.

    Attributes:
        name: its name.
        labels: all of them.
        image_id: what it was made of.
        status: Docker's word: created, running, paused, restarting, exited, dead.
        exit_code: of its last end.
        out_of_memory: whether that end was its memory limit's doing.
        restarts: how often it was started again after a failure.
        started_s: when it last started, seconds since the epoch; 0 if never.
    """

    name: str
    labels: Mapping[str, str]
    image_id: str
    status: str
    exit_code: int = 0
    out_of_memory: bool = False
    restarts: int = 0
    started_s: float = 0.0

    @property
    def role(self) -> str:
        """What it is in the ring."""
        return self.labels.get(ROLE, "")

    @property
    def digest(self) -> str:
        """Of the description that it was made from."""
        return self.labels.get(SPEC, "")

    @property
    def memory_bytes(self) -> int:
        """A worker's limit; 0 for other roles."""
        return int(self.labels.get(MEMORY, 0))


class Engine(Protocol):
    """What `up` and `down` need of a container engine; each call may raise `EngineError`."""

    def processors(self) -> int:
        """Of the machine that the containers run on."""
        ...

    def free_port(self, wanted: int | None) -> int:
        """A port on 127.0.0.1 that nobody has: the wanted one, or any.

        Raises:
            SettingsError: the wanted one is taken.
        """
        ...

    def image_id(self, image: str) -> str | None:
        """Of an image that is here; None if it is not."""
        ...

    def containers(self, site: str) -> list[Found]:
        """All of a ring's, running or not."""
        ...

    def labels_of(self, kind: Kind, name: str) -> Mapping[str, str] | None:
        """Labels of whatever has this name; None if nothing has."""
        ...

    def make(self, kind: Literal["network", "volume"], name: str, labels: dict[str, str]) -> None:
        """Make a network or volume."""
        ...

    def create(self, spec: ContainerSpec, network: str) -> None:
        """Make a container; it does not run yet."""
        ...

    def start(self, name: str) -> None:
        """Start a container."""
        ...

    def stop(self, name: str, patience_s: int | None) -> None:
        """Ask a container to end (SIGTERM), and kill it after `patience_s`; None: its own."""
        ...

    def remove(self, kind: Kind, name: str) -> None:
        """Remove it, a container with the volumes that are only its own."""
        ...

    def log_of(self, name: str) -> str:
        """The newest lines of a container."""
        ...

    def close(self) -> None:
        """Let go of the engine."""
        ...


class DockerEngine:
    """A Docker engine, found as Docker's own command finds it (DOCKER_HOST, or its socket)."""

    def __init__(self) -> None:
        """Connect.

        Raises:
            SettingsError: Docker's SDK is not installed.
            EngineError: nobody answers.
        """
        try:
            import docker
        except ImportError:
            raise SettingsError(
                "this needs Docker's SDK for Python: install Co-S2P's extra `docker`"
            ) from None
        place = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        try:
            self._client: Any = docker.from_env(timeout=CALL_S)
            self._client.ping()
        except (docker.errors.DockerException, OSError) as error:
            raise EngineError(
                f"no container engine answers at {place}: is Docker running, and may this user "
                f"use it? ({_cause(error)})"
            ) from error

    def processors(self) -> int:
        """See `Engine`."""
        with _plain():
            return int(self._client.info()["NCPU"])

    def free_port(self, wanted: int | None) -> int:
        """See `Engine`."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted or 0))
            except OSError as error:
                raise SettingsError(_port_taken(wanted)) from error
            return int(probe.getsockname()[1])

    def image_id(self, image: str) -> str | None:
        """See `Engine`."""
        with _plain():
            found = self._client.images.list(name=image)
            return str(found[0].id) if found else None

    def containers(self, site: str) -> list[Found]:
        """See `Engine`."""
        with _plain():
            listed = self._client.containers.list(
                all=True, filters={"label": f"{NAME}={site}"}, ignore_removed=True
            )
            return sorted((_found(c.attrs) for c in listed), key=lambda f: f.name)

    def labels_of(self, kind: Kind, name: str) -> Mapping[str, str] | None:
        """See `Engine`."""
        from docker.errors import NotFound

        with _plain():
            try:
                attrs = self._all(kind).get(name).attrs
            except NotFound:
                return None
        labels = attrs["Config"]["Labels"] if kind == "container" else attrs["Labels"]
        return labels or {}

    def make(self, kind: Literal["network", "volume"], name: str, labels: dict[str, str]) -> None:
        """See `Engine`."""
        with _plain():
            self._all(kind).create(name, labels=labels)

    def create(self, spec: ContainerSpec, network: str) -> None:
        """See `Engine`."""
        with _plain():
            api = self._client.api
            api.create_container(
                spec.image,
                command=list(spec.command) if spec.command else None,
                name=spec.name,
                hostname=spec.name,
                labels=spec.labels,
                environment=dict(spec.environment),
                user=spec.user,
                ports=list(spec.ports),
                stop_timeout=spec.stop_s,
                host_config=self._limits(spec, network),
                networking_config=api.create_networking_config(
                    {network: api.create_endpoint_config()}
                ),
            )

    def _limits(self, spec: ContainerSpec, network: str) -> Any:
        from docker.types import LogConfig, Mount

        mounts = [
            Mount(
                m.target,
                m.source or None,
                type="bind" if m.source.startswith("/") else "volume",
                read_only=m.read_only,
            )
            for m in spec.mounts
        ]
        policy: dict[str, object] = {"Name": "no"}
        if spec.restarts_max:
            policy = {"Name": "on-failure", "MaximumRetryCount": spec.restarts_max}
        return self._client.api.create_host_config(
            network_mode=network,
            port_bindings={inner: ("127.0.0.1", outer) for inner, outer in spec.ports.items()},
            mem_limit=spec.memory_bytes,
            memswap_limit=spec.memory_bytes,
            nano_cpus=round(spec.cpus * 1e9) if spec.cpus else None,
            read_only=spec.read_only,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs=dict(spec.tmpfs),
            mounts=mounts,
            restart_policy=policy,
            log_config=LogConfig(
                type=LogConfig.types.JSON, config={"max-size": "20m", "max-file": "3"}
            ),
        )

    def start(self, name: str) -> None:
        """See `Engine`."""
        with _plain():
            self._client.containers.get(name).start()

    def stop(self, name: str, patience_s: int | None) -> None:
        """See `Engine`."""
        with _plain():
            container = self._client.containers.get(name)
            own_s = container.attrs["Config"].get("StopTimeout") or 10
            container.stop(timeout=own_s if patience_s is None else patience_s)

    def remove(self, kind: Kind, name: str) -> None:
        """See `Engine`."""
        from docker.errors import NotFound

        with _plain():
            try:
                thing = self._all(kind).get(name)
                if kind == "container":
                    thing.remove(v=True, force=True)
                else:
                    thing.remove()
            except NotFound:
                return

    def log_of(self, name: str) -> str:
        """See `Engine`."""
        with _plain():
            written: bytes = self._client.containers.get(name).logs(tail=40)
            return written.decode(errors="replace")

    def close(self) -> None:
        """See `Engine`."""
        self._client.close()

    def _all(self, kind: Kind) -> Any:
        return getattr(self._client, f"{kind}s")


def _found(attrs: Mapping[str, Any]) -> Found:
    state = attrs["State"]
    return Found(
        name=attrs["Name"].removeprefix("/"),
        labels=attrs["Config"]["Labels"] or {},
        image_id=attrs["Image"],
        status=state["Status"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        restarts=attrs["RestartCount"],
        started_s=_seconds(state["StartedAt"]),
    )


def _seconds(stamp: str) -> float:
    """Of a time as Docker writes it, with nanoseconds; 0 for its year 1."""
    whole, _, rest = stamp.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(f"{whole}+00:00")
    return 0.0 if moment.year < 1970 else moment.timestamp() + float(f"0.{rest or 0}")


@contextmanager
def _plain() -> Iterator[None]:
    """Raise what Docker refuses as one line."""
    from docker.errors import APIError, DockerException

    try:
        yield
    except APIError as error:
        text = " ".join(str(error.explanation or error).split())
        if "port is already allocated" in text or "address already in use" in text:
            raise SettingsError(_port_taken(None)) from error
        raise EngineError(f"the container engine refuses: {text}") from error
    except (DockerException, OSError) as error:
        # The SDK's transport raises requests' errors, which are OSErrors.
        raise EngineError(f"the container engine does not answer: {_cause(error)}") from error


def _port_taken(port: int | None) -> str:
    which = "Kafka's port" if port is None else f"port {port}"
    return f"{which} on 127.0.0.1 is in use: say another with --port, or leave it out"


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
