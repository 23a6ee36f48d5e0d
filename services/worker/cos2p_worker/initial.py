"""Version 0: a model initialised from the run's seed, and the request that starts the run.

Invariant: the same task and seed give the same values on every machine with the same torch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cos2p.errors import SettingsError, TopicMissingError
from cos2p.log.bus import Bus
from cos2p.log.messages import RunRequested
from cos2p.log.run_request import NewRun, request_run
from cos2p.run_config import RunConfig
from cos2p_worker.layout import UnitArrays
from cos2p_worker.submodel import all_units, check_module, read_units
from cos2p_worker.task import Task
from cos2p_worker.versions import read_version, run_opened, stored_parts


def initial_values(
    task: Task, seed: int, units: Sequence[int] | None = None
) -> dict[int, NDArray[np.float32]]:
    """Initialise values of the given units (default: all), flat float32 by unit.

    Raises:
        SettingsError: the model does not match its layout, or uses batch norm.
    """
    chosen = all_units(task.model) if units is None else tuple(units)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = task.model.build(chosen)
    check_module(task.model, module, chosen)
    return read_units(task.model, module, chosen)


async def initialise(
    bus: Bus,
    prefix: str,
    task_name: str,
    task: Task,
    config: RunConfig,
    run_id: str,
    values: UnitArrays | None = None,
) -> RunRequested:
    """Write version 0 (None: made from the run's seed) and request the run.

    Workers will load the task by `task_name`.

    Raises:
        RunExistsError: a run exists already.
        SettingsError: the model can't be cut (see `initial_values`).
    """
    values = initial_values(task, config.seed) if values is None else values
    ordered = [values[unit] for unit in range(len(values))]
    return await request_run(bus, prefix, NewRun(run_id, task_name, config, task.units, ordered))


async def inherited_values(bus: Bus, prefix: str, task: Task) -> UnitArrays:
    """Read what another run has learned: the average of its newest stored version.

    Raises:
        SettingsError: there is no run or no version, or its model is another.
        BlobError: the checkpoint is damaged or has left the log.
    """
    try:
        opened = await run_opened(bus, prefix)
    except TopicMissingError as error:
        raise SettingsError(f"no run to begin from has the prefix {prefix!r}: {error}") from error
    if opened.units_digest != task.units.digest:
        raise SettingsError(
            f"run {opened.run_id} under {prefix!r} trains another model than task {task.name}"
        )
    parts = await stored_parts(bus, prefix, opened.run_id)
    return (await read_version(bus, task.units, parts)).average
