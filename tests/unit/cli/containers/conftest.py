"""An engine that holds containers in a dictionary, and a ring whose roles speak when they start."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from rich.console import Console

from cos2p.errors import SettingsError
from cos2p_cli.containers.engine import DockerEngine, ExistingContainer, Kind
from cos2p_cli.containers.specs import NAME, ContainerSpec, Site
from cos2p_cli.containers.steps import StepPrinter
from cos2p_cli.containers.up import Up, UpOptions, UpResult

IMAGES = {"co-s2p-core:1", "co-s2p-worker:1", "apache/kafka:4.3.1"}


@dataclass
class FakeEngine(DockerEngine):
    """Does at once what it is asked, and remembers it."""

    images: dict[str, str] = field(
        default_factory=lambda: {name: f"id of {name}" for name in IMAGES}
    )
    there: dict[str, ExistingContainer] = field(default_factory=dict)
    others: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    specs: dict[str, ContainerSpec] = field(default_factory=dict)
    cpus: int = 4
    ports_taken: set[int] = field(default_factory=set)

    def processors(self) -> int:
        return self.cpus

    def free_port(self, wanted: int | None) -> int:
        if wanted in self.ports_taken:
            raise SettingsError(f"port {wanted} is in use")
        return wanted or 50_000

    def image_id(self, image: str) -> str | None:
        return self.images.get(image)

    def containers(self, site: str) -> list[ExistingContainer]:
        return [f for f in self.there.values() if f.labels.get(NAME) == site]

    def labels_of(self, kind: Kind, name: str) -> Mapping[str, str] | None:
        if kind == "container" and name in self.there:
            return self.there[name].labels
        return self.others.get((kind, name))

    def make(self, kind: Literal["network", "volume"], name: str, labels: dict[str, str]) -> None:
        self.others[kind, name] = labels

    def create(self, spec: ContainerSpec, network: str) -> None:
        assert ("network", network) in self.others
        self.specs[spec.name] = spec
        self.there[spec.name] = ExistingContainer(
            spec.name, spec.labels, self.images[spec.image], "created"
        )

    def start(self, name: str) -> None:
        self.started.append(name)
        self.put(name, status="running")

    def stop(self, name: str, patience_s: int | None) -> None:
        self.ended.append(name)
        self.put(name, status="exited")

    def remove(self, kind: Kind, name: str) -> None:
        if kind == "container":
            self.there.pop(name, None)
        else:
            self.others.pop((kind, name), None)

    def log_of(self, name: str) -> str:
        return self.logs.get(name, "")

    def close(self) -> None:
        pass

    def put(self, name: str, **state: Any) -> None:
        self.there[name] = replace(self.there[name], **state)


class Hook:
    """A clock whose sleeps are moments in which something happens."""

    def __init__(self, then: Callable[[], Awaitable[None]]) -> None:
        self._then, self._now = then, 0.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds
        await self._then()


class Ring:
    """`up` on the fake engine; its roles say what they should, unless they are `mute`."""

    def __init__(self, logged: Any) -> None:
        self.engine = FakeEngine()
        self.logged, self.script = logged, logged.script
        logged.PREFIX = "r1"
        self.mute: set[str] = set()
        self.trouble: Callable[[], None] | None = None
        self._spoke: set[str] = set()

    async def up(self, **chosen: Any) -> UpResult:
        given = UpOptions(**{"name": "r1", "image_tag": "1", **chosen})
        with StepPrinter(Console(quiet=True), as_json=True) as steps:
            return await Up(
                given, self.engine, Hook(self._turn), lambda *_: self.logged.bus, steps
            ).run()

    async def _turn(self) -> None:
        if self.trouble is not None:
            self.trouble()
        for found in list(self.engine.there.values()):
            if found.status == "running" and found.name not in self.mute | self._spoke:
                self._spoke.add(found.name)
                await self._speak(found)

    async def _speak(self, found: ExistingContainer) -> None:
        if found.role == "init":
            await self.logged.create()
            await self.logged.append(self.script.requested())
            self.engine.put(found.name, status="exited")
        elif found.role == "planner":
            await self.logged.append(*self.script.started())
        elif found.role == "aggregator":
            await self.logged.append(self.script.opened())
        elif found.role == "worker":
            await self.logged.append(self.script.hello(found.name))


@pytest.fixture
def ring(logged: Any) -> Ring:
    return Ring(logged)


@pytest.fixture
def site() -> Site:
    return Site("s", "run-1", 50_000, "core:1", "worker:1", "kafka:1", parts=4)
