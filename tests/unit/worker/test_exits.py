"""Models with exits: their units and costs, and what the heads of a submodel are."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cos2p.errors import SettingsError
from cos2p.model.units import STEM
from cos2p.run_config import LocalConfig, RunConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.models.exits import NO_EXITS, Exits, exits_of, heads_of
from cos2p_worker.submodel import all_units, build_submodel
from cos2p_worker.task import Task

Make = Callable[[Architecture, int], dict[int, NDArray[np.float32]]]
CPU = torch.device("cpu")
LABELS = torch.arange(16) % 4
SHARED, OWN = Exits((0, 1)), Exits((0, 1), shared=False)


def local(objective: str) -> LocalConfig:
    return LocalConfig.model_validate({"objective": objective})


def with_exits(model: Architecture, exits: Exits) -> Architecture:
    assert model.with_exits is not None
    return model.with_exits(exits)


def cut(model: Architecture, blocks: range, keep: int = 1) -> tuple[int, ...]:
    """All but every `keep`-th prunable unit of the blocks (all of them where keep is 1)."""
    table = model.layout.table
    units = [u for u in np.flatnonzero(table.prunable).tolist() if table.blocks[u] in blocks]
    return table.close(u for i, u in enumerate(units) if keep == 1 or i % keep)


def heads(model: Architecture, units: tuple[int, ...], values: object, x: Tensor) -> list[Tensor]:
    module = build_submodel(model, units, (), values, CPU)  # type: ignore[arg-type]
    found = module(x)
    assert isinstance(found, tuple)
    return list(found)


def kept_elements(module: nn.Module, samples: Tensor) -> float:
    """Float32-sized elements per sample that autograd keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.numel():
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for logits in heads_of(module(samples)):
            functional.cross_entropy(logits, LABELS)
    return sum(s.nbytes() for s in found.values()) / 4 / len(samples)


@pytest.mark.parametrize(
    ("given", "blocks", "expected"),
    [
        (local("final"), 6, NO_EXITS),
        (local("fjord"), 6, NO_EXITS),
        (local("exits"), 6, Exits((1, 3))),
        (local("exits"), 4, Exits((1, 2))),
        (local("exits"), 2, Exits((0,))),
        (local("depthfl"), 4, Exits((0, 1, 2), shared=False)),
        (local("scalefl"), 12, Exits((3, 5, 8), shared=False)),
        (local("scalefl"), 6, Exits((1, 2, 4), shared=False)),
        (local("scalefl"), 1, Exits((), shared=False)),
    ],
)
def test_the_objective_says_where_exits_are(
    given: LocalConfig, blocks: int, expected: Exits
) -> None:
    assert expected == exits_of(given, blocks)


def test_a_model_of_one_block_has_no_place_for_a_shared_exit() -> None:
    with pytest.raises(SettingsError, match=r"2 blocks or more.*this one has 1"):
        exits_of(local("exits"), 1)


def test_shared_exits_are_in_every_submodel_and_own_ones_with_their_blocks(
    model: Architecture,
) -> None:
    shared, own = with_exits(model, SHARED).layout.table, with_exits(model, OWN).layout.table
    last = own.block_count - 1

    blocks = {u.name: u.block for u in shared.units}
    assert [STEM] * 3 == [blocks[name] for name in ("exit0", "exit1", "head")]
    blocks = {u.name: u.block for u in own.units}
    assert [0, 1, last] == [blocks[name] for name in ("exit0", "exit1", "head")]


def test_without_exits_the_units_are_what_they_were(model: Architecture) -> None:
    assert model.layout.table.digest == with_exits(model, NO_EXITS).layout.table.digest
    assert model.layout.table.digest != with_exits(model, SHARED).layout.table.digest


@pytest.mark.parametrize("exits", [SHARED, OWN])
@pytest.mark.parametrize("keep", [1, 2])
def test_costs_agree_with_what_torch_counts(
    model: Architecture, values_of: Make, samples: Tensor, exits: Exits, keep: int
) -> None:
    model = with_exits(model, exits)
    table = model.layout.table
    for depth in (1, 2, 3):
        units = cut(model, range(depth), keep)
        module = build_submodel(model, units, (), values_of(model, 0), CPU)

        assert sum(p.numel() for p in module.parameters()) == table.sizes[list(units)].sum()
        counted = int(table.activations[list(units)].sum())
        assert counted == pytest.approx(kept_elements(module, samples), rel=0.02)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(samples)
        expected = counter.get_total_flops() / len(samples)
        assert expected <= table.flops[list(units)].sum() <= 1.3 * expected


def test_the_final_head_is_that_of_the_model_without_exits(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    trained = values_of(model, 3)
    plain = {unit.name: trained[u] for u, unit in enumerate(model.layout.units)}
    expected = build_submodel(model, all_units(model), (), trained, CPU)(samples)

    for exits in (SHARED, OWN):
        found = with_exits(model, exits)
        random = values_of(found, 4)
        values = {u: plain.get(unit.name, random[u]) for u, unit in enumerate(found.layout.units)}

        *inner, final = heads(found, all_units(found), values, samples)

        assert 2 == len(inner)
        assert torch.allclose(expected, final, atol=1e-6)


def test_a_shared_exit_after_a_skipped_block_reads_the_stream_as_it_is(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """Blocks 0 and 1 are left out: the exits after them are both fed by the stem."""
    model = with_exits(model, SHARED)
    values = values_of(model, 0)
    first, second = (
        next(u for u, unit in enumerate(model.layout.units) if unit.name == name)
        for name in ("exit0", "exit1")
    )
    values[second] = values[first]

    found = heads(model, cut(model, range(2, 3)), values, samples)

    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], heads(model, all_units(model), values, samples)[0])


def test_a_submodel_with_own_exits_ends_at_its_deepest(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """A prefix of the blocks gives the same logits as the whole model does at these exits."""
    model = with_exits(model, OWN)
    values = values_of(model, 0)
    whole = heads(model, all_units(model), values, samples)

    for depth in (1, 2, 3):
        found = heads(model, cut(model, range(depth)), values, samples)

        assert depth == len(found)
        for expected, logits in zip(whole, found, strict=False):
            assert torch.allclose(expected, logits, atol=1e-6)


def test_every_parameter_of_a_submodel_with_own_exits_has_a_gradient(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """What a device would send back as zeros would dilute what others have learned."""
    model = with_exits(model, OWN)
    for depth in (1, 2):
        module = build_submodel(model, cut(model, range(depth)), (), values_of(model, 0), CPU)

        torch.stack([logits.sum() for logits in module(samples)]).sum().backward()  # type: ignore[no-untyped-call]

        without = [n for n, p in module.named_parameters() if p.grad is None]
        assert [] == without


def test_a_submodel_without_any_head_is_refused(model: Architecture, values_of: Make) -> None:
    model = with_exits(model, OWN)
    with pytest.raises(SettingsError, match="make no submodel"):
        build_submodel(model, model.layout.table.close(()), (), values_of(model, 0), CPU)


def test_a_submodel_with_blocks_that_no_head_reads_is_refused(
    model: Architecture, values_of: Make
) -> None:
    model = with_exits(model, Exits((0,), shared=False))

    with pytest.raises(SettingsError, match=r"must end with one of \[0, 2\]"):
        build_submodel(model, cut(model, range(2)), (), values_of(model, 0), CPU)


def test_a_residual_cnn_with_own_exits_takes_the_first_blocks_only(values_of: Make) -> None:
    from cos2p_worker.models.resnet import ResNetConfig, Stage, resnet

    model = resnet(ResNetConfig(8, 1, (Stage(3, 8, 8),), 4, 4), OWN)

    with pytest.raises(SettingsError, match="be the first ones"):
        build_submodel(model, cut(model, range(1, 3)), (), values_of(model, 0), CPU)


def test_new_exits_leave_the_rest_of_version_0_as_it_is(task: Task) -> None:
    """So that a run with exits starts from the same model as one without."""
    run = RunConfig(local=local("exits"))
    plain, found = initial_values(task, 7), initial_values(task.for_run(run), 7)

    names = {u.name: i for i, u in enumerate(task.for_run(run).units.units)}
    for unit, value in plain.items():
        assert value.tobytes() == found[names[task.units.units[unit].name]].tobytes()


def test_a_run_without_exits_takes_the_task_as_it_is(task: Task) -> None:
    assert task is task.for_run(RunConfig())


def test_every_process_makes_the_same_units_of_a_runs_settings(task: Task) -> None:
    run = RunConfig(local=local("exits"))
    made = task.for_run(run)

    assert task.for_run(run).units.digest == made.units.digest != task.units.digest
    assert made is made.for_run(run)


def test_a_model_that_can_have_no_exits_is_refused(task: Task) -> None:
    fixed = replace(task, model=replace(task.model, with_exits=None))

    with pytest.raises(SettingsError, match="can't have exits"):
        fixed.for_run(RunConfig(local=local("depthfl")))


def test_objectives_that_compare_classes_need_classes(task: Task) -> None:
    regression = replace(task, classes=None)

    regression.for_run(RunConfig())
    with pytest.raises(SettingsError, match="has no classes"):
        regression.for_run(RunConfig(local=local("exits")))
