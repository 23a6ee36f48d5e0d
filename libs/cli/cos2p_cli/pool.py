"""The work of a local run's forked children: the only part of the command line that needs torch.

Invariant: nothing of the worker is imported before a child calls one of these functions. The
command itself therefore never loads torch. The fork server has imported it once for all children.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cos2p.clock import SystemClock
from cos2p.errors import SettingsError
from cos2p.run_config import RunConfig
from cos2p.service.open_bus import open_bus
from cos2p.settings import BusSettings, WorkerSettings
from cos2p_cli import options
from cos2p_planner.presets import config_of

PRELOAD = (
    "torch._dynamo",
    "cos2p_worker.__main__",
    "cos2p_worker.alone",
    "cos2p_worker.evaluator",
    "cos2p_worker.torch_trainer",
)
"""Modules that the fork server imports once: torch, and what its optimisers import at first use."""


def require_torch() -> None:
    """Refuse to continue where the worker's packages are not installed.

    Raises:
        SettingsError: torch is missing. The text names the extra that installs it.
    """
    from importlib.util import find_spec

    try:
        found = find_spec("torch")
    except ValueError:
        found = None
    if found is None:
        raise SettingsError(
            "this needs PyTorch: install Co-S2P's extra `worker` (the demo: `demo`)"
        )


@dataclass(frozen=True)
class NewRunJob:
    """The input for version 0 of a run.

    Attributes:
        settings: the settings of the run's bus.
        task: the task's module:attribute or short name.
        run_id: the run's name.
        changes: settings that override the task's own, in sections as in a run file.
        data_dir: the user's data folder.
        source: the bus of the run whose newest version becomes version 0; None starts from new
            weights.
    """

    settings: BusSettings
    task: str
    run_id: str
    changes: Mapping[str, Any]
    data_dir: Path | None = None
    source: BusSettings | None = None


def initialise(job: NewRunJob) -> None:
    """Write version 0 and request the run.

    Raises:
        SettingsError: the task can't be loaded, a setting is wrong, or the source has no version.
        RunExistsError: there is a run already under this bus and prefix.
        BlobError: the source's newest checkpoint is damaged.
    """
    from cos2p_worker.initial import inherited_values
    from cos2p_worker.initial import initialise as begin
    from cos2p_worker.task import load_task

    task = load_task(job.task)
    config = config_of(task.run, job.changes)

    async def work() -> None:
        bus = open_bus(job.settings, SystemClock())
        try:
            # Without its data a run would fail in every worker. Fail here once instead.
            place = task.for_run(config).at(job.data_dir, config.seed)
            await asyncio.to_thread(place.evaluation_data)
            values = None
            if job.source is not None:
                async with options.opened(job.source) as old:
                    values = await inherited_values(old, job.source.prefix, place)
            await begin(bus, job.settings.prefix, job.task, place, config, job.run_id, values)
        finally:
            await bus.close()

    asyncio.run(work())


def work(settings: WorkerSettings) -> int:
    """Run a worker or the evaluator, by the settings, and return its exit code."""
    from cos2p_worker.__main__ import serve

    return serve(settings)


@dataclass(frozen=True)
class AloneJob:
    """The training of one worker by itself.

    Attributes:
        task: the task's module:attribute or short name.
        data_dir: the user's data folder.
        index: the number of the worker's part of the training data.
        count: the number of all parts.
        memory_bytes: the worker's budget.
        steps: the number of local steps.
        config: the run's settings.
        result: the file for the figures.
    """

    task: str
    data_dir: Path | None
    index: int
    count: int
    memory_bytes: int
    steps: int
    config: RunConfig
    result: Path


def alone(job: AloneJob) -> None:
    """Train one worker by itself and write its accuracy and submodel's size as JSON."""
    from cos2p.model.cost import CostModel
    from cos2p_worker.alone import train_alone, units_alone
    from cos2p_worker.task import load_task

    task = load_task(job.task).for_run(job.config).at(job.data_dir, job.config.seed)
    units = units_alone(task, job.config, job.memory_bytes, job.result.stem)
    shard = task.shard(job.index, job.count)
    accuracy = train_alone(task, shard, units, job.config, job.steps, job.config.seed)
    found = {
        "accuracy": accuracy,
        "steps": job.steps,
        "share": CostModel.of(task.units, job.config).share(units),
        "parameters": int(task.units.sizes[list(units)].sum()),
    }
    job.result.write_text(json.dumps(found))
