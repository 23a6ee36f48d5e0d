"""`cos2p demo`: eight unequal workers train one model that none of them can hold.

Invariants: every role is a process of its own. The comparison is trained in such processes too. An
interrupted demo leaves no process behind and prints where its part of the run is.
"""

import asyncio
import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cos2p.clock import Clock, SystemClock
from cos2p.errors import ExitCode, SettingsError
from cos2p.log.messages import RunRequested
from cos2p.model.cost import CostModel, plain_bytes
from cos2p.run_config import RunConfig
from cos2p.settings import BusSettings
from cos2p_cli import options, pool
from cos2p_cli.audit import audit_budgets
from cos2p_cli.demo_result import DemoResult, StandaloneResult, to_document, to_text
from cos2p_cli.fleet import LocalDevice, demo_devices, describe
from cos2p_cli.local_run import LocalRun, free_folder, in_folder, opened_run
from cos2p_cli.progress import form_of, waiting
from cos2p_cli.report import ReportInput, write

DEFAULT_FOLDER = Path("runs/demo")
ALONE_AT_ONCE = 2


@dataclass(frozen=True)
class DemoOptions:
    """The options of `cos2p demo`."""

    task: str = "digits"
    workers: int = 8
    bus: str | None = None
    folder: Path | None = None
    seed: int = 0
    data_dir: Path | None = None
    versions: int | None = None
    as_json: bool = False
    progress: bool = True
    keep: bool = False


def run(chosen: DemoOptions) -> int:
    """Run the demo to its end and return the exit code, which is not 0 if a budget was broken.

    Raises:
        Cos2pError: an error stopped the demo.
        KeyboardInterrupt: the user interrupted. The children have ended; a line names the folder.
    """
    pool.require_torch()
    settings, folder = _places(chosen)
    demo = Demo(chosen, settings, folder)
    stopped = (
        f"stopped; no process is left. The run so far is in {folder}: cos2p status --bus {folder}"
    )
    sound = in_folder(folder, demo.run, stopped)
    return int(ExitCode.OK if sound else ExitCode.RUN_FAILED)


def _places(chosen: DemoOptions) -> tuple[BusSettings, Path]:
    """Return the bus and the folder. Without a name the folder is a new one."""
    bus = options.address(chosen.bus) or ""
    embedded = options.embedded_path(bus)
    if embedded is not None and embedded.suffix == ".sqlite":
        raise SettingsError(f"{embedded} is an archive's name: a run needs a folder")
    folder = chosen.folder or embedded or free_folder(DEFAULT_FOLDER)
    prefix = f"cos2p-demo-{secrets.token_hex(3)}" if bus.startswith("kafka:") else None
    return options.settings_of(bus or str(folder), prefix), folder


class Demo:
    """One demo."""

    def __init__(self, chosen: DemoOptions, settings: BusSettings, folder: Path) -> None:
        self._chosen, self._settings, self._folder = chosen, settings, folder
        self._console = Console()
        self._form = form_of(self._console, as_json=chosen.as_json, progress=chosen.progress)
        self._clock: Clock = SystemClock()
        self._began_s = self._clock.now()

    async def run(self) -> bool:
        """Run the whole demo and return whether every device kept within its budget."""
        job = pool.NewRunJob(
            self._settings,
            self._chosen.task,
            f"demo-{secrets.token_hex(3)}",
            self._changes(),
            self._chosen.data_dir,
            show_exits=True,
        )
        async with opened_run(job, self._folder, self._console, self._form) as local:
            request = await local.initialise()
            devices = local.start(request, demo_devices(self._chosen.workers))
            self._print_opening(request, devices)
            await local.follow()
            alone = await self._train_standalone(local, request.config, devices)
            result = await self._result(local, devices, alone)
        self._print(result)
        return not result.audit.findings

    def _changes(self) -> dict[str, Any]:
        rounds: dict[str, Any] = {}
        if self._chosen.versions is not None:
            rounds["versions"] = self._chosen.versions
        return {
            "seed": self._chosen.seed,
            "rounds": rounds,
            "liveness": {
                "min_workers": self._chosen.workers,
                "heartbeat_s": 1.0,
                "lost_after_s": 10.0,
                "stall_after_s": 60.0,
            },
        }

    def _print_opening(self, request: RunRequested, devices: Sequence[LocalDevice]) -> None:
        if self._chosen.as_json:
            return
        table = request.units.table()
        cost = CostModel.of(table, request.config)
        whole = plain_bytes(cost.memory_for_fraction(1.0))
        first, *others = describe(devices)
        title = f"{len(devices)} unequal workers train one model that none of them can hold."
        lines = [
            f"  task     {request.task}, data split over the workers (seed {self._chosen.seed})",
            f"  model    {table.parameter_count:,} parameters in {len(table)} units; to train "
            f"all of it takes {whole}",
            f"  devices  {first}",
            *(f"           {line}" for line in others),
            "           (a sleep after each step makes a device slower)",
            f"  bus      {self._settings.bus}, topics {self._settings.prefix}-*",
            "",
        ]
        options.print_line(self._console, title, "bold")
        options.print_line(self._console, "\n".join(lines))

    async def _train_standalone(
        self, local: LocalRun, config: RunConfig, devices: Sequence[LocalDevice]
    ) -> list[StandaloneResult]:
        """Train each worker by itself: on its data, in its budget, as many steps as in the run."""
        folder = self._folder / "alone"
        folder.mkdir(exist_ok=True)
        rows = local.history.devices
        jobs = [
            pool.StandaloneJob(
                task=self._chosen.task,
                data_dir=self._chosen.data_dir,
                device=device,
                count=len(devices),
                steps=max(1, rows[device.worker_id].steps),
                config=config,
                result=folder / f"{device.worker_id}.json",
            )
            for device in devices
            if device.worker_id in rows
        ]
        turn = asyncio.Semaphore(ALONE_AT_ONCE)

        async def one(job: pool.StandaloneJob) -> StandaloneResult:
            async with turn:
                child = local.child_processes.fork(
                    f"alone-{job.device.worker_id}", "job", pool.alone, job
                )
                await local.child_processes.finished(child)
            return StandaloneResult(job.device.worker_id, **json.loads(job.result.read_text()))

        with waiting(self._console, self._form, "each worker alone, for comparison"):
            return list(await asyncio.gather(*(one(job) for job in jobs)))

    async def _result(
        self, local: LocalRun, devices: Sequence[LocalDevice], alone: Sequence[StandaloneResult]
    ) -> DemoResult:
        audit = await audit_budgets(local.bus, self._settings.prefix)
        page = ReportInput(
            run=local.history,
            place=f"{self._settings.bus}, topics {self._settings.prefix}-*",
            audit=audit,
            alone={a.worker_id: a.accuracy for a in alone},
            shares={d.worker_id: d.kind.share for d in devices if d.kind},
        )
        return DemoResult(
            run=local.history,
            audit=audit,
            devices=devices,
            alone=alone,
            folder=self._folder,
            bus=self._settings.bus,
            prefix=self._settings.prefix,
            report=write(page, self._folder / "report.html"),
            seconds=self._clock.now() - self._began_s,
            notes=tuple(local.child_processes.notes),
        )

    def _print(self, result: DemoResult) -> None:
        if not self._chosen.keep:
            shutil.rmtree(self._folder / "scratch", ignore_errors=True)
        document = to_document(result, self._clock.now())
        (self._folder / "summary.json").write_text(json.dumps(document, indent=2) + "\n")
        if self._chosen.as_json:
            options.print_json(document)
        else:
            self._console.print(to_text(result, self._console.width))
