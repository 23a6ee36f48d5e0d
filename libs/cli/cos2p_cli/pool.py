"""What forked children of a local run do: the only part of the command line that needs torch.

Invariant: nothing of the worker is imported before a child calls one of these, so that the command
itself never loads torch; the fork server has imported it once for all of them.
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
"""Imported once by the fork server: torch, and what its optimisers import when first used."""


def require_torch() -> None:
    """Refuse where the worker's packages are not installed.

    Raises:
        SettingsError: names the extra that brings them.
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
    """What version 0 is made of.

    Attributes:
        settings: the bus.
        task: module:attribute or a short name.
        run_id: the run's name.
        changes: settings that override the task's own, as sections of a run file.
        data_dir: the user's data folder.
        source: the run whose newest version becomes version 0; None begins anew.
    """

    settings: BusSettings
    task: str
    run_id: str
    changes: Mapping[str, Any]
    data_dir: Path | None = None
    source: BusSettings | None = None


def initialise(job: NewRunJob) -> None:
    """Write version 0 and ask for the run.

    Raises:
        SettingsError: the task can't be loaded, a setting is wrong, or the source has no version.
        RunExistsError: there is a run at this place.
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
            # Without its data a run would fail in every worker; better here, once.
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
    """Be a worker, or the evaluator, as the settings say."""
    from cos2p_worker.__main__ import serve

    return serve(settings)


@dataclass(frozen=True)
class AloneJob:
    """One worker to train by itself.

    Attributes:
        task: module:attribute or a short name.
        data_dir: the user's data folder.
        index: which part of the training data it has.
        count: of how many.
        memory_bytes: its budget.
        steps: local steps.
        config: the run's settings.
        result: file for the figures.
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
    """Train one worker by itself; writes accuracy and what it held as JSON."""
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
