"""Verdicts on models with one head and with several; scaled units."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cos2p_worker.evaluation import evaluate
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.models.exits import Exits
from cos2p_worker.submodel import all_units, build_submodel, scaled_units
from cos2p_worker.task import Dataset, Task

Make = Callable[[Architecture, int], dict[int, NDArray[np.float32]]]
CPU = torch.device("cpu")


class Says(nn.Module):
    """Gives these logits, (heads, samples, classes)."""

    def __init__(self, logits: list[list[list[float]]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.logits.unbind(0))


def test_heads_are_judged_one_by_one_and_by_their_mean_probability(task: Task) -> None:
    """The mean is of probabilities: one sure head outvotes two that are hardly in doubt."""
    unsure, sure = [0.1, 0.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0]
    model = Says([[unsure, sure], [unsure, unsure], [sure, unsure]])
    data = Dataset(torch.zeros(2, 1), torch.tensor([1, 0]))

    found = evaluate(task, model, data)

    assert (0.0, 0.5) == found.exit_accuracies
    assert (1.0, 0.5) == (found.accuracy, found.mean_accuracy)
    expected = functional.cross_entropy(torch.tensor([sure, unsure]), data.labels)
    assert float(expected) == pytest.approx(found.loss)


def test_batches_add_up(task: Task) -> None:
    class Echo(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return x, -x

    inputs = torch.randn(1300, 4, generator=torch.Generator().manual_seed(1))
    data = Dataset(inputs, inputs.argmax(-1))

    found = evaluate(task, Echo(), data)

    assert ((1.0,), 0.0) == (found.exit_accuracies, found.accuracy)


def test_a_model_with_one_head_has_no_exits_to_judge(task: Task) -> None:
    found = evaluate(task, nn.Identity(), Dataset(torch.eye(4), torch.arange(4)))

    assert (1.0, (), None) == (found.accuracy, found.exit_accuracies, found.mean_accuracy)


def test_a_task_without_classes_has_a_loss_alone(task: Task) -> None:
    regression = replace(task, classes=None, loss=functional.mse_loss)

    found = evaluate(regression, nn.Identity(), Dataset(torch.ones(3, 2), torch.zeros(3, 2)))

    assert (1.0, None, ()) == (found.loss, found.accuracy, found.exit_accuracies)


def test_a_blocks_factor_is_what_its_branches_give_less(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """Against hooks that scale what each branch's last layer gives, its bias among it."""
    values, units = values_of(model, 0), all_units(model)
    factors = 0.9 ** np.maximum(model.layout.table.blocks + 1.0, 0)
    module = build_submodel(model, units, (), values, CPU)
    for name, part in module.named_modules():
        if f"{name}.weight" in model.branch_outputs:
            part.register_forward_hook(giving(0.9 ** (int(name.split(".")[1]) + 1)))

    scaled = build_submodel(model, units, (), scaled_units(model, values, factors), CPU)

    assert torch.allclose(module(samples), scaled(samples), atol=1e-6)
    plain = build_submodel(model, units, (), values, CPU)
    assert not torch.allclose(plain(samples), scaled(samples), atol=1e-4)


def giving(factor: float) -> Callable[[nn.Module, object, Tensor], Tensor]:
    return lambda _part, _inputs, output: factor * output


def test_a_unit_scaled_by_0_gives_what_the_submodel_without_it_gives(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """Each head, group of neurons and group of channels of the model."""
    values, units = values_of(model, 0), all_units(model)

    for unit in np.flatnonzero(model.layout.table.prunable).tolist():
        factors = np.ones(len(units))
        factors[unit] = 0.0
        silent = build_submodel(model, units, (), scaled_units(model, values, factors), CPU)
        without = build_submodel(model, [u for u in units if u != unit], (), values, CPU)

        assert torch.allclose(without(samples), silent(samples), atol=1e-6)


def test_a_block_scaled_by_0_is_a_block_skipped(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """The biases that write to the stream are its core's, and go with it."""
    values, units = values_of(model, 0), all_units(model)
    blocks = model.layout.table.blocks

    for block in range(model.layout.table.block_count):
        factors = np.where(blocks == block, 0.0, 1.0)
        silent = build_submodel(model, units, (), scaled_units(model, values, factors), CPU)
        rest = np.flatnonzero(blocks != block).tolist()
        without = build_submodel(model, rest, (), values, CPU)

        assert torch.allclose(without(samples), silent(samples), atol=1e-6)


def test_factors_of_1_leave_every_value_as_it_is(model: Architecture, values_of: Make) -> None:
    values = values_of(model, 0)

    scaled = scaled_units(model, values, np.ones(len(values)))

    assert {u: v.tobytes() for u, v in values.items()} == {
        u: v.tobytes() for u, v in scaled.items()
    }


@pytest.mark.parametrize("shared", [False, True])
def test_stem_heads_and_what_is_inside_a_branch_are_not_scaled(
    model: Architecture, values_of: Make, *, shared: bool
) -> None:
    assert model.with_exits is not None
    model = model.with_exits(Exits((0,), shared=shared))
    values, units = values_of(model, 0), all_units(model)

    scaled = scaled_units(model, values, np.full(len(values), 0.5))

    for piece in model.layout.pieces(units):
        factor = 0.5 if piece.parameter in model.branch_outputs else 1.0
        expected = factor * values[piece.unit][piece.flat]
        assert np.array_equal(expected, scaled[piece.unit][piece.flat])
    of_blocks = {u for u in units if not np.array_equal(values[u], scaled[u])}
    names = [u.name for u in model.layout.units]
    assert all(names[u].startswith("block") for u in of_blocks)


def test_a_model_that_names_no_branches_is_left_as_it_is(
    model: Architecture, values_of: Make
) -> None:
    silent = replace(model, branch_outputs=frozenset())
    values = values_of(silent, 0)

    scaled = scaled_units(silent, values, np.zeros(len(values)))

    assert all(np.array_equal(values[u], scaled[u]) for u in values)


def test_scaling_leaves_the_values_given_untouched(model: Architecture, values_of: Make) -> None:
    values = values_of(model, 0)
    before = {u: v.tobytes() for u, v in values.items()}

    scaled_units(model, values, np.full(len(values), 0.5))

    assert before == {u: v.tobytes() for u, v in values.items()}
