"""`cos2p up`: brings one machine's ring to the wanted state and waits until it works.

Invariants: a second call touches only what differs, and never anything of another owner. Every wait
has a deadline. At the deadline the error names the awaited container. After a failure, created
containers stay for inspection.
"""

import contextlib
from asyncio import gather, to_thread
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from cos2p.clock import Clock
from cos2p.errors import (
    BusUnreachableError,
    RunExistsError,
    RunFailedError,
    SettingsError,
    TopicMissingError,
)
from cos2p.history.follow import HistoryReader
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.run_config import load_run_config
from cos2p_cli import figures
from cos2p_cli.containers import specs
from cos2p_cli.containers.changes import Change, compare, fleet
from cos2p_cli.containers.classes import DEFAULT_FLEET, ClassRequest, parse_fleet
from cos2p_cli.containers.engine import DockerEngine, ExistingContainer
from cos2p_cli.containers.readiness import error_of, failing, last_line, not_ready, short_list
from cos2p_cli.containers.specs import ContainerSpec, Site
from cos2p_cli.containers.steps import StepPrinter

LOOK_S = 1.0
DEFAULT_TASK = "digits"
PARTS_MIN = 8
"""The least number of parts, so that a ring can grow without cutting the data again."""
BUILD = "docker build -f deploy/images/Dockerfile --target {target} -t {image} ."
OpenLog = Callable[[str, str], Bus]
"""Opens the bus at an address, for a prefix."""


@dataclass(frozen=True)
class UpOptions:
    """The options of `cos2p up`, as its help explains them.

    None is the existing value, else the default.
    """

    name: str = "co-s2p"
    workers: str | None = None
    task: str | None = None
    config: Path | None = None
    run_id: str | None = None
    parts: int | None = None
    port: int | None = None
    data_dir: Path | None = None
    image_tag: str | None = None
    worker_image: str | None = None
    kafka_image: str = specs.KAFKA_IMAGE
    timeout_s: float = 300.0


@dataclass(frozen=True)
class UpResult:
    """The state of the ring at the end."""

    site: Site
    run: RunHistory
    changes: tuple[Change, ...]

    def plain(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {
            "name": self.site.name,
            "run_id": self.site.run_id,
            "bus": self.site.bus,
            "prefix": self.site.run_id,
            "phase": self.run.phase,
            "version": self.run.version,
            "parts": self.site.parts,
            "containers": [
                {
                    "name": c.name,
                    "did": c.verb,
                    "role": c.spec.role if c.spec else None,
                    "class": c.spec.facts.get(specs.CLASS) if c.spec else None,
                    "memory_bytes": c.spec.memory_bytes if c.spec else None,
                    "cpus": c.spec.cpus if c.spec else None,
                }
                for c in self.changes
            ],
        }

    def next_steps(self) -> list[str]:
        """Return lines with the commands to run next."""
        run, where = self.run, f"--bus {self.site.bus} --prefix {self.site.run_id}"
        name = "" if self.site.name == UpOptions.name else f" --name {self.site.name}"
        if run.phase == "finished":
            return [
                f"run {run.run_id} has ended at version {run.version} ({run.end_reason}): a new "
                "one needs another --run-id",
                f"  cos2p status {where}",
                f"  cos2p down{name}",
            ]
        workers = sum(c.spec is not None and c.spec.role == "worker" for c in self.changes)
        return [
            f"run {run.run_id} is running with {figures.count(workers, 'worker')}. Next:",
            f"  cos2p status {where} --follow",
            f"  cos2p up{name} --workers CLASS=COUNT     # scale",
            f"  cos2p down{name}                         # its log stays",
        ]


class Up:
    """One call of `cos2p up`. Use `run`."""

    def __init__(
        self,
        chosen: UpOptions,
        engine: DockerEngine,
        clock: Clock,
        open_log: OpenLog,
        steps: StepPrinter,
    ) -> None:
        self._chosen, self._engine, self._clock = chosen, engine, clock
        self._open_log, self._steps = open_log, steps
        self._give_up_s = clock.now() + chosen.timeout_s
        self._done: list[Change] = []

    async def run(self) -> UpResult:
        """Bring up the ring and return its state.

        Raises:
            Cos2pError: an option is wrong, or a container was not ready in time.
        """
        asked = parse_fleet(self._chosen.workers) if self._chosen.workers else ()
        run_file = _run_file(self._chosen.config)
        found = await self._found()
        if not asked and not any(f.role == "worker" for f in found):
            asked = parse_fleet(DEFAULT_FLEET)
        site = await self._site(found, asked)
        cpus = await to_thread(self._engine.processors)
        workers = fleet(site, asked, found, cpus)
        images = await self._images(site)
        await self._lay(site, workers)
        await self._apply([specs.kafka(site)], [f for f in found if f.role == "kafka"], images)
        bus = self._open_log(site.bus, site.run_id)
        try:
            reader = HistoryReader(bus, site.run_id)
            await self._kafka_answers(site, reader)
            await self._begin(site, reader, run_file)
            if reader.history.phase == "finished":
                return UpResult(site, reader.history, tuple(self._done))
            shards = reader.history.config.merge.shards
            aggregators = [specs.aggregator(site, shard) for shard in range(shards)]
            wanted = [specs.planner(site), *aggregators, specs.evaluator(site), *workers]
            others = [f for f in await self._found() if f.role not in ("kafka", "init")]
            await self._apply(wanted, others, images)
            await self._ready(reader)
            return UpResult(site, reader.history, tuple(self._done))
        finally:
            await bus.close()

    # ------------------------------------------------------------ the wanted state

    async def _site(
        self, found: Sequence[ExistingContainer], asked: Sequence[ClassRequest]
    ) -> Site:
        chosen = self._chosen
        labels = dict(pair for f in found for pair in f.labels.items())
        had_port = labels.get(specs.PORT)
        if had_port and chosen.port in (None, int(had_port)):
            port = int(had_port)
        else:
            port = await to_thread(self._engine.free_port, chosen.port)
        data_dir = chosen.data_dir.resolve() if chosen.data_dir else None
        if data_dir is not None and not data_dir.is_dir():
            raise SettingsError(f"--data {data_dir} is not a folder")
        tag = chosen.image_tag or metadata.version("cos2p")
        return Site(
            name=chosen.name,
            run_id=chosen.run_id or labels.get(specs.RUN) or chosen.name,
            port=port,
            core_image=f"co-s2p-core:{tag}",
            worker_image=chosen.worker_image or f"co-s2p-worker:{tag}",
            kafka_image=chosen.kafka_image,
            parts=await self._parts(sum(a.count for a in asked)),
            data_dir=data_dir,
        )

    async def _parts(self, workers: int) -> int:
        """Return the number of data parts. It is set once, in a label of the log's volume."""
        volume = specs.volume_of(self._chosen.name)
        labels = await to_thread(self._engine.labels_of, "volume", volume) or {}
        current, asked = labels.get(specs.PARTS), self._chosen.parts
        if current is None:
            return asked or max(PARTS_MIN, workers)
        if asked not in (None, int(current)):
            raise SettingsError(
                f"the data of {self._chosen.name} is cut into {current} parts, "
                "and that can't change: choose another --name, or run `cos2p down --volumes` first"
            )
        return int(current)

    async def _images(self, site: Site) -> dict[str, str]:
        ids = {}
        builds = {site.core_image: "core", site.worker_image: "worker", site.kafka_image: ""}
        for image, target in builds.items():
            found = await to_thread(self._engine.image_id, image)
            if found is None:
                how = BUILD.format(target=target, image=image) if target else f"docker pull {image}"
                raise SettingsError(f"image {image} is missing on this machine: {how}")
            ids[image] = found
        return ids

    # ------------------------------------------------------------ the actions

    async def _lay(self, site: Site, workers: Sequence[ContainerSpec]) -> None:
        """Create network and volume, unless a name of the ring's things has another owner."""
        roles = (specs.kafka(site), specs.planner(site), specs.evaluator(site))
        for spec in (*roles, specs.init(site, "", ""), specs.aggregator(site, 0), *workers):
            await to_thread(self._engine.owns, "container", spec.name, site.name)
        things: dict[Literal["network", "volume"], tuple[str, dict[str, str]]] = {
            "network": (site.name, {}),
            "volume": (site.volume, {specs.PARTS: str(site.parts)}),
        }
        missing = [
            kind
            for kind, (name, _) in things.items()
            if not await to_thread(self._engine.owns, kind, name, site.name)
        ]
        for kind in missing:
            name, facts = things[kind]
            await to_thread(self._engine.make, kind, name, {specs.NAME: site.name, **facts})
            self._steps.done(f"created   {kind} {name}")

    async def _apply(
        self,
        wanted: Sequence[ContainerSpec],
        found: Sequence[ExistingContainer],
        images: Mapping[str, str],
    ) -> None:
        changes = compare(wanted, found, images)
        removed = [c.name for c in changes if c.verb in ("removed", "replaced")]
        if removed:
            self._steps.waiting(f"stopping {short_list(removed)}")
        await gather(*(self._retire(name) for name in removed))
        for change in changes:
            if change.spec is not None and change.verb in ("created", "replaced"):
                await to_thread(self._engine.create, change.spec, self._chosen.name)
            if change.verb not in ("removed", "kept"):
                await to_thread(self._engine.start, change.name)
            self._steps.done(f"{change.verb:<9} {change.name}")
        self._done += changes

    async def _retire(self, name: str) -> None:
        await to_thread(self._engine.stop, name, None)
        await to_thread(self._engine.remove, "container", name)

    async def _kafka_answers(self, site: Site, reader: HistoryReader) -> None:
        """Wait for the broker. The reader then knows the run, if there is one."""

        async def awaited() -> list[str]:
            try:
                with contextlib.suppress(TopicMissingError):
                    await reader.poll()
            except BusUnreachableError:
                return [f"{site.name}-kafka"]
            return []

        await self._wait(f"waiting for Kafka at {site.bus}", awaited)

    async def _begin(self, site: Site, reader: HistoryReader, run_file: str) -> None:
        """Request the run, unless this prefix holds it already."""
        run = reader.history
        if run.run_id:
            if run.run_id != site.run_id:
                raise RunExistsError(
                    f"the prefix {site.run_id!r} belongs to run {run.run_id}: "
                    "choose another --run-id"
                )
            if self._chosen.task not in (None, run.task):
                raise RunExistsError(
                    f"run {run.run_id} trains {run.task}, not {self._chosen.task}: "
                    "choose another --run-id for a new run"
                )
            if run_file:
                self._steps.done(f"run {run.run_id} exists already: its settings stay unchanged")
            return
        spec = specs.init(site, self._chosen.task or DEFAULT_TASK, run_file)
        await to_thread(self._engine.remove, "container", spec.name)
        await to_thread(self._engine.create, spec, site.name)
        await to_thread(self._engine.start, spec.name)
        try:
            await self._init_ends(spec.name)
        finally:
            await to_thread(self._engine.remove, "container", spec.name)
        await reader.poll()
        self._steps.done(f"requested run {site.run_id} ({reader.history.task})")

    async def _init_ends(self, name: str) -> None:
        async def awaited() -> list[str]:
            init = next((f for f in await self._found() if f.name == name), None)
            if init is None:
                raise RunFailedError(f"{name} was removed before it ended")
            if init.status not in ("exited", "dead"):
                return [name]
            if init.exit_code:
                raise error_of(init, await to_thread(self._engine.log_of, name))
            return []

        await self._wait("loading PyTorch and writing version 0", awaited)

    async def _ready(self, reader: HistoryReader) -> None:
        """Wait until all containers are ready, or the run has ended."""

        async def awaited() -> list[str]:
            await reader.poll()
            if reader.history.phase == "finished":
                return []
            found = [f for f in await self._found() if f.role not in ("kafka", "init")]
            return not_ready(reader.history, found)

        await self._wait("", awaited)

    async def _wait(self, text: str, awaited: Callable[[], Awaitable[list[str]]]) -> None:
        """Wait until no container is awaited, and show `text` or the names meanwhile.

        Raises:
            Cos2pError: a container keeps failing, or the time is up.
        """
        restarts = {f.name: f.restarts for f in await self._found()}
        while names := await awaited():
            self._steps.waiting(text or f"waiting for {short_list(names)}")
            failed = failing(await self._found(), restarts)
            if failed is not None:
                raise error_of(failed, await to_thread(self._engine.log_of, failed.name))
            if self._clock.now() >= self._give_up_s:
                last = last_line(await to_thread(self._engine.log_of, names[0]))
                waited = figures.duration(self._chosen.timeout_s)
                raise RunFailedError(
                    f"not ready after {waited}: {short_list(names)}; "
                    f"last log line of {names[0]}: {last} "
                    "(containers stay; --timeout waits longer)"
                )
            await self._clock.sleep(LOOK_S)

    async def _found(self) -> list[ExistingContainer]:
        return await to_thread(self._engine.containers, self._chosen.name)


def _run_file(config: Path | None) -> str:
    """Return the text of a run file after checking it."""
    if config is None:
        return ""
    load_run_config(config)
    return config.read_text()
