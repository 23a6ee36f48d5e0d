"""The examples that the pages show."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cos2p.errors import SettingsError
from cos2p.run_config import LocalConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.submodel import build_submodel
from cos2p_worker.task import Task, load_task
from cos2p_worker.torch_trainer import TorchTrainer, local_machine, local_plan
from cos2p_worker.trainer import TrainingControl

Image = pytest.importorskip("PIL.Image")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Ten images of each of three colours, in three sizes and two formats."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 80, (40 + i, 30, 3), dtype=np.uint8)
            pixels[:, :, channel] += 150
            kind = "png" if i % 2 else "jpg"
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.{kind}")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    return load_task("examples.folder_task:TASK").at(tmp_path, seed=0)


def test_the_folder_task_deals_out_every_image_once(folder_task: Task) -> None:
    shards = [folder_task.shard(i, 4) for i in range(4)]
    to_tune = folder_task.at(folder_task.place.data_dir, 0, part="validation")

    assert 24 == sum(len(s) for s in shards)
    assert 3 == len(folder_task.evaluation_data())
    assert 3 == len(to_tune.evaluation_data())
    assert (3, 32, 32) == tuple(shards[0].inputs.shape[1:])
    assert -1.0 <= float(shards[0].inputs.min()) < float(shards[0].inputs.max()) <= 1.0


def test_the_folder_task_trains(folder_task: Task) -> None:
    trainer = TorchTrainer(folder_task, folder_task.shard(0, 2), folder_task.run, local_machine())
    plan = local_plan(tuple(range(len(folder_task.units))), 20, LocalConfig(batch_size=8), seed=0)
    values = initial_values(folder_task, 0)

    result = asyncio.run(trainer.train(plan, values, TrainingControl()))

    assert result.loss_last < result.loss_first


def test_another_number_of_folders_is_named(folder_task: Task, tmp_path: Path) -> None:
    (tmp_path / "yellow").mkdir()

    with pytest.raises(SettingsError, match="found 4 class folders, CLASSES is 3"):
        folder_task.shard(0, 1)


@pytest.fixture
def table_task(monkeypatch: pytest.MonkeyPatch) -> Task:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    return load_task("examples.table_model:TASK")


@pytest.mark.parametrize("prunable", [[2], [2, 3], [2, 7, 12], list(range(2, 6))])
def test_the_table_models_costs_are_what_autograd_keeps(
    table_task: Task, prunable: list[int]
) -> None:
    units = table_task.units.close(prunable)
    values = initial_values(table_task, 0)
    module = build_submodel(table_task.model, units, (), values, torch.device("cpu"))
    data = table_task.shard(0, 4)
    rows, labels = data.inputs[:16].clone(), data.labels[:16].clone()
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        functional.cross_entropy(module(rows), labels)

    forecast = int(table_task.units.activations[list(units)].sum())
    assert forecast == sum(kept.values()) // 4 // len(rows)


def test_the_table_task_trains(table_task: Task) -> None:
    trainer = TorchTrainer(table_task, table_task.shard(0, 2), table_task.run, local_machine())
    plan = local_plan(tuple(range(len(table_task.units))), 20, LocalConfig(batch_size=16), seed=0)
    values = initial_values(table_task, 0)

    result = asyncio.run(trainer.train(plan, values, TrainingControl()))

    assert result.loss_last < result.loss_first
