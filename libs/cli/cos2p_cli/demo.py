"""`cos2p demo`: eight unequal workers train one model that none of them can hold.

Invariants: every role is a process of its own. The comparison is trained in such processes too. An
interrupted demo leaves no process behind and prints where its part of the run lies.
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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from cos2p.clock import Clock, SystemClock
from cos2p.errors import ExitCode, SettingsError
from cos2p.log.bus import Bus
from cos2p.log.messages import RunRequested
from cos2p.model.cost import CostModel, plain_bytes
from cos2p.settings import BusSettings
from cos2p_cli import options, pool
from cos2p_cli.audit import audit_budgets
from cos2p_cli.demo_result import Alone, DemoResult, to_document, to_text
from cos2p_cli.fleet import LocalDevice, demo_devices, describe
from cos2p_cli.local_run import (
    LocalRun,
    RunSpec,
    claim,
    free_folder,
    until_interrupted,
    with_budget,
)
from cos2p_cli.progress import RunProgress, form_of, waiting
from cos2p_cli.report import ReportInput, write
from cos2p_cli.supervisor import Crew

DEFAULT_FOLDER = Path("runs/demo")
WORKERS_MAX = 64
ALONE_AT_ONCE = 2
EXITS = {"weight": 0.1}
"""A small weight: the exits are here to be shown, and their losses must not cost much accuracy."""
LOADING = "loading PyTorch, once for all workers, and writing version 0"


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
    if not 1 <= chosen.workers <= WORKERS_MAX:
        raise SettingsError(f"--workers must lie between 1 and {WORKERS_MAX}")
    settings, folder = _places(chosen)
    with claim(folder):
        demo = Demo(chosen, settings, folder)
        try:
            sound = asyncio.run(until_interrupted(demo.run))
        except asyncio.CancelledError:
            demo.interrupted()
            raise KeyboardInterrupt from None
    return int(ExitCode.OK if sound else ExitCode.RUN_FAILED)


def _places(chosen: DemoOptions) -> tuple[BusSettings, Path]:
    """Return the bus and the folder. Without a name the folder is a new one."""
    bus = options.address(chosen.bus)
    embedded = Path(bus.removeprefix("sqlite:")) if bus and bus.startswith("sqlite:") else None
    if embedded is not None and embedded.suffix == ".sqlite":
        raise SettingsError(f"{embedded} is an archive's name: a run needs a folder")
    folder = chosen.folder or embedded or free_folder(DEFAULT_FOLDER)
    if bus is None:
        bus = f"sqlite:{folder}"
    prefix = f"cos2p-demo-{secrets.token_hex(3)}" if bus.startswith("kafka:") else None
    return options.settings_of(bus, prefix), folder


class Demo:
    """One demo."""

    def __init__(self, chosen: DemoOptions, settings: BusSettings, folder: Path) -> None:
        self._chosen, self._settings, self._folder = chosen, settings, folder
        self._console = Console()
        self._form = form_of(self._console, as_json=chosen.as_json, progress=chosen.progress)
        self._clock: Clock = SystemClock()
        self._began_s = self._clock.now()
        self._crew = Crew(folder / "logs", self._clock, pool.PRELOAD)

    async def run(self) -> bool:
        """Run the whole demo and return whether every device kept within its budget."""
        devices = demo_devices(self._chosen.workers)
        spec = RunSpec(
            task=self._chosen.task,
            run_id=f"demo-{secrets.token_hex(3)}",
            folder=self._folder,
            settings=self._settings,
            changes=self._changes(),
            data_dir=self._chosen.data_dir,
        )
        async with (
            options.opened(self._settings, must_exist=False) as bus,
            self._crew as crew,
        ):
            local = LocalRun(spec, crew, bus, self._clock)
            with waiting(self._console, self._form, LOADING):
                request = await local.initialise()
            cost = CostModel.of(request.units.table(), request.config)
            devices = [with_budget(d, cost) for d in devices]
            self._say(self._opening(request, cost, devices))
            local.start(devices)
            note = "Ctrl-C stops the demo and all of its processes"
            with RunProgress(self._console, self._form, self._clock, note) as progress:
                await local.follow(progress.seen)
            alone = await self._train_alone(crew, spec, local, devices)
            result = await self._result(bus, local, devices, alone)
        self._tell(result)
        return not result.audit.findings

    def _changes(self) -> dict[str, Any]:
        """Return the settings that the demo changes in the run's configuration."""
        rounds: dict[str, Any] = {}
        if self._chosen.versions is not None:
            rounds["versions"] = self._chosen.versions
        return {
            "seed": self._chosen.seed,
            "rounds": rounds,
            "local": {"objective": "exits", "exits": EXITS},
            "liveness": {
                "min_workers": self._chosen.workers,
                "heartbeat_s": 1.0,
                "lost_after_s": 10.0,
                "stall_after_s": 60.0,
            },
        }

    def _opening(
        self, request: RunRequested, cost: CostModel, devices: Sequence[LocalDevice]
    ) -> list[Text]:
        table = cost.table
        whole = plain_bytes(cost.memory_for_fraction(1.0))
        first, *others = describe(devices)
        return [
            Text(
                f"{len(devices)} unequal workers train one model that none of them can hold.",
                style="bold",
            ),
            Text(
                f"  task     {request.task}, labels dealt out unequally (seed {self._chosen.seed})"
            ),
            Text(
                f"  model    {table.parameter_count:,} parameters in {len(table)} units; to train "
                f"all of it takes {whole}"
            ),
            Text(f"  devices  {first}"),
            *(Text(f"           {line}") for line in others),
            Text("           (a slower device is played by a sleep after each step)", style="dim"),
            Text(f"  bus      {self._settings.bus}, topics {self._settings.prefix}-*"),
            Text(""),
        ]

    async def _train_alone(
        self, crew: Crew, spec: RunSpec, local: LocalRun, devices: Sequence[LocalDevice]
    ) -> list[Alone]:
        """Train each worker by itself: on its data, in its budget, as many steps as in the run."""
        assert local.request is not None
        folder = self._folder / "alone"
        folder.mkdir(exist_ok=True)
        jobs = [
            pool.AloneJob(
                task=spec.task,
                data_dir=spec.data_dir,
                index=device.index,
                count=len(devices),
                memory_bytes=device.memory_bytes or 0,
                steps=max(1, local.reader.history.devices[device.worker_id].steps),
                config=local.request.config,
                result=folder / f"{device.worker_id}.json",
            )
            for device in devices
            if device.worker_id in local.reader.history.devices
        ]
        turn = asyncio.Semaphore(ALONE_AT_ONCE)
        if self._form == "lines":
            self._console.print("each worker alone, for comparison")
        with Progress(
            TextColumn("each worker alone, for comparison"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            disable=self._form != "live",
        ) as bar:
            task = bar.add_task("alone", total=len(jobs))

            async def one(job: pool.AloneJob) -> Alone:
                async with turn:
                    child = crew.fork(f"alone-{job.result.stem}", "job", pool.alone, job)
                    await crew.finished(child)
                    bar.advance(task)
                    return Alone(worker_id=job.result.stem, **json.loads(job.result.read_text()))

            return list(await asyncio.gather(*(one(job) for job in jobs)))

    async def _result(
        self, bus: Bus, local: LocalRun, devices: Sequence[LocalDevice], alone: Sequence[Alone]
    ) -> DemoResult:
        audit = await audit_budgets(bus, self._settings.prefix)
        page = ReportInput(
            run=local.reader.history,
            place=f"{self._settings.bus}, topics {self._settings.prefix}-*",
            audit=audit,
            alone={a.worker_id: a.accuracy for a in alone},
            shares={d.worker_id: d.kind.share for d in devices if d.kind},
        )
        return DemoResult(
            run=local.reader.history,
            audit=audit,
            devices=devices,
            alone=alone,
            folder=self._folder,
            bus=self._settings.bus,
            prefix=self._settings.prefix,
            report=write(page, self._folder / "report.html"),
            seconds=self._clock.now() - self._began_s,
            notes=tuple(self._crew.notes),
        )

    def _tell(self, result: DemoResult) -> None:
        if not self._chosen.keep:
            shutil.rmtree(self._folder / "scratch", ignore_errors=True)
        document = to_document(result, self._clock.now())
        (self._folder / "summary.json").write_text(json.dumps(document, indent=2) + "\n")
        if self._chosen.as_json:
            options.print_json(document)
        else:
            self._console.print(to_text(result, self._console.width))

    def _say(self, lines: Sequence[Text]) -> None:
        if not self._chosen.as_json:
            for line in lines:
                self._console.print(line, highlight=False, soft_wrap=True)

    def interrupted(self) -> None:
        """Print what is left after Ctrl-C."""
        Console(stderr=True).print(
            f"stopped; no process is left. The run so far lies in {self._folder}: "
            f"cos2p status --bus {self._folder}",
            highlight=False,
            soft_wrap=True,
        )
