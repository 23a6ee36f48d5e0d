"""The container engine as a ring needs it: Docker.

This is the only module that imports Docker's SDK. Invariants: an error of Docker becomes one line
that names what to do. Only things with the ring's label are touched. A call ends within its
deadline; for a stop that is the container's own.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cos2p.errors import Cos2pError, ExitCode, SettingsError
from cos2p_cli.containers.specs import MEMORY, NAME, ROLE, SPEC, ContainerSpec

CALL_S = 60
Kind = Literal["container", "network", "volume"]


class EngineError(Cos2pError):
    """The container engine can't be reached, or refuses. The text gives the reason."""

    exit_code = ExitCode.ENGINE


@dataclass(frozen=True)
class ExistingContainer:
    """An existing container.

    Attributes:
        status: Docker's status: created, running, paused, restarting, exited or dead.
        exit_code: the exit code of its last end.
        out_of_memory: whether its memory limit caused that end.
        restarts: how often Docker restarted it after a failure.
        started_s: when it last started, in seconds since the epoch; 0 if never.
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
        """The container's role in the ring."""
        return self.labels.get(ROLE, "")

    @property
    def digest(self) -> str:
        """The digest of the description from which the container was created."""
        return self.labels.get(SPEC, "")

    @property
    def memory_bytes(self) -> int:
        """The memory limit of a worker; 0 for other roles."""
        return int(self.labels.get(MEMORY, 0))


class DockerEngine:
    """A Docker engine, found as by Docker's own command: through DOCKER_HOST or its socket.

    Each call may raise `EngineError`.
    """

    def __init__(self) -> None:
        """Connect.

        Raises:
            SettingsError: Docker's SDK is not installed.
            EngineError: no engine answers.
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
        """Return the number of processors of the machine that the containers run on."""
        with _plain():
            return int(self._client.info()["NCPU"])

    def free_port(self, wanted: int | None) -> int:
        """Return a free port on 127.0.0.1: the wanted one, or any if None is wanted.

        Raises:
            SettingsError: the wanted port is in use.
        """
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted or 0))
            except OSError as error:
                raise SettingsError(_port_taken(wanted)) from error
            return int(probe.getsockname()[1])

    def image_id(self, image: str) -> str | None:
        """Return the id of an image on this machine; None if it is not here."""
        with _plain():
            found = self._client.images.list(name=image)
            return str(found[0].id) if found else None

    def containers(self, site: str) -> list[ExistingContainer]:
        """Return all containers of a ring, running or not."""
        with _plain():
            # A container may vanish between the list and its inspection: it is then left out.
            listed = self._client.containers.list(
                all=True, filters={"label": f"{NAME}={site}"}, ignore_removed=True
            )
            return sorted((_found(c.attrs) for c in listed), key=lambda f: f.name)

    def labels_of(self, kind: Kind, name: str) -> Mapping[str, str] | None:
        """Return the labels of the thing with this name; None if there is none."""
        from docker.errors import NotFound

        with _plain():
            try:
                attrs = self._all(kind).get(name).attrs
            except NotFound:
                return None
        labels = attrs["Config"]["Labels"] if kind == "container" else attrs["Labels"]
        return labels or {}

    def make(self, kind: Literal["network", "volume"], name: str, labels: dict[str, str]) -> None:
        """Create a network or volume."""
        with _plain():
            self._all(kind).create(name, labels=labels)

    def create(self, spec: ContainerSpec, network: str) -> None:
        """Create a container. It does not run yet."""
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
                host_config=self._host_config(spec, network),
                networking_config=api.create_networking_config(
                    {network: api.create_endpoint_config()}
                ),
            )

    def _host_config(self, spec: ContainerSpec, network: str) -> Any:
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
            memswap_limit=spec.memory_bytes,  # memory and swap together: no swap at all
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
        """Start a container."""
        with _plain():
            self._client.containers.get(name).start()

    def stop(self, name: str, patience_s: int | None) -> None:
        """Ask a container to stop (SIGTERM) and kill it after `patience_s`; None is its own."""
        with _plain():
            container = self._client.containers.get(name)
            own_s = container.attrs["Config"].get("StopTimeout") or 10
            container.stop(timeout=own_s if patience_s is None else patience_s)

    def remove(self, kind: Kind, name: str) -> None:
        """Remove a thing. A container's own unnamed volumes are removed with it."""
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
        """Return the newest log lines of a container."""
        with _plain():
            written: bytes = self._client.containers.get(name).logs(tail=40)
            return written.decode(errors="replace")

    def owns(self, kind: Kind, name: str, site: str) -> bool:
        """Return whether a ring has the thing with this name; False if there is none.

        Raises:
            SettingsError: it does not belong to this ring.
        """
        labels = self.labels_of(kind, name)
        if labels is not None and labels.get(NAME) != site:
            raise SettingsError(
                f"the {kind} {name} exists already and does not belong to this ring: "
                "choose another --name, or remove it"
            )
        return labels is not None

    def close(self) -> None:
        """Close the connection to the engine."""
        self._client.close()

    def _all(self, kind: Kind) -> Any:
        return getattr(self._client, f"{kind}s")


def _found(attrs: Mapping[str, Any]) -> ExistingContainer:
    state = attrs["State"]
    return ExistingContainer(
        name=attrs["Name"].removeprefix("/"),
        labels=attrs["Config"]["Labels"] or {},
        image_id=attrs["Image"],
        status=state["Status"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
        restarts=attrs["RestartCount"],
        # The start of a container that never ran is in the year 1.
        started_s=max(0.0, datetime.fromisoformat(state["StartedAt"]).timestamp()),
    )


@contextmanager
def _plain() -> Iterator[None]:
    """Raise Docker's errors as one line each."""
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
    return f"{which} on 127.0.0.1 is in use: choose another with --port, or leave it out"


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
