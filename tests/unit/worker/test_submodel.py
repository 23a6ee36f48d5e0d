"""Submodels as modules."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from cos2p.errors import SettingsError
from cos2p_worker.layout import Layout, UnitSpec, whole
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.submodel import all_units, build_submodel, read_units

Make = Callable[[Architecture, int], dict[int, NDArray[np.float32]]]
CPU = torch.device("cpu")


def normed(norm: nn.Module, dtype: torch.dtype = torch.float32) -> Architecture:
    """One linear layer and a norm of two values."""
    shapes = {"0.weight": (2, 2), "1.weight": (2,), "1.bias": (2,)}
    core = UnitSpec("core", "core", -1, whole(shapes, *shapes), 1, 1)
    return Architecture(
        Layout(shapes, [core]),
        lambda units: nn.Sequential(nn.Linear(2, 2, bias=False), norm).to(dtype),
    )


def test_what_is_put_in_is_read_out(model: Architecture, values_of: Make) -> None:
    values = values_of(model, 7)
    units = all_units(model)

    found = read_units(model, build_submodel(model, units, (), values, CPU), units)

    assert all(np.array_equal(values[u], found[u]) for u in units)


def test_the_given_values_are_not_touched_by_training(vit_model: Architecture) -> None:
    values = {u: np.ones(unit.size, np.float32) for u, unit in enumerate(vit_model.layout.units)}
    for value in values.values():
        value.flags.writeable = False
    module = build_submodel(vit_model, all_units(vit_model), (), values, CPU)

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)

    assert all(np.all(value == 1.0) for value in values.values())


def test_frozen_blocks_get_no_gradient(vit_model: Architecture, values_of: Make) -> None:
    table = vit_model.layout.table
    frozen = tuple(u for u in range(len(table)) if table.blocks[u] == 0)
    trained = tuple(u for u in range(len(table)) if table.blocks[u] != 0)

    module = build_submodel(vit_model, trained, frozen, values_of(vit_model, 0), CPU)

    without = {n for n, p in module.named_parameters() if not p.requires_grad}
    assert without
    assert without == {n for n, _ in module.named_parameters() if n.startswith("blocks.0.")}


def test_a_block_can_not_be_frozen_in_part(vit_model: Architecture, values_of: Make) -> None:
    head = [u.name for u in vit_model.layout.units].index("block0.head.0")
    rest = tuple(u for u in all_units(vit_model) if u != head)

    with pytest.raises(SettingsError, match="freeze whole blocks only"):
        build_submodel(vit_model, rest, (head,), values_of(vit_model, 0), CPU)


def test_building_leaves_torchs_generator_alone(vit_model: Architecture, values_of: Make) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()

    build_submodel(vit_model, all_units(vit_model), (), values_of(vit_model, 0), CPU)

    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2), nn.SyncBatchNorm(2)])
def test_batch_norm_is_refused_and_the_text_says_what_to_use(
    norm: nn.Module, values_of: Make
) -> None:
    model = normed(norm)

    with pytest.raises(SettingsError, match=r"1 is batch norm.*use GroupNorm or LayerNorm"):
        build_submodel(model, (0,), (), values_of(model, 0), CPU)


def test_another_norm_is_fine(values_of: Make) -> None:
    model = normed(nn.LayerNorm(2))

    assert build_submodel(model, (0,), (), values_of(model, 0), CPU)


def test_a_module_that_is_not_its_layout_is_refused(values_of: Make) -> None:
    model = normed(nn.LayerNorm(3))

    with pytest.raises(SettingsError, match=r"1.bias: the module has \(3,\), .* declares \(2,\)"):
        build_submodel(model, (0,), (), values_of(model, 0), CPU)


def test_half_precision_weights_are_refused(values_of: Make) -> None:
    model = normed(nn.LayerNorm(2), torch.float16)

    with pytest.raises(SettingsError, match="float32 is needed"):
        build_submodel(model, (0,), (), values_of(model, 0), CPU)
