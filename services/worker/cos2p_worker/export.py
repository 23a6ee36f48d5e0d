"""A version as a safetensors file, with the model's own parameter names; whole, or cut to a budget.

Invariants:
- The file loads without this package: it holds names, shapes and float32 values.
- Its metadata names the run, the version and the version's digests.
- A submodel's metadata names its units and the model's exits, so that `load_submodel` rebuilds the
  module.
- A whole model's units are scaled as the evaluator's are (evaluation.scaling). A cut one keeps the
  weights that were trained.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

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
from cos2p_worker.budget import energy_scores, fill_budget
from cos2p_worker.layout import UnitArrays
from cos2p_worker.models.architecture import widths_of
from cos2p_worker.models.exits import Exits
from cos2p_worker.submodel import all_units, build_submodel, scaled_units
from cos2p_worker.task import Task
from cos2p_worker.versions import read_survival, read_version, run_opened, stored_parts

FORMAT = "cos2p-2"


@dataclass(frozen=True)
class ExportRequest:
    """What to export."""

    version: int | None = None
    """None takes the newest with a checkpoint."""
    raw: bool = False
    """Whether to take the version as merged instead of the moving average."""
    memory_bytes: int | None = None
    """Budget of the device that will train or run it; None for the whole model."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    run_id: str
    version: int
    units: tuple[int, ...]
    parameter_count: int


async def export(bus: Bus, prefix: str, request: ExportRequest, out: Path, task: Task) -> Exported:
    """Write a version of the run under `prefix` to `out`.

    A cut one has the units with the largest L2 norm per cost (see `energy_scores`).

    Raises:
        SettingsError: no run, no such version, another model, or a path that can't be written.
        BudgetError: no submodel fits the budget.
        BlobError: the checkpoint is damaged or has left the log.
    """
    opened = await run_opened(bus, prefix)
    task = task.for_run(opened.config)
    if task.units.digest != opened.units_digest:
        raise SettingsError(f"run {opened.run_id} trains another model than task {task.name}")
    parts = await stored_parts(bus, prefix, opened.run_id, request.version)
    version = await read_version(bus, task.units, parts)
    values: UnitArrays = version.raw if request.raw else version.average
    units = all_units(task.model)
    if request.memory_bytes is not None:
        cost = CostModel.of(task.units, opened.config)
        units = fill_budget(cost, request.memory_bytes, energy_scores(cost, values), "export")
    scaling = opened.config.evaluation.scaling if len(units) == len(values) else "none"
    if scaling == "survival":
        survival = await read_survival(bus, prefix, opened.run_id, task.units, version.number)
        values = scaled_units(task.model, values, survival.at(version.number))
    metadata = {
        "format": FORMAT,
        "run": opened.run_id,
        "task": opened.task,
        "version": str(version.number),
        "state": "raw" if request.raw else "average",
        "digests": ",".join(part.digest.hex() for part in parts),
        "units": json.dumps([task.units.units[u].name for u in units]),
        "blocks": json.dumps(
            {
                str(block): {kind: n for kind, n in width.items() if kind != "core"}
                for block, width in widths_of(task.layout, units).items()
            }
        ),
        "exits": json.dumps(asdict(task.model.exits)),
        "scaling": scaling,
    }
    _write(out, parameters_of(task, values, units), metadata)
    count = int(task.units.sizes[list(units)].sum())
    return Exported(out, opened.run_id, version.number, units, count)


def parameters_of(
    task: Task, values: UnitArrays, units: Sequence[int]
) -> dict[str, NDArray[np.float32]]:
    """Return the parameters of the submodel that holds `units`, by name."""
    shapes = task.layout.shapes_of(units)
    arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
    task.layout.cut(values, units, arrays)
    return arrays


def load_submodel(path: Path, task: Task) -> nn.Module:
    """Rebuild the module that `export` wrote, whole or cut, ready to evaluate.

    Raises:
        SettingsError: the file is not such an export, or it holds another model.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SettingsError(f"can't read {path}: {error}") from error
    if metadata.get("format") != FORMAT:
        raise SettingsError(f"{path} was not written by `cos2p export`")
    exits = json.loads(metadata["exits"])
    refusal = f"the file's model has exits, task {task.name}'s can't have any"
    task = task.with_exits(Exits(tuple(exits["after"]), exits["shared"]), refusal)
    units = tuple(sorted(units_of_names(task.units, json.loads(metadata["units"]))))
    found = {name: array.shape for name, array in arrays.items()}
    if found != task.layout.shapes_of(units):
        raise SettingsError(f"{path} holds another model than task {task.name}")
    values = task.layout.scatter(arrays, units)
    return build_submodel(task.model, (), units, values, torch.device("cpu")).eval()


def _write(out: Path, arrays: dict[str, NDArray[np.float32]], metadata: dict[str, str]) -> None:
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, part, metadata)
        part.replace(out)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"can't write {out}: {error}") from error
