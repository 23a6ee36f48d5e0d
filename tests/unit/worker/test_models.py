"""The models that ship: costs against torch's own counts, and what cutting means."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from cos2p.errors import SettingsError
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.models.resnet import ResNetConfig, Stage
from cos2p_worker.models.stems import Patches, Words
from cos2p_worker.models.transformer import BlockShape, TransformerConfig, transformer
from cos2p_worker.submodel import build_submodel

Make = Callable[[Architecture, int], dict[int, NDArray[np.float32]]]
CPU = torch.device("cpu")
BATCH = 16
IMAGES = torch.randn(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(BATCH) % 4


def submodels(model: Architecture) -> list[tuple[int, ...]]:
    """The whole model, cuts of random width with random blocks left out, and the thinnest."""
    table = model.layout.table
    groups: dict[tuple[int, str], list[int]] = {}
    for u, unit in enumerate(table.units):
        if unit.kind != "core":
            groups.setdefault((unit.block, unit.kind), []).append(u)
    rng = np.random.default_rng(5)
    chosen = [[u for members in groups.values() for u in members]]
    for _ in range(6):
        blocks = rng.choice(table.block_count, rng.integers(1, table.block_count + 1), False)
        cut: list[int] = []
        for (block, _), members in groups.items():
            if block in blocks:
                cut += rng.choice(members, rng.integers(1, len(members) + 1), False).tolist()
        chosen.append(cut)
    chosen.append([members[0] for (block, _), members in groups.items() if block == 0])
    return [table.close(units) for units in chosen]


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
        functional.cross_entropy(module(samples), LABELS)
    return sum(s.nbytes() for s in found.values()) / 4 / BATCH


def test_parameters_are_counted_exactly(model: Architecture, values_of: Make) -> None:
    for units in submodels(model):
        module = build_submodel(model, units, (), values_of(model, 0), CPU)

        expected = sum(p.numel() for p in module.parameters())
        assert expected == model.layout.table.sizes[list(units)].sum()


def test_activations_agree_with_what_autograd_keeps(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    for units in submodels(model):
        module = build_submodel(model, units, (), values_of(model, 0), CPU)

        expected = kept_elements(module, samples)
        counted = int(model.layout.table.activations[list(units)].sum())
        assert counted == pytest.approx(expected, rel=0.02)


def test_a_frozen_prefix_keeps_no_activations(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    table = model.layout.table
    head = next(u for u, unit in enumerate(table.units) if unit.name == "head")
    last = table.block_count - 1
    trained = tuple(u for u in range(len(table)) if u == head or table.blocks[u] == last)
    frozen = tuple(u for u in range(len(table)) if u not in trained)
    module = build_submodel(model, trained, frozen, values_of(model, 0), CPU)

    expected = kept_elements(module, samples)

    # The input of the first trained block is made by frozen ones, and counts as its own.
    assert int(table.activations[list(trained)].sum()) == pytest.approx(expected, rel=0.02)
    assert expected < 0.6 * table.activations.sum()


def test_matrix_flops_agree_with_torchs_counter(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    table = model.layout.table
    for units in submodels(model):
        module = build_submodel(model, units, (), values_of(model, 0), CPU)

        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(samples)

        # The counter leaves norms and activations out: a few per cent of these tiny models.
        expected = counter.get_total_flops() / BATCH
        assert expected <= table.flops[list(units)].sum() <= 1.25 * expected


def test_a_skipped_block_changes_nothing_else(vit_model: Architecture, values_of: Make) -> None:
    """A block that adds nothing to the stream gives the same output as no block."""
    values, table = values_of(vit_model, 3), vit_model.layout.table
    for u, unit in enumerate(table.units):
        if unit.block == 1:
            values[u] = np.zeros(unit.size, np.float32)
    every = tuple(range(len(table)))
    without = tuple(u for u in every if table.blocks[u] != 1)

    expected = build_submodel(vit_model, every, (), values, CPU)(IMAGES)

    assert torch.allclose(
        expected, build_submodel(vit_model, without, (), values, CPU)(IMAGES), atol=1e-6
    )


def test_leaving_a_unit_out_is_the_same_as_taking_its_part_from_the_sum(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """The column of the output projection set to zero, or the unit gone: the same function.

    So no other unit's statistics depend on it (GroupNorm has one group per unit).
    """
    values, layout = values_of(model, 4), model.layout
    every = tuple(range(len(layout.units)))
    for out in (int(u) for u in np.flatnonzero(layout.table.prunable)):
        muted = dict(values)
        muted[out] = values[out].copy()
        last = layout.specs[out].slices[-1]
        size = layout.shapes[last.parameter]
        count = int(np.prod(size)) // size[last.dim] * (last.stop - last.start)
        muted[out][-count:] = 0.0
        rest = tuple(u for u in every if u != out)

        expected = build_submodel(model, every, (), muted, CPU)(samples)

        found = build_submodel(model, rest, (), values, CPU)(samples)
        assert torch.allclose(expected, found, atol=1e-5), layout.units[out].name


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_padding_changes_nothing(pool: Literal["mean", "token"], values_of: Make) -> None:
    config = TransformerConfig(Words(6, 9), 24, (BlockShape(2, 32),) * 2, 8, 16, 4, pool)
    model = transformer(config)
    every = tuple(range(len(model.layout.units)))
    module = build_submodel(model, every, (), values_of(model, 0), CPU)
    texts = torch.tensor([[3, 8, 1, 0, 0, 0], [2, 0, 0, 0, 0, 0]], dtype=torch.int32)
    expected = module(texts)

    with torch.no_grad():
        module.get_parameter("embed.weight")[0] += 1.0
        module.get_parameter("positions")[-3:] += 1.0

    assert torch.equal(expected, module(texts))
    with torch.no_grad():
        module.get_parameter("embed.weight")[2] += 1.0
    assert [False, True] == (expected != module(texts)).any(1).tolist()


def test_padding_gets_no_gradient(values_of: Make) -> None:
    model = transformer(TransformerConfig(Words(4, 9), 24, (BlockShape(2, 32),), 8, 16, 4))
    every = tuple(range(len(model.layout.units)))
    module = build_submodel(model, every, (), values_of(model, 0), CPU)

    module(torch.tensor([[5, 7, 0, 0]], dtype=torch.int32)).sum().backward()

    gradient = module.get_parameter("embed.weight").grad
    assert gradient is not None
    assert [5, 7] == gradient.abs().sum(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", ["neurons", "head"])
def test_a_block_may_lack_a_kind_and_then_costs_no_more_than_counted(
    vit_model: Architecture, values_of: Make, kind: str
) -> None:
    table = vit_model.layout.table
    units = table.close(u for u, unit in enumerate(table.units) if unit.kind == kind)
    module = build_submodel(vit_model, units, (), values_of(vit_model, 0), CPU)

    logits = module(IMAGES)
    logits.sum().backward()

    assert (BATCH, 4) == logits.shape
    # A norm that nobody reads keeps nothing.
    counted = int(table.activations[list(units)].sum())
    assert 0.8 * counted < kept_elements(module, IMAGES) <= 1.001 * counted


def test_sizes_that_can_not_be_cut_evenly_are_refused() -> None:
    with pytest.raises(SettingsError, match="does not divide"):
        TransformerConfig(Patches(8, 1, 3), 24, (BlockShape(2, 32),), 8, 16, 4)
    with pytest.raises(SettingsError, match="whole groups"):
        TransformerConfig(Patches(8, 1, 4), 24, (BlockShape(2, 33),), 8, 16, 4)
    with pytest.raises(SettingsError, match="whole groups"):
        ResNetConfig(8, 1, (Stage(1, 8, 10),), 4, 4)
    with pytest.raises(SettingsError, match="pool 5: the last stage is 4 wide"):
        ResNetConfig(8, 1, (Stage(1, 8, 8, stride=2),), 4, 4, pool=5)


def test_a_residual_block_without_channels_is_refused(values_of: Make) -> None:
    from cos2p_worker.models.resnet import resnet

    model = resnet(ResNetConfig(8, 1, (Stage(1, 8, 8),), 4, 4))
    cores = tuple(u for u, unit in enumerate(model.layout.units) if unit.kind == "core")

    with pytest.raises(SettingsError, match="no channels"):
        build_submodel(model, cores, (), values_of(model, 0), CPU)
