"""What a model shows to a tap: each unit's own activation, where the contract says it lies."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cos2p.model.units import Kind
from cos2p_worker.models.architecture import CHANNEL_DIM, Architecture, Tap, Tapped
from cos2p_worker.submodel import all_units, build_submodel

Make = Callable[[Architecture, int], dict[int, NDArray[np.float32]]]
CPU = torch.device("cpu")
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def whole(model: Architecture, values: dict[int, NDArray[np.float32]]) -> Tapped:
    module = build_submodel(model, all_units(model), (), values, CPU)
    assert isinstance(module, Tapped)
    return module


def silencing(block: int, kind: Kind, place: int, count: int) -> Tap:
    """A tap that zeroes the `place`-th of `count` units."""

    def silence(at_block: int, at_kind: Kind, activation: Tensor) -> Tensor:
        if (at_block, at_kind) != (block, kind):
            return activation
        units = list(activation.chunk(count, CHANNEL_DIM[kind]))
        units[place] = torch.zeros_like(units[place])
        return torch.cat(units, CHANNEL_DIM[kind])

    return silence


def test_silencing_a_unit_in_its_tap_is_the_same_as_leaving_it_out(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    values, units = values_of(model, 1), model.layout.units
    module = whole(model, values)
    for dropped, unit in enumerate(units):
        if unit.kind == "core":
            continue
        peers = [u for u, x in enumerate(units) if (x.block, x.kind) == (unit.block, unit.kind)]
        rest = tuple(u for u in all_units(model) if u != dropped)
        without = build_submodel(model, rest, (), values, CPU)
        module.tap = silencing(unit.block, unit.kind, peers.index(dropped), len(peers))

        torch.testing.assert_close(without(samples), module(samples))


def test_a_tap_sees_each_kind_of_each_block_once(vit_model: Architecture, values_of: Make) -> None:
    seen: list[tuple[int, Kind, tuple[int, ...]]] = []

    def look(block: int, kind: Kind, activation: Tensor) -> Tensor:
        seen.append((block, kind, tuple(activation.shape)))
        return activation

    module = whole(vit_model, values_of(vit_model, 1))
    untapped = module(IMAGES)
    module.tap = look
    tapped = module(IMAGES)

    expected = [
        (block, kind, (3, 4, width))
        for block, (heads, neurons) in enumerate(((2, 32), (3, 16), (2, 48)))
        for kind, width in (("head", 8 * heads), ("neurons", neurons))
    ]
    assert expected == seen
    assert torch.equal(untapped, tapped)


@pytest.mark.parametrize("absent", ["head", "neurons"])
def test_a_kind_that_is_not_there_shows_no_channels(
    absent: Kind, vit_model: Architecture, values_of: Make
) -> None:
    widths: list[int] = []

    def look(block: int, kind: Kind, activation: Tensor) -> Tensor:
        if kind == absent:
            widths.append(activation.shape[CHANNEL_DIM[kind]])
        return activation

    table = vit_model.layout.table
    units = table.close(u for u, x in enumerate(table.units) if x.kind not in ("core", absent))
    module = build_submodel(vit_model, units, (), values_of(vit_model, 1), CPU)
    assert isinstance(module, Tapped)
    module.tap = look
    module(IMAGES)

    assert [0, 0, 0] == widths
