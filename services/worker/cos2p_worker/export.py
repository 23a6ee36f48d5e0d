"""A version as a safetensors file, with the model's own parameter names; whole, or cut to a budget.

Invariants: the file loads without this package (names, shapes and float32 values); its metadata
names the run, the version and the version's digests; a submodel's metadata names its units and the
model's exits, so that `load_submodel` rebuilds the module. A whole model's units are scaled as the
evaluator's are (evaluation.scaling); a cut one keeps the weights that were trained.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from cos2p.errors import SettingsError, StorageError
from cos2p.log.bus import Bus
from cos2p.model.cost import CostModel
from cos2p.model.units import units_of_names
from cos2p.run_config import RunConfig
from cos2p_worker.budget import energy_scores, fill_budget
from cos2p_worker.layout import UnitArrays
from cos2p_worker.models.exits import Exits
from cos2p_worker.submodel import all_units, build_submodel, scaled_units
from cos2p_worker.task import Task
from cos2p_worker.versions import read_survival, read_version, run_opened, stored_parts

FORMAT = "cos2p-2"


@dataclass(frozen=True)
class Wish:
    """What to export.

    Attributes:
        version: which; None takes the newest with a checkpoint.
        raw: the version as merged instead of the moving average.
        memory_bytes: budget of the device that shall train or run it; None for the whole model.
    """

    version: int | None = None
    raw: bool = False
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    run_id: str
    version: int
    units: tuple[int, ...]
    parameter_count: int


async def export(bus: Bus, prefix: str, wish: Wish, out: Path, task: Task) -> Exported:
    """Write a version of the run under `prefix` to `out`.

    Raises:
        SettingsError: no run, no such version, another model, or a path that can't be written.
        BudgetError: no submodel fits the budget.
        BlobError: the checkpoint is damaged or has left the log.
    """
    opened = await run_opened(bus, prefix)
    task = task.for_run(opened.config)
    if task.units.digest != opened.units_digest:
        raise SettingsError(f"run {opened.run_id} trains another model than task {task.name}")
    parts = await stored_parts(bus, prefix, opened.run_id, wish.version)
    version = await read_version(bus, task.units, parts)
    values: UnitArrays = version.raw if wish.raw else version.average
    units = all_units(task.model)
    if wish.memory_bytes is not None:
        units = best_units(task, opened.config, values, wish.memory_bytes)
    scaling = opened.config.evaluation.scaling if len(units) == len(values) else "none"
    if scaling == "survival":
        survival = await read_survival(bus, prefix, opened.run_id, task.units, version.number)
        values = scaled_units(task.model, values, survival.at(version.number))
    metadata = {
        "format": FORMAT,
        "run": opened.run_id,
        "task": opened.task,
        "version": str(version.number),
        "state": "raw" if wish.raw else "average",
        "digests": ",".join(part.digest.hex() for part in parts),
        "units": json.dumps([task.units.units[u].name for u in units]),
        "blocks": json.dumps(block_widths(task, units)),
        "exits": json.dumps(asdict(task.model.exits)),
        "scaling": scaling,
    }
    _write(out, parameters_of(task, values, units), metadata)
    count = int(task.units.sizes[list(units)].sum())
    return Exported(out, opened.run_id, version.number, units, count)


def best_units(
    task: Task, config: RunConfig, values: UnitArrays, memory_bytes: int
) -> tuple[int, ...]:
    """The submodel for a budget: units with the largest L2 norm per cost (see `energy_scores`).

    Raises:
        BudgetError: not even the smallest fits.
    """
    cost = CostModel.of(task.units, config)
    return fill_budget(cost, memory_bytes, energy_scores(cost, values), "export")


def parameters_of(
    task: Task, values: UnitArrays, units: Sequence[int]
) -> dict[str, NDArray[np.float32]]:
    """The parameters of the submodel that holds `units`, by name."""
    shapes = task.layout.shapes_of(units)
    arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    task.layout.cut(values, units, arrays)
    return arrays


def block_widths(task: Task, units: Sequence[int]) -> dict[str, dict[str, int]]:
    """Prunable units kept per block and kind: a submodel's shape for people."""
    widths: dict[str, dict[str, int]] = {}
    for unit in (task.units.units[u] for u in units):
        if unit.kind != "core":
            kinds = widths.setdefault(str(unit.block), {})
            kinds[unit.kind] = kinds.get(unit.kind, 0) + 1
    return widths


def load_submodel(path: Path, task: Task) -> nn.Module:
    """Rebuild the module that `export` wrote, whole or cut, ready to evaluate.

    Raises:
        SettingsError: the file is no such export, or one of another model.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"can't read {path}: {error}") from error
    if metadata.get("format") != FORMAT:
        raise SettingsError(f"{path} was not written by `cos2p export`")
    task = _with_exits(task, json.loads(metadata["exits"]))
    units = tuple(sorted(units_of_names(task.units, json.loads(metadata["units"]))))
    found = {name: array.shape for name, array in arrays.items()}
    if found != task.layout.shapes_of(units):
        raise SettingsError(f"{path} holds another model than task {task.name}")
    values = task.layout.scatter(arrays, units)
    return build_submodel(task.model, (), units, values, torch.device("cpu")).eval()


def _with_exits(task: Task, found: dict[str, Any]) -> Task:
    exits = Exits(tuple(found["after"]), found["shared"])
    if exits == task.model.exits:
        return task
    if task.model.with_exits is None:
        raise SettingsError(f"the file's model has exits, task {task.name}'s can't have any")
    return replace(task, model=task.model.with_exits(exits))


def _write(out: Path, arrays: dict[str, NDArray[np.float32]], metadata: dict[str, str]) -> None:
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, part, metadata)
        part.replace(out)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"can't write {out}: {error}") from error
