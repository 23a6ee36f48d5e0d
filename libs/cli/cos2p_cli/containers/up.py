"""`cos2p up`: brings one machine's ring to the wanted state and waits until it works.

Invariants: a second call touches only what differs, and never anything of another owner. Every wait
has a deadline. At the deadline the error names the awaited container. After a failure, created
containers stay for inspection.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from cos2p.clock import Clock
from cos2p.errors import (
    BusUnreachableError,
    Cos2pError,
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
from cos2p_cli.containers.classes import DEFAULT_FLEET, Asked, parse_fleet
from cos2p_cli.containers.engine import Engine, Found, Kind
from cos2p_cli.containers.readiness import awaited, dying, few, last_words, why_dead
from cos2p_cli.containers.specs import ContainerSpec, Site
from cos2p_cli.containers.tell import Tell

LOOK_S = 1.0
DEFAULT_TASK = "digits"
PARTS_MIN = 8
"""The least number of parts, so that a ring can grow without cutting the data again."""
BUILD = "docker build -f deploy/images/Dockerfile --target {target} -t {image} ."
T = TypeVar("T")
OpenLog = Callable[[str, str], Bus]
"""Opens the bus at an address, for a prefix."""


@dataclass(frozen=True)
class UpOptions:
    """The options of `cos2p up`. None is the existing value, else the default.

    Attributes:
        name: the ring's name.
        workers: classes and counts, see `parse_fleet`.
        task: the task's module:attribute or short name.
        config: a run file (TOML).
        run_id: the run's name and the prefix of its topics.
        parts: the number of parts into which the training data is cut.
        port: Kafka's port on 127.0.0.1.
        data_dir: the task's data folder.
        image_tag: the tag of the two images.
        worker_image: another image, with its tag, for the roles that need PyTorch.
        kafka_image: the broker's image.
        timeout_s: the deadline of all waits together.
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
            f"run {run.run_id} is under way with {figures.count(workers, 'worker')}. Next:",
            f"  cos2p status {where} --follow",
            f"  cos2p up{name} --workers CLASS=COUNT     # scale",
            f"  cos2p down{name}                         # its log stays",
        ]


class Up:
    """One call of `cos2p up`. Use `run`."""

    def __init__(
        self, chosen: UpOptions, engine: Engine, clock: Clock, open_log: OpenLog, tell: Tell
    ) -> None:
        self._chosen, self._engine, self._clock = chosen, engine, clock
        self._open_log, self._tell = open_log, tell
        self._give_up_s = clock.now() + chosen.timeout_s
        self._done: list[Change] = []
        self._restarts: dict[str, int] | None = None

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
        cpus = await self._off(self._engine.processors)
        workers = fleet(site, asked, found, cpus)
        images = await self._images(site)
        await self._refuse_foreign(site, found, workers)
        await self._lay(site)
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
            await self._ready(site, reader)
            return UpResult(site, reader.history, tuple(self._done))
        finally:
            await bus.close()

    # ------------------------------------------------------------ the wanted state

    async def _site(self, found: Sequence[Found], asked: Sequence[Asked]) -> Site:
        chosen = self._chosen
        labels: dict[str, str] = {}
        for f in found:
            labels |= f.labels
        had_port = labels.get(specs.PORT)
        if had_port and chosen.port in (None, int(had_port)):
            port = int(had_port)
        else:
            port = await self._off(self._engine.free_port, chosen.port)
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
        labels = await self._off(self._engine.labels_of, "volume", volume) or {}
        had, said = labels.get(specs.PARTS), self._chosen.parts
        if had is None:
            return said or max(PARTS_MIN, workers)
        if said not in (None, int(had)):
            raise SettingsError(
                f"the data of {self._chosen.name} is cut into {had} parts, and that can't change: "
                "take another --name, or `cos2p down --volumes` first"
            )
        return int(had)

    async def _images(self, site: Site) -> dict[str, str]:
        ids = {}
        builds = {site.core_image: "core", site.worker_image: "worker", site.kafka_image: ""}
        for image, target in builds.items():
            found = await self._off(self._engine.image_id, image)
            if found is None:
                how = BUILD.format(target=target, image=image) if target else f"docker pull {image}"
                raise SettingsError(f"there is no image {image} on this machine: {how}")
            ids[image] = found
        return ids

    async def _refuse_foreign(
        self, site: Site, found: Sequence[Found], workers: Sequence[ContainerSpec]
    ) -> None:
        ours = {f.name for f in found}
        roles = (specs.kafka(site), specs.planner(site), specs.evaluator(site))
        firsts = (*roles, specs.init(site, "", ""), specs.aggregator(site, 0), *workers)
        things: list[tuple[Kind, str]] = [("network", site.network), ("volume", site.volume)]
        things += [("container", spec.name) for spec in firsts if spec.name not in ours]
        for kind, name in things:
            labels = await self._off(self._engine.labels_of, kind, name)
            if labels is not None and labels.get(specs.NAME) != site.name:
                raise SettingsError(
                    f"there is a {kind} {name} already that is not of this ring: "
                    "take another --name, or remove it"
                )

    # ------------------------------------------------------------ the actions

    async def _lay(self, site: Site) -> None:
        labels = {specs.NAME: site.name}
        if await self._off(self._engine.labels_of, "network", site.network) is None:
            await self._off(self._engine.make, "network", site.network, labels)
            self._tell.did(f"created   network {site.network}")
        if await self._off(self._engine.labels_of, "volume", site.volume) is None:
            labels = {**labels, specs.PARTS: str(site.parts)}
            await self._off(self._engine.make, "volume", site.volume, labels)
            self._tell.did(f"created   volume {site.volume}")

    async def _apply(
        self,
        wanted: Sequence[ContainerSpec],
        found: Sequence[Found],
        images: Mapping[str, str],
    ) -> None:
        changes = compare(wanted, found, images)
        removed = [c.name for c in changes if c.verb in ("removed", "replaced")]
        if removed:
            self._tell.waits(f"stopping {few(removed)}")
        await asyncio.gather(*(self._retire(name) for name in removed))
        for change in changes:
            if change.spec is not None and change.verb in ("created", "replaced"):
                await self._off(self._engine.create, change.spec, self._chosen.name)
            if change.verb not in ("removed", "kept"):
                await self._off(self._engine.start, change.name)
            self._tell.did(f"{change.verb:<9} {change.name}")
        self._done += changes

    async def _retire(self, name: str) -> None:
        await self._off(self._engine.stop, name, None)
        await self._off(self._engine.remove, "container", name)

    async def _kafka_answers(self, site: Site, reader: HistoryReader) -> None:
        """Wait for the broker. The reader then knows the run, if there is one."""
        while True:
            self._tell.waits(f"waiting for Kafka at {site.bus}")
            try:
                with contextlib.suppress(TopicMissingError):
                    await reader.poll()
                return
            except BusUnreachableError as error:
                await self._look(site, [f"{site.name}-kafka"], error)

    async def _begin(self, site: Site, reader: HistoryReader, run_file: str) -> None:
        """Request the run, unless this prefix holds it already."""
        run = reader.history
        if run.run_id:
            if run.run_id != site.run_id:
                raise RunExistsError(
                    f"the prefix {site.run_id!r} belongs to run {run.run_id}: take another --run-id"
                )
            if self._chosen.task not in (None, run.task):
                raise RunExistsError(
                    f"run {run.run_id} trains {run.task}, not {self._chosen.task}: "
                    "take another --run-id for a new run"
                )
            if run_file:
                self._tell.did(f"run {run.run_id} is there: its settings stay as they are")
            return
        spec = specs.init(site, self._chosen.task or DEFAULT_TASK, run_file)
        await self._off(self._engine.remove, "container", spec.name)
        await self._off(self._engine.create, spec, site.network)
        await self._off(self._engine.start, spec.name)
        self._tell.waits("loading PyTorch and writing version 0")
        try:
            await self._ended_well(spec.name)
        finally:
            await self._off(self._engine.remove, "container", spec.name)
        await reader.poll()
        self._tell.did(f"asked     for run {site.run_id} ({reader.history.task})")

    async def _ended_well(self, name: str) -> None:
        while True:
            mine = next((f for f in await self._found() if f.name == name), None)
            if mine is None:
                raise RunFailedError(f"{name} was removed while it worked")
            if mine.status in ("exited", "dead"):
                if mine.exit_code:
                    log = await self._off(self._engine.log_of, name)
                    raise why_dead(mine, log) if mine.out_of_memory else _of_init(mine, log)
                return
            await self._patience([name])

    async def _ready(self, site: Site, reader: HistoryReader) -> None:
        """Wait until all containers are ready, or the run has ended."""
        while True:
            await reader.poll()
            if reader.history.phase == "finished":
                return
            found = [f for f in await self._found() if f.role not in ("kafka", "init")]
            missing = awaited(reader.history, found)
            if not missing:
                return
            self._tell.waits(f"waiting for {few(missing)}")
            await self._look(site, missing, None)

    async def _look(self, site: Site, missing: Sequence[str], cause: Cos2pError | None) -> None:
        """Wait a little. Raise if a container keeps failing or the time is up."""
        found = await self._found()
        if self._restarts is None:
            self._restarts = {f.name: f.restarts for f in found}
        dead = dying(found, self._restarts)
        if dead is not None:
            raise why_dead(dead, await self._off(self._engine.log_of, dead.name)) from cause
        await self._patience(missing)

    async def _patience(self, missing: Sequence[str]) -> None:
        if self._clock.now() < self._give_up_s:
            await self._clock.sleep(LOOK_S)
            return
        log = await self._off(self._engine.log_of, missing[0])
        raise RunFailedError(
            f"not ready after {figures.duration(self._chosen.timeout_s)}: {few(missing)}; the last "
            f"word of {missing[0]}: {last_words(log)} (what is there stays; --timeout waits longer)"
        )

    # ------------------------------------------------------------ the engine

    async def _found(self) -> list[Found]:
        return await self._off(self._engine.containers, self._chosen.name)

    async def _off(self, call: Callable[..., T], *arguments: Any) -> T:
        """Make a call of the engine in a thread, off the event loop."""
        return await asyncio.to_thread(call, *arguments)


def _run_file(config: Path | None) -> str:
    """Return the text of a run file after checking it.

    Raises:
        SettingsError: the file can't be read, or holds an unknown setting.
    """
    if config is None:
        return ""
    load_run_config(config)
    return config.read_text()


def _of_init(found: Found, log: str) -> Cos2pError:
    """Return init's own error, without the details of its container."""
    error = why_dead(found, log)
    return type(error)(last_words(log).removeprefix("cos2p: "))
