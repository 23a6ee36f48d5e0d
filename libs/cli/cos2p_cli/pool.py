"""The work of a local run's forked children: the only part of the command line that needs torch.

Invariant: nothing of the worker is imported before a child calls one of these functions. The
command itself therefore never loads torch. The fork server has imported it once for all children.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cos2p.errors import SettingsError
from cos2p.run_config import RunConfig
from cos2p.settings import BusSettings, WorkerSettings
from cos2p_cli import options
from cos2p_cli.fleet import LocalDevice
from cos2p_planner.presets import config_of, merged

EXITS = {"local": {"objective": "exits", "exits": {"weight": 0.1}}}
"""A small weight: the exits are here to be shown, and their losses must not cost much accuracy."""
PRELOAD = (
    "torch._dynamo",
    "cos2p_worker.__main__",
    "cos2p_worker.standalone",
    "cos2p_worker.evaluator",
    "cos2p_worker.torch_trainer",
)
"""Modules that the fork server imports once: torch, and what its optimisers import at first use."""


def require_torch() -> None:
    """Raise SettingsError with the extra that installs torch, if torch is missing."""
    if find_spec("torch") is None:
        raise SettingsError(
            "this needs PyTorch: install Co-S2P's extra `worker` (the demo: `demo`)"
        )


@dataclass(frozen=True)
class NewRunJob:
    """The input for version 0 of a run.

    Attributes:
        settings: the settings of the run's bus.
        task: the task's module:attribute or short name.
        changes: settings that override the task's own, in sections as in a run file.
        data_dir: the user's data folder.
        source: the bus of the run whose newest version becomes version 0; None starts from new
            weights.
        show_exits: whether the model gets exits, if it can have them.
    """

    settings: BusSettings
    task: str
    run_id: str
    changes: Mapping[str, Any]
    data_dir: Path | None = None
    source: BusSettings | None = None
    show_exits: bool = False


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
    can_have_exits = task.model.with_exits is not None and task.classes is not None
    exits = job.show_exits and can_have_exits
    config = config_of(task.run, merged(job.changes, EXITS) if exits else job.changes)

    async def work() -> None:
        async with options.opened(job.settings, must_exist=False) as bus:
            # Without its data a run would fail in every worker. Fail here once instead.
            place = task.for_run(config).at(job.data_dir, config.seed)
            await asyncio.to_thread(place.evaluation_data)
            values = None
            if job.source is not None:
                async with options.opened(job.source) as old:
                    values = await inherited_values(old, job.source.prefix, place)
            await begin(bus, job.settings.prefix, job.task, place, config, job.run_id, values)

    asyncio.run(work())


def work(settings: WorkerSettings) -> int:
    """Run a worker or the evaluator, by the settings, and return its exit code."""
    from cos2p_worker.__main__ import serve

    return serve(settings)


@dataclass(frozen=True)
class StandaloneJob:
    """The training of one worker by itself, on its one of `count` parts of the training data.

    Attributes:
        device: the worker, with its budget in bytes.
        result: the file for the figures.
    """

    task: str
    data_dir: Path | None
    device: LocalDevice
    count: int
    steps: int
    config: RunConfig
    result: Path


def alone(job: StandaloneJob) -> None:
    """Train one worker by itself and write its accuracy and submodel's size as JSON."""
    from cos2p.model.cost import CostModel
    from cos2p_worker.standalone import standalone_units, train_standalone
    from cos2p_worker.task import load_task

    task = load_task(job.task).for_run(job.config).at(job.data_dir, job.config.seed)
    device = job.device
    units = standalone_units(task, job.config, device.memory_bytes or 0, device.worker_id)
    shard = task.shard(device.index, job.count)
    accuracy = train_standalone(task, shard, units, job.config, job.steps, job.config.seed)
    found = {
        "accuracy": accuracy,
        "steps": job.steps,
        "share": CostModel.of(task.units, job.config).share(units),
        "parameters": int(task.units.sizes[list(units)].sum()),
    }
    job.result.write_text(json.dumps(found))
