"""Submodels as torch modules: built, filled and read out; frozen parts get no gradient.

Invariants: a submodel's parameters are exactly those of the layout for its units. Frozen units
share no parameter with trained ones (they are whole blocks, or whole core units). Batch norm is
refused, because its statistics can't be merged.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cos2p.errors import SettingsError
from cos2p_worker.layout import UnitArrays
from cos2p_worker.models.architecture import Architecture


def build_submodel(
    model: Architecture,
    trained: Sequence[int],
    frozen: Sequence[int],
    values: UnitArrays,
    device: torch.device,
) -> nn.Module:
    """Build the module that holds the given units, with their values.

    `values` has the flat float32 array of each unit; they are copied. Frozen units get no gradient.

    Raises:
        SettingsError: the module does not match its layout, uses batch norm, or a parameter would
            be part trained and part frozen.
    """
    units = tuple(sorted({*trained, *frozen}))
    with torch.random.fork_rng(devices=[]):
        module = model.build(units)
    check_module(model, module, units)
    with torch.no_grad():
        arrays = {name: p.numpy() for name, p in module.named_parameters()}
        model.layout.cut(values, units, arrays)
    without = model.layout.parameters_of(frozen)
    if both := sorted(without & model.layout.parameters_of(trained)):
        raise SettingsError(f"{both[0]}: part trained, part frozen; freeze whole blocks only")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in without)
    return module.to(device)


def read_units(
    model: Architecture, module: nn.Module, units: Sequence[int]
) -> dict[int, NDArray[np.float32]]:
    """Return the flat float32 arrays of the units of `module`, which holds exactly these."""
    arrays = {name: p.detach().cpu().numpy() for name, p in module.named_parameters()}
    return model.layout.scatter(arrays, units)


def scaled_units(
    model: Architecture, values: UnitArrays, factors: NDArray[np.float64]
) -> UnitArrays:
    """Return a model's values so that each unit gives `factors[unit]` times as much to the stream.

    The factors are folded into the weights and biases that write to the stream
    (`Architecture.branch_outputs`). So a scaled model is an ordinary model. A model that names none
    is left unchanged, and so are stem and heads. `factors` has shape (units of the table,).
    """
    units = tuple(sorted(values))
    scaled = {u: np.array(values[u], np.float32) for u in units}
    for piece in model.layout.pieces(units):
        if piece.parameter in model.branch_outputs:
            scaled[piece.unit][piece.flat] *= np.float32(factors[piece.unit])
    return scaled


def check_module(model: Architecture, module: nn.Module, units: Sequence[int]) -> None:
    """Compare a module with its layout.

    Raises:
        SettingsError: as in `build_submodel`.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise SettingsError(
                f"{name or 'the model'} is batch norm, whose statistics differ per device: "
                "use GroupNorm or LayerNorm"
            )
    found = {name: tuple(p.shape) for name, p in module.named_parameters()}
    expected = model.layout.shapes_of(units)
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise SettingsError(
                f"parameter {name}: the module has {found.get(name, 'none')}, "
                f"its layout declares {expected.get(name, 'none')}"
            )
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise SettingsError(f"parameter {name} is {parameter.dtype}: float32 is needed")


def all_units(model: Architecture) -> tuple[int, ...]:
    """Return every unit of the model."""
    return tuple(range(len(model.layout.units)))
