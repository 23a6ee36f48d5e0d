"""A run whose processes are all on this machine: planner, aggregators, evaluator, workers.

Invariants: a folder belongs to one run, and to one command at a time. An existing run is never
overwritten. The children end with the command, for any reason of its end.
"""

import asyncio
import contextlib
import errno
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cos2p.clock import Clock
from cos2p.errors import RunExistsError, RunFailedError, StorageError, TopicMissingError
from cos2p.history.follow import HistoryReader
from cos2p.history.read import letters
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.log.buses.run_lock import RunLock
from cos2p.log.messages import RunRequested
from cos2p.log.topics import FLEET
from cos2p.model.cost import CostModel
from cos2p.settings import BusSettings, WorkerSettings, load_settings
from cos2p_cli import pool
from cos2p_cli.fleet import LocalDevice
from cos2p_cli.supervisor import Child, Crew

REFRESH_S = 0.25
LAST_EVALUATION_S = 20.0
"""How long the evaluator may take for the last version after the run has finished."""
LEAVE_S = 15.0
"""How long the roles may take to end by themselves after the run has finished."""

Seen = Callable[[RunHistory, Sequence[str]], None]
"""A callback that receives the run and the crew's notes at each refresh."""


@dataclass(frozen=True)
class RunSpec:
    """The specification of a local run.

    Attributes:
        task: the task's module:attribute or short name.
        run_id: the run's name.
        folder: the folder for logs, report and, on the embedded bus, the log of the run.
        settings: the settings of the bus.
        changes: settings that override the task's own, in sections as in a run file.
        data_dir: the user's data folder, if any.
        evaluate: whether to start an evaluator.
    """

    task: str
    run_id: str
    folder: Path
    settings: BusSettings
    changes: Mapping[str, Any] = field(default_factory=dict)
    data_dir: Path | None = None
    evaluate: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a service of this run needs."""
        return {
            "COS2P_BUS": self.settings.bus,
            "COS2P_PREFIX": self.settings.prefix,
            "COS2P_LOG_FORMAT": "json",
            "COS2P_LOG_LEVEL": "info",
        }


def claim(folder: Path) -> RunLock:
    """Take a folder for a new run.

    Raises:
        RunExistsError: a run is stored there, or another command uses the folder.
        StorageError: the folder can't be written.
    """
    lock = RunLock(folder)
    lock.acquire("a local run")
    if (folder / "log.sqlite").exists():
        lock.release()
        raise RunExistsError(
            f"{folder} holds a run already, and a run is never written over: take another "
            f"folder, for instance --dir {free_folder(folder)}, or look at it with "
            f"`cos2p status --bus {folder}`"
        )
    return lock


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or that name with the first number that is free."""
    candidate, number = wanted, 1
    while candidate.exists():
        number += 1
        candidate = wanted.with_name(f"{wanted.name}-{number}")
    return candidate


class LocalRun:
    """One run and its processes. Use `initialise`, `start`, then `follow`."""

    def __init__(self, spec: RunSpec, crew: Crew, bus: Bus, clock: Clock) -> None:
        self.spec = spec
        self.crew = crew
        self._bus, self._clock = bus, clock
        self.reader = HistoryReader(bus, spec.settings.prefix, history=RunHistory(rows_max=None))
        self.request: RunRequested | None = None
        self.roles: list[Child] = []

    async def initialise(self) -> RunRequested:
        """Write version 0 and request the run, in a forked process that has torch.

        Raises:
            ChildError: the task can't be loaded, or this prefix holds a run already.
        """
        spec = self.spec
        await self._require_broker()
        job = pool.NewRunJob(
            spec.settings, spec.task, spec.run_id, dict(spec.changes), spec.data_dir
        )
        child = self.crew.fork("init", "job", pool.initialise, job)
        await self.crew.finished(child)
        async for letter in letters(self._bus, spec.settings.prefix, FLEET):
            if isinstance(letter.message, RunRequested):
                self.request = letter.message
                return letter.message
        raise RunFailedError(f"version 0 was not written; see {child.log}")

    async def _require_broker(self) -> None:
        """Check that the broker answers before loading torch, which takes seconds."""
        if self.spec.settings.bus.startswith("kafka:"):
            with contextlib.suppress(TopicMissingError):
                await self._bus.end_offsets(FLEET.full_name(self.spec.settings.prefix))

    def start(self, devices: Sequence[LocalDevice]) -> None:
        """Start planner, aggregators, evaluator and workers.

        Raises:
            BudgetError: a device's budget is below the smallest submodel.
        """
        assert self.request is not None
        cost = CostModel.of(self.request.units.table(), self.request.config)
        sized = [with_budget(d, cost) for d in devices]
        env = self.spec.environment
        self.roles.append(self.crew.start_service("planner", "cos2p_planner", env))
        for shard in range(self.request.config.merge.shards):
            name = "aggregator" if not shard else f"aggregator-{shard}"
            shard_env = {**env, "COS2P_SHARD": str(shard)}
            self.roles.append(self.crew.start_service(name, "cos2p_aggregator", shard_env))
        if self.spec.evaluate:
            settings = self._worker_settings("evaluator", evaluate=True)
            self.roles.append(
                self.crew.fork("evaluator", "service", pool.work, settings, again=True)
            )
        for device in sized:
            settings = self._worker_settings(
                device.worker_id,
                shard_index=device.index,
                shard_count=len(devices),
                device_class=device.kind.name if device.kind else None,
                memory_bytes=device.memory_bytes,
                slowdown=device.kind.slowdown if device.kind else None,
            )
            self.roles.append(self.crew.fork(device.worker_id, "worker", pool.work, settings))

    def _worker_settings(self, worker_id: str, **given: object) -> WorkerSettings:
        spec = self.spec
        scratch = spec.folder / "scratch" / worker_id
        try:
            scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise StorageError(f"can't make {scratch}: {reason}") from error
        known = spec.settings.model_dump(exclude_unset=True)
        return load_settings(
            WorkerSettings,
            **{**known, "bus": spec.settings.bus, "prefix": spec.settings.prefix},
            worker_id=worker_id,
            task=spec.task,
            data_dir=spec.data_dir,
            scratch_dir=scratch,
            log_format="json",
            **given,
        )

    async def follow(self, seen: Seen) -> RunHistory:
        """Watch the run to its end.

        Raises:
            RunFailedError: the run ended before its target.
            ChildError: a role ended with an error.
        """
        run = self.reader.history
        while run.phase != "finished":
            await self.reader.poll()
            self.crew.check()
            self._require_workers()
            seen(run, self.crew.notes)
            await self._clock.sleep(REFRESH_S)
        await self._await_last_evaluation(seen)
        await self._leave()
        await self.reader.poll()
        seen(run, self.crew.notes)
        if run.end_reason not in ("target", "stopped"):
            raise RunFailedError(
                f"the run ended at version {run.version} of {run.target} "
                f"({run.end_reason}): {run.end_detail or 'no detail'}"
            )
        return run

    def _require_workers(self) -> None:
        workers = [c for c in self.roles if c.kind == "worker"]
        if (
            workers
            and not any(c.running for c in workers)
            and self.reader.history.phase == "running"
        ):
            raise RunFailedError(
                f"all {len(workers)} workers have ended at version {self.reader.history.version}: "
                f"see {workers[0].log.parent}"
            )

    async def _await_last_evaluation(self, seen: Seen) -> None:
        run = self.reader.history
        end = self._clock.now() + LAST_EVALUATION_S
        while (
            self.spec.evaluate
            and (not run.accuracy or run.accuracy[-1].version < run.version)
            and any(c.running for c in self.roles if c.name == "evaluator")
            and self._clock.now() < end
        ):
            await self._clock.sleep(REFRESH_S)
            await self.reader.poll()
            self.crew.check()
            seen(run, self.crew.notes)

    async def _leave(self) -> None:
        """Give the roles time to end, because their last messages belong in the report."""
        await self.crew.finished(*self.roles, deadline_s=LEAVE_S)


def with_budget(device: LocalDevice, cost: CostModel) -> LocalDevice:
    """Return the device with its budget in bytes, set by the share of its class if it has one.

    Raises:
        BudgetError: no submodel fits. The text names a budget that would.
    """
    if device.kind is not None:
        device = replace(device, memory_bytes=cost.memory_for_fraction(device.kind.share))
    if device.memory_bytes is not None:
        cost.require(device.memory_bytes, device.worker_id)
    return device


async def until_interrupted(work: Callable[[], Any]) -> Any:
    """Run the coroutine `work()` so that SIGINT and SIGTERM cancel it and it can clean up."""
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
