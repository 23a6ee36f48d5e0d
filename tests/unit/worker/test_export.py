"""Export of a version, whole or cut, and loading it again."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from cos2p.clock import LoopClock
from cos2p.errors import BudgetError, SettingsError, StorageError
from cos2p.log.blobs import write_blob
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Mailbox, Outbox
from cos2p.log.messages import Evaluated, RunFinished, RunOpened, VersionPublished
from cos2p.log.topics import CHECKPOINTS, FLEET, MODELS, specs
from cos2p.model.cost import CostModel
from cos2p.model.payload import Header, header_of, parts
from cos2p.run_config import EvaluationConfig, LocalConfig, RunConfig
from cos2p.service.role import RoleContext
from cos2p_worker.evaluation import evaluate
from cos2p_worker.evaluator import run_evaluator
from cos2p_worker.export import Exported, ExportRequest, export, load_submodel, parameters_of
from cos2p_worker.initial import inherited_values, initial_values
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.submodel import all_units, build_submodel, scaled_units
from cos2p_worker.task import Task

UnitValues = dict[int, NDArray[np.float32]]
IMAGES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


async def a_run(task: Task, shares: Mapping[int, Sequence[float]] | None = None) -> MemoryBus:
    """Versions 2 and 4 have checkpoints: raw from seed = number, average from 10 + number.

    With `shares` versions 1 to 4 tell how often their units were there.
    """
    bus = MemoryBus(LoopClock())
    await bus.create_topics(specs("t", 1))
    models = Outbox(bus, "t", MODELS)
    digest = task.units.digest
    await models.send(
        RunOpened(run_id="r", decisions_offset=1, config=task.run, task="m:T", units_digest=digest)
    )
    for number in (2, 4) if shares is None else (1, 2, 3, 4):
        raw, average = initial_values(task, number), initial_values(task, 10 + number)
        states = [np.concatenate([raw[u], average[u]]) for u in raw]
        made = header_of(f"v{number}.s0", list(raw), states)
        header = Header(made.owner, made.units, 2, made.digests)
        blob = await write_blob(bus, CHECKPOINTS.full_name("t"), 0, "b", parts(header, states))
        await models.send(
            VersionPublished(
                run_id="r",
                version=number,
                shard=0,
                shard_count=1,
                decisions_offset=1,
                digest=bytes([number]) * 32,
                unit_digests=b"",
                unit_shares=np.array(shares[number], "<f4").tobytes() if shares else b"",
                checkpoint=None if number % 2 else blob,
            )
        )
    return bus


def exported(
    task: Task, out: Path, wish: ExportRequest, shares: Mapping[int, Sequence[float]] | None = None
) -> Exported:
    async def scenario() -> Exported:
        return await export(await a_run(task, shares), "t", wish, out, task)

    return asyncio.run(scenario())


def outputs(task: Task, seed: int) -> torch.Tensor:
    values = initial_values(task, seed)
    module = build_submodel(task.model, (), all_units(task.model), values, torch.device("cpu"))
    found: torch.Tensor = module(IMAGES)
    return found


def test_the_newest_average_is_exported_with_the_models_own_names(
    task: Task, tmp_path: Path
) -> None:
    done = exported(task, tmp_path / "new" / "model.safetensors", ExportRequest())

    arrays = load_file(done.path)
    assert set(task.layout.shapes) == set(arrays)
    assert (4, task.units.parameter_count) == (done.version, done.parameter_count)
    module = task.model.build(all_units(task.model))
    module.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()}, strict=True)
    assert torch.allclose(outputs(task, 14), module(IMAGES))
    assert ["model.safetensors"] == [p.name for p in done.path.parent.iterdir()]


def test_a_version_and_its_raw_weights_can_be_asked_for(task: Task, tmp_path: Path) -> None:
    done = exported(task, tmp_path / "m", ExportRequest(version=2, raw=True))

    assert torch.allclose(outputs(task, 2), load_submodel(done.path, task)(IMAGES))


def test_a_submodel_fits_its_budget_and_is_rebuilt(task: Task, tmp_path: Path) -> None:
    cost = CostModel.of(task.units, task.run)
    memory_bytes = cost.memory_for_fraction(0.5)

    done = exported(task, tmp_path / "m", ExportRequest(memory_bytes=memory_bytes))

    assert cost.peak_bytes(done.units) <= memory_bytes
    module = load_submodel(done.path, task)
    assert done.parameter_count == sum(p.numel() for p in module.parameters())
    assert done.parameter_count < task.units.parameter_count
    values = initial_values(task, 14)
    same = build_submodel(task.model, (), done.units, values, torch.device("cpu"))
    assert torch.allclose(same(IMAGES), module(IMAGES))


def some_shares(task: Task) -> dict[int, list[float]]:
    """Version 1 held every third unit alone, 2 all of them, 3 a half of each, 4 the others."""
    third = [float(u % 3 == 0) for u in range(len(task.units))]
    return {1: third, 2: [1.0] * len(third), 3: [0.5] * len(third), 4: [1 - x for x in third]}


@pytest.mark.parametrize(
    ("version", "third", "others"),
    [
        (2, 1.0, 1 / 1.9),
        (4, (0.729 + 0.81 + 0.45) / 3.439, (0.81 + 0.45 + 1) / 3.439),
    ],
)
def test_a_whole_models_units_are_scaled_by_how_often_they_were_there(
    task: Task, tmp_path: Path, version: int, third: float, others: float
) -> None:
    """By hand: shares 1, 1, .5, 0 and 0, 1, .5, 1, each weighing 0.9 times what the next does."""
    done = exported(task, tmp_path / "whole", ExportRequest(version), some_shares(task))

    factors = np.array([others if u % 3 else third for u in range(len(task.units))])
    values = scaled_units(task.model, initial_values(task, 10 + version), factors)
    expected = parameters_of(task, values, done.units)
    arrays = load_file(done.path)
    assert all(np.allclose(expected[name], arrays[name], rtol=1e-6) for name in expected)


def test_the_evaluator_judges_the_model_that_is_exported(task: Task, tmp_path: Path) -> None:
    async def scenario() -> Evaluated:
        bus = await a_run(task, some_shares(task))
        await Outbox(bus, "t", MODELS).send(
            RunFinished(run_id="r", decisions_offset=1, version=4, reason="target")
        )
        await export(bus, "t", ExportRequest(), tmp_path / "m", task)
        await run_evaluator(
            RoleContext(bus, LoopClock(), structlog.get_logger(), "t"),
            evaluator_id="evaluator",
            task_of=lambda _: task,
        )
        letter = (await Mailbox(bus, "t", FLEET, reader="test").poll())[-1]
        assert isinstance(letter.message, Evaluated)
        return letter.message

    found = asyncio.run(scenario())

    verdict = evaluate(task, load_submodel(tmp_path / "m", task), task.evaluation_data())
    assert verdict.loss == pytest.approx(found.loss)
    assert verdict.accuracy == found.accuracy
    assert found.accuracy != found.plain_accuracy


def test_a_cut_model_keeps_the_weights_that_were_trained(task: Task, tmp_path: Path) -> None:
    memory_bytes = CostModel.of(task.units, task.run).memory_for_fraction(0.5)

    cut = exported(
        task, tmp_path / "cut", ExportRequest(memory_bytes=memory_bytes), some_shares(task)
    )

    values = initial_values(task, 14)
    module = build_submodel(task.model, (), cut.units, values, torch.device("cpu"))
    assert torch.allclose(module(IMAGES), load_submodel(cut.path, task)(IMAGES))


def test_a_run_may_ask_for_units_as_they_are(task: Task, tmp_path: Path) -> None:
    run = task.run.model_copy(update={"evaluation": EvaluationConfig(scaling="none")})

    done = exported(replace(task, run=run), tmp_path / "m", ExportRequest(), some_shares(task))

    assert torch.allclose(outputs(task, 14), load_submodel(done.path, task)(IMAGES))


def test_a_model_with_exits_is_rebuilt_by_who_knows_the_task_alone(
    task: Task, tmp_path: Path
) -> None:
    run = RunConfig(local=LocalConfig(objective="exits"))
    exited = replace(task.for_run(run), run=run)

    done = exported(exited, tmp_path / "m", ExportRequest())

    expected = build_submodel(
        exited.model, (), done.units, initial_values(exited, 14), torch.device("cpu")
    )
    found = load_submodel(done.path, task)
    pairs = zip(expected(IMAGES), found(IMAGES), strict=True)
    assert [True] * 3 == [torch.allclose(a, b) for a, b in pairs]


def test_a_budget_that_fits_nothing_is_refused(task: Task, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="would do"):
        exported(task, tmp_path / "m", ExportRequest(memory_bytes=100))
    assert not list(tmp_path.iterdir())


def test_a_version_without_checkpoint_names_the_nearest(task: Task, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"version 3 has no checkpoint; .*: 2, 4"):
        exported(task, tmp_path / "m", ExportRequest(version=3))


def test_without_a_run_there_is_nothing_to_export(task: Task, tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = MemoryBus(LoopClock())
        await bus.create_topics(specs("t", 1))
        await export(bus, "t", ExportRequest(), tmp_path / "m", task)

    with pytest.raises(SettingsError, match="no run was opened under 't'"):
        asyncio.run(scenario())


def test_a_place_that_can_not_be_written_is_a_storage_error(task: Task, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="can't write"):
        exported(task, tmp_path / "file" / "m", ExportRequest())


def test_files_that_are_no_exports_are_refused(task: Task, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other")

    with pytest.raises(SettingsError, match="can't read"):
        load_submodel(tmp_path / "text", task)
    with pytest.raises(SettingsError, match="can't read"):
        load_submodel(tmp_path / "missing", task)
    with pytest.raises(SettingsError, match="was not written by"):
        load_submodel(tmp_path / "other", task)


def test_a_new_run_may_begin_with_what_another_has_learned(task: Task) -> None:
    async def scenario() -> Mapping[int, NDArray[np.float32]]:
        return await inherited_values(await a_run(task), "t", task)

    values, newest = asyncio.run(scenario()), initial_values(task, 14)

    assert all(np.array_equal(newest[unit], values[unit]) for unit in newest)


@pytest.mark.parametrize("kind", ["resnet"])
def test_it_can_not_begin_with_another_model(task: Task, model: Architecture) -> None:
    async def scenario() -> None:
        await inherited_values(await a_run(task), "t", replace(task, model=model))

    with pytest.raises(SettingsError, match="run r under 't' trains another model"):
        asyncio.run(scenario())


def test_it_can_not_begin_with_a_run_that_is_not_there(task: Task) -> None:
    with pytest.raises(SettingsError, match="no run to begin from has the prefix 't'"):
        asyncio.run(inherited_values(MemoryBus(LoopClock()), "t", task))
