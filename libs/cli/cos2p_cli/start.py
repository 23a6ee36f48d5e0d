"""`cos2p init` and `cos2p run`: start a run from a task and a run file.

Invariants: only a run file overrides the task's own settings. With external workers, planner and
aggregators still run here. Torch is then needed only for version 0 and the evaluator.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cos2p.clock import SystemClock
from cos2p.errors import RunExistsError, SettingsError
from cos2p.history.read import run_of
from cos2p.run_config import load_run_config
from cos2p.settings import BusSettings
from cos2p_cli import figures, options, pool
from cos2p_cli.fleet import plain_devices
from cos2p_cli.local_run import in_folder, opened_run
from cos2p_cli.progress import form_of
from cos2p_cli.status import document


@dataclass(frozen=True)
class StartOptions:
    """The options of `cos2p init` and `cos2p run`.

    Attributes:
        run_id: the run's name; None makes one.
        workers: the number of workers to start here; 0 for external ones.
        memory_bytes: the memory that each worker's training may use; None to find out.
        folder: the folder for logs; None takes the embedded run's folder, or runs/RUN_ID.
        if_absent: whether an existing run of this name is accepted.
        source: the bus of the run whose newest version becomes version 0.
    """

    task: str
    config: Path | None = None
    run_id: str | None = None
    data_dir: Path | None = None
    workers: int = 0
    memory_bytes: int | None = None
    folder: Path | None = None
    as_json: bool = False
    progress: bool = True
    if_absent: bool = False
    source: BusSettings | None = None


def changes_of(config: Path | None) -> dict[str, Any]:
    """Return the sections of a run file.

    Raises:
        SettingsError: the file can't be read, or holds an unknown setting.
    """
    return load_run_config(config).model_dump(exclude_unset=True) if config else {}


def init(settings: BusSettings, chosen: StartOptions) -> None:
    """Write version 0 and request the run.

    Raises:
        RunExistsError: this prefix holds a run already; with `if_absent`, one of another name.
        SettingsError: torch is missing, the task can't be loaded, or a setting is wrong.
    """
    pool.require_torch()
    if chosen.if_absent and not chosen.run_id:
        raise SettingsError("--if-absent needs --run-id: name the run that may exist already")
    run_id = chosen.run_id or f"run-{secrets.token_hex(3)}"
    changes = changes_of(chosen.config)
    made = True
    try:
        pool.initialise(
            pool.NewRunJob(settings, chosen.task, run_id, changes, chosen.data_dir, chosen.source)
        )
    except RunExistsError:
        if not chosen.if_absent:
            raise
        made = False
        _require_same(settings, run_id)
    if chosen.as_json:
        place = {"bus": settings.bus, "prefix": settings.prefix}
        options.print_json({"run_id": run_id, "made": made, **place})
    elif made:
        print(
            f"run {run_id} is requested on {settings.bus}, topics {settings.prefix}-*\n"
            "start cos2p-planner, cos2p-aggregator and cos2p-worker there; watch with "
            "`cos2p status --follow`"
        )
    else:
        print(f"run {run_id} exists already on {settings.bus}, topics {settings.prefix}-*")


@options.blocking
async def _require_same(settings: BusSettings, run_id: str) -> None:
    async with options.opened(settings) as bus:
        there = await run_of(bus, settings.prefix)
    if there != run_id:
        raise RunExistsError(
            f"the prefix {settings.prefix!r} belongs to run {there}, not to {run_id}: "
            "choose another prefix"
        )


def run(settings: BusSettings, chosen: StartOptions) -> None:
    """Start a run and follow it to its end.

    Raises:
        Cos2pError: an error stopped the run.
        KeyboardInterrupt: the user interrupted. The children have ended, the log is complete.
    """
    pool.require_torch()
    run_id = chosen.run_id or f"run-{secrets.token_hex(3)}"
    folder = chosen.folder or options.embedded_path(settings.bus) or Path("runs") / run_id
    changes = changes_of(chosen.config)
    job = pool.NewRunJob(settings, chosen.task, run_id, changes, chosen.data_dir)
    stopped = (
        f"stopped; no process is left. The log is in {settings.bus}: planner, aggregator and "
        "workers that you start there continue the run"
    )
    in_folder(folder, lambda: _run(job, folder, chosen), stopped)


async def _run(job: pool.NewRunJob, folder: Path, chosen: StartOptions) -> None:
    console = Console()
    form = form_of(console, as_json=chosen.as_json, progress=chosen.progress)
    async with opened_run(job, folder, console, form) as local:
        request = await local.initialise()
        local.start(request, plain_devices(chosen.workers, chosen.memory_bytes))
        run = await local.follow()
    if chosen.as_json:
        place = {"folder": str(folder), "bus": job.settings.bus}
        options.print_json({**document(run, SystemClock().now()), **place})
        return
    last = run.accuracy[-1] if run.accuracy else None
    accuracy = f", test accuracy {figures.percent(last.accuracy)}" if last else ""
    options.print_line(
        console,
        f"run {run.run_id}: version {run.version} ({run.end_reason}) after "
        f"{figures.duration(run.elapsed_s)}{accuracy}\n"
        f"report: cos2p report --bus {job.settings.bus} --prefix {job.settings.prefix}",
    )
