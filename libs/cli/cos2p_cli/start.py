"""`cos2p init` and `cos2p run`: begin a run from a task and a run file, and run it from here.

Invariants: only a run file overrides the task's own settings. With external workers, planner and
aggregators still run here. Torch is then needed only for version 0 and the evaluator.
"""

import asyncio
import secrets
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cos2p.clock import Clock, SystemClock
from cos2p.errors import RunExistsError, SettingsError
from cos2p.history.read import run_of
from cos2p.history.run import RunHistory
from cos2p.run_config import load_run_config
from cos2p.settings import BusSettings
from cos2p_cli import figures, options, pool
from cos2p_cli.fleet import plain_devices
from cos2p_cli.local_run import LocalRun, RunSpec, claim, until_interrupted
from cos2p_cli.progress import RunProgress, form_of, waiting
from cos2p_cli.status import document
from cos2p_cli.supervisor import Crew


@dataclass(frozen=True)
class StartOptions:
    """The options of `cos2p init` and `cos2p run`.

    Attributes:
        task: the task's module:attribute or short name.
        config: a run file (TOML).
        run_id: the run's name; None makes one.
        data_dir: the task's data folder.
        workers: the number of workers to start here; 0 for external ones.
        memory_bytes: the memory that each worker's training may use; None to find out.
        folder: the folder for the processes' logs; None takes the embedded run's folder, or
            runs/RUN_ID.
        as_json: whether to print one JSON document.
        progress: whether to show a live screen.
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
    if config is None:
        return {}
    load_run_config(config)
    return tomllib.loads(config.read_text())


def init(settings: BusSettings, chosen: StartOptions) -> None:
    """Write version 0 and request the run.

    Raises:
        RunExistsError: this prefix holds a run already; with `if_absent`, one of another name.
        SettingsError: torch is missing, the task can't be loaded, or a setting is wrong.
    """
    pool.require_torch()
    if chosen.if_absent and not chosen.run_id:
        raise SettingsError("--if-absent needs --run-id: the run that may be there already")
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
        asyncio.run(_require_same(settings, run_id))
    if chosen.as_json:
        place = {"bus": settings.bus, "prefix": settings.prefix}
        options.print_json({"run_id": run_id, "made": made, **place})
        return
    if not made:
        print(f"run {run_id} is on {settings.bus} already, topics {settings.prefix}-*")
        return
    print(
        f"run {run_id} is asked for on {settings.bus}, topics {settings.prefix}-*\n"
        "start cos2p-planner, cos2p-aggregator and cos2p-worker there; watch with "
        "`cos2p status --follow`"
    )


async def _require_same(settings: BusSettings, run_id: str) -> None:
    """Refuse another run under this prefix.

    Raises:
        RunExistsError: this prefix holds another run. The text names both.
    """
    async with options.opened(settings) as bus:
        there = await run_of(bus, settings.prefix)
    if there != run_id:
        raise RunExistsError(
            f"the prefix {settings.prefix!r} belongs to run {there}, not to {run_id}: "
            "take another prefix"
        )


def run(settings: BusSettings, chosen: StartOptions) -> None:
    """Begin a run and follow it to its end.

    Raises:
        Cos2pError: an error stopped the run.
        KeyboardInterrupt: the user interrupted. The children have ended, the log is complete.
    """
    pool.require_torch()
    if chosen.workers < 0 or chosen.workers > 256:
        raise SettingsError("--workers must lie between 1 and 256")
    run_id = chosen.run_id or f"run-{secrets.token_hex(3)}"
    embedded = settings.bus.startswith("sqlite:")
    place = Path(settings.bus.removeprefix("sqlite:")) if embedded else Path("runs") / run_id
    folder = chosen.folder or place
    spec = RunSpec(
        task=chosen.task,
        run_id=run_id,
        folder=folder,
        settings=settings,
        changes=changes_of(chosen.config),
        data_dir=chosen.data_dir,
    )
    with claim(folder):
        try:
            asyncio.run(until_interrupted(lambda: _run(spec, chosen)))
        except asyncio.CancelledError:
            Console(stderr=True).print(
                f"stopped; no process is left. The log lies in {settings.bus}: planner, "
                "aggregator and workers would go on from there",
                soft_wrap=True,
                highlight=False,
            )
            raise KeyboardInterrupt from None


async def _run(spec: RunSpec, chosen: StartOptions) -> None:
    clock, console = SystemClock(), Console()
    form = form_of(console, as_json=chosen.as_json, progress=chosen.progress)
    async with (
        options.opened(spec.settings, must_exist=False) as bus,
        Crew(spec.folder / "logs", clock, pool.PRELOAD) as crew,
    ):
        local = LocalRun(spec, crew, bus, clock)
        with waiting(console, form, "loading PyTorch and writing version 0"):
            await local.initialise()
        local.start(plain_devices(chosen.workers, chosen.memory_bytes))
        with RunProgress(console, form, clock, "Ctrl-C stops all of the run's processes") as shown:
            known = await local.follow(shown.seen)
    _tell(console, spec, known, clock, as_json=chosen.as_json)


def _tell(
    console: Console, spec: RunSpec, known: RunHistory, clock: Clock, *, as_json: bool
) -> None:
    if as_json:
        options.print_json(
            {**document(known, clock.now()), "folder": str(spec.folder), "bus": spec.settings.bus}
        )
        return
    last = known.accuracy[-1] if known.accuracy else None
    accuracy = f", test accuracy {figures.percent(last.accuracy)}" if last else ""
    console.print(
        f"run {known.run_id}: version {known.version} ({known.end_reason}) after "
        f"{figures.duration(known.elapsed_s)}{accuracy}\n"
        f"report: cos2p report --bus {spec.settings.bus} --prefix {spec.settings.prefix}",
        soft_wrap=True,
        highlight=False,
    )
