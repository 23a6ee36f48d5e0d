"""A run whose processes are all on this machine: planner, aggregators, evaluator, workers.

Invariants: a folder belongs to one run, and to one command at a time. An existing run is never
overwritten. The children end with the command, for any reason of its end.
"""

import asyncio
import contextlib
import errno
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from cos2p.clock import SystemClock
from cos2p.errors import RunExistsError, RunFailedError, StorageError, TopicMissingError
from cos2p.history.follow import HistoryReader
from cos2p.history.read import letters
from cos2p.history.run import RunHistory
from cos2p.log.bus import Bus
from cos2p.log.buses.run_lock import RunLock
from cos2p.log.messages import RunRequested
from cos2p.log.topics import FLEET
from cos2p.model.cost import CostModel
from cos2p.settings import WorkerSettings, load_settings
from cos2p_cli import options, pool
from cos2p_cli.fleet import LocalDevice
from cos2p_cli.pool import NewRunJob
from cos2p_cli.progress import Form, RunProgress, waiting
from cos2p_cli.supervisor import Child, ChildProcesses

REFRESH_S = 0.25
LAST_EVALUATION_S = 20.0
"""How long the evaluator may take for the last version after the run has finished."""
LEAVE_S = 15.0
"""How long the roles may take to end by themselves after the run has finished."""

T = TypeVar("T")


def in_folder(folder: Path, work: Callable[[], Awaitable[T]], stopped: str) -> T:
    """Run the coroutine `work()` in a folder that is claimed for it.

    SIGINT and SIGTERM cancel it, so that it can clean up. Then `stopped` is printed.

    Raises:
        RunExistsError, StorageError: see `claim`.
        KeyboardInterrupt: the user interrupted.
    """
    with claim(folder):
        try:
            return asyncio.run(_cancelled_by_signals(work))
        except asyncio.CancelledError:
            options.print_line(Console(stderr=True), stopped)
            raise KeyboardInterrupt from None


async def _cancelled_by_signals(work: Callable[[], Awaitable[T]]) -> T:
    task = asyncio.ensure_future(work())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


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
            f"{folder} holds a run already, and a run is never overwritten: take another folder, "
            f"for instance --dir {free_folder(folder)}, or look at the run with "
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

    def __init__(
        self,
        job: NewRunJob,
        folder: Path,
        child_processes: ChildProcesses,
        bus: Bus,
        console: Console,
        form: Form,
    ) -> None:
        self._job, self._folder, self.child_processes, self.bus = job, folder, child_processes, bus
        self._clock, self._console, self._form = SystemClock(), console, form
        self._reader = HistoryReader(bus, job.settings.prefix, history=RunHistory(rows_max=None))
        self._roles: list[Child] = []

    @property
    def history(self) -> RunHistory:
        """The history of the run so far, with all versions."""
        return self._reader.history

    async def initialise(self) -> RunRequested:
        """Write version 0 and request the run, in a forked process that has torch.

        Raises:
            ChildError: the task can't be loaded, or this prefix holds a run already.
        """
        with waiting(self._console, self._form, "loading PyTorch and writing version 0"):
            await self._require_broker()
            child = self.child_processes.fork("init", "job", pool.initialise, self._job)
            await self.child_processes.finished(child)
        async for letter in letters(self.bus, self._job.settings.prefix, FLEET):
            if isinstance(letter.message, RunRequested):
                return letter.message
        raise RunFailedError(f"version 0 was not written; see {child.log}")

    async def _require_broker(self) -> None:
        """Check that the broker answers before loading torch, which takes seconds."""
        if self._job.settings.bus.startswith("kafka:"):
            with contextlib.suppress(TopicMissingError):
                await self.bus.end_offsets(FLEET.full_name(self._job.settings.prefix))

    def start(self, request: RunRequested, devices: Sequence[LocalDevice]) -> Sequence[LocalDevice]:
        """Start planner, aggregators, evaluator and workers; return these with their budgets.

        Raises:
            BudgetError: a device's budget is below the smallest submodel.
        """
        cost = CostModel.of(request.units.table(), request.config)
        devices = [with_budget(device, cost) for device in devices]
        env = {
            "COS2P_BUS": self._job.settings.bus,
            "COS2P_PREFIX": self._job.settings.prefix,
            "COS2P_LOG_FORMAT": "json",
            "COS2P_LOG_LEVEL": "info",
        }
        self._roles.append(self.child_processes.start_service("planner", "cos2p_planner", env))
        for shard in range(request.config.merge.shards):
            name = "aggregator" if not shard else f"aggregator-{shard}"
            shard_env = {**env, "COS2P_SHARD": str(shard)}
            self._roles.append(
                self.child_processes.start_service(name, "cos2p_aggregator", shard_env)
            )
        evaluator = self._worker_settings("evaluator", evaluate=True)
        self._roles.append(self.child_processes.fork("evaluator", "service", pool.work, evaluator))
        for device in devices:
            settings = self._worker_settings(
                device.worker_id,
                shard_index=device.index,
                shard_count=len(devices),
                device_class=device.kind.name if device.kind else None,
                memory_bytes=device.memory_bytes,
                slowdown=device.kind.slowdown if device.kind else None,
            )
            self._roles.append(
                self.child_processes.fork(device.worker_id, "worker", pool.work, settings)
            )
        return devices

    def _worker_settings(self, worker_id: str, **given: object) -> WorkerSettings:
        settings = self._job.settings
        scratch = self._folder / "scratch" / worker_id
        try:
            scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise StorageError(f"can't make {scratch}: {reason}") from error
        known = settings.model_dump(exclude_unset=True)
        return load_settings(
            WorkerSettings,
            **{**known, "bus": settings.bus, "prefix": settings.prefix},
            worker_id=worker_id,
            task=self._job.task,
            data_dir=self._job.data_dir,
            scratch_dir=scratch,
            log_format="json",
            **given,
        )

    async def follow(self) -> RunHistory:
        """Show the run until its end.

        Raises:
            RunFailedError: the run ended before its target.
            ChildError: a role ended with an error.
        """
        run = self.history
        note = "Ctrl-C stops all of the run's processes"
        with RunProgress(self._console, self._form, self._clock, note) as progress:
            while run.phase != "finished":
                await self._look(progress)
                self._require_workers()
                await self._clock.sleep(REFRESH_S)
            end = self._clock.now() + LAST_EVALUATION_S
            while self._last_evaluation_due() and self._clock.now() < end:
                await self._clock.sleep(REFRESH_S)
                await self._look(progress)
            # The roles' last messages belong in the report.
            await self.child_processes.finished(*self._roles, deadline_s=LEAVE_S)
            await self._look(progress)
        if run.end_reason not in ("target", "stopped"):
            raise RunFailedError(
                f"the run ended at version {run.version} of {run.target} "
                f"({run.end_reason}): {run.end_detail or 'no detail'}"
            )
        return run

    async def _look(self, progress: RunProgress) -> None:
        await self._reader.poll()
        self.child_processes.check()
        progress.on_update(self.history, self.child_processes.notes)

    def _require_workers(self) -> None:
        workers = [c for c in self._roles if c.kind == "worker"]
        over = workers and not any(c.running for c in workers)
        if over and self.history.phase == "running":
            raise RunFailedError(
                f"all {len(workers)} workers have ended at version {self.history.version}: "
                f"see {workers[0].log.parent}"
            )

    def _last_evaluation_due(self) -> bool:
        run = self.history
        judged = run.accuracy and run.accuracy[-1].version >= run.version
        return not judged and any(c.running for c in self._roles if c.name == "evaluator")


@asynccontextmanager
async def opened_run(
    job: NewRunJob, folder: Path, console: Console, form: Form
) -> AsyncIterator[LocalRun]:
    """Open a run's bus for its processes. At the end all of them are stopped.

    The folder is for logs, report and, on the embedded bus, the log of the run.
    """
    async with (
        options.opened(job.settings, must_exist=False) as bus,
        ChildProcesses(folder / "logs", SystemClock(), pool.PRELOAD) as child_processes,
    ):
        yield LocalRun(job, folder, child_processes, bus, console, form)


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
