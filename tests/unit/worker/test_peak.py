"""Measured peaks: against cases counted by hand, and against the cost model."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cos2p.model.cost import CostModel
from cos2p.run_config import LocalConfig, RunConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.peak import LiveBytes
from cos2p_worker.standalone import standalone_units
from cos2p_worker.task import Dataset, Task
from cos2p_worker.tasks import digits
from cos2p_worker.torch_trainer import local_machine, local_plan
from cos2p_worker.train import Training
from cos2p_worker.trainer import TrainingControl

KB = 1024


def floats(kilobytes: int) -> torch.Tensor:
    return torch.zeros(kilobytes * KB // 4)


def test_tensors_that_live_together_add_up() -> None:
    with LiveBytes() as meter:
        a = floats(4)
        b = a + 1
        c = b + 1

    assert 12 * KB == meter.peak_bytes == meter.live_bytes
    assert len({id(x) for x in (a, b, c)}) == 3


def test_a_tensor_that_is_gone_makes_room() -> None:
    with LiveBytes() as meter:
        a = floats(4)
        del a
        b = floats(3)

    assert 4 * KB == meter.peak_bytes
    assert 3 * KB == meter.live_bytes == b.untyped_storage().nbytes()


def test_views_and_changes_in_place_cost_nothing() -> None:
    with LiveBytes() as meter:
        a = floats(4)
        b = a.view(2, -1).t()[1:]
        a.add_(1.0)
        del a

    assert 4 * KB == meter.peak_bytes == meter.live_bytes
    assert b is not None


def test_what_was_there_before_counts_when_it_is_held() -> None:
    weights = [floats(2), floats(1)]
    meter = LiveBytes()
    meter.hold([*weights, weights[0].view(2, -1)])

    with meter:
        weights[0] + 1

    assert 5 * KB == meter.peak_bytes
    assert 3 * KB == meter.live_bytes


def test_what_backward_makes_is_seen() -> None:
    weight = nn.Parameter(floats(4))
    meter = LiveBytes()
    meter.hold([weight])

    with meter:
        (weight * 2.0).sum().backward()  # type: ignore[no-untyped-call]

    assert weight.grad is not None
    assert 8 * KB == meter.live_bytes


def test_a_linear_layers_step_is_what_it_is_by_hand() -> None:
    """Weights 4 KB + bias, input 8 KB (kept), output 8 KB, then its gradient and the weights'."""
    layer = nn.Linear(32, 32)
    meter = LiveBytes()
    meter.hold(layer.parameters())

    with meter:
        x = torch.ones(64, 32)
        out = layer(x)
        grad = torch.ones_like(out)
        out.backward(grad)

    weights = 32 * 32 * 4 + 32 * 4
    assert weights + 3 * 8 * KB + weights == pytest.approx(meter.peak_bytes, rel=0.01)


@pytest.mark.parametrize("fraction", [0.3, 0.45, 0.6, 1.0])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_cost_models_forecast_is_near_the_measured_peak(
    fraction: float, optimizer: str
) -> None:
    """Within -15 % and +6 %.

    The sum over units takes all gradients and all activations to live at once (they don't: most
    gradients come when their activations are gone) and leaves out the transients of the backward
    pass, a few tensors as large as the stream: more than the rest only in very small submodels.
    """
    config = RunConfig(local=LocalConfig(optimizer=optimizer, batch_size=32))
    task = replace(digits.TASK, run=config)
    measured, forecast = measured_and_forecast(task, config, fraction)

    assert 0.85 * forecast <= measured <= 1.06 * forecast


def test_the_demos_smallest_device_stays_within_its_memory() -> None:
    config = digits.TASK.run
    cost = CostModel.of(digits.TASK.units, config)
    memory_bytes = cost.memory_for_fraction(0.15)
    margin = int((1 - config.plans.memory_margin) * memory_bytes)
    units = standalone_units(digits.TASK, config, margin, "w")

    assert peak_of(digits.TASK, config, units) <= memory_bytes


def measured_and_forecast(task: Task, config: RunConfig, fraction: float) -> tuple[int, int]:
    cost = CostModel.of(task.units, config)
    units = standalone_units(task, config, cost.memory_for_fraction(fraction), "w")
    return peak_of(task, config, units), cost.peak_bytes(units)


def peak_of(task: Task, config: RunConfig, units: tuple[int, ...]) -> int:
    data = Dataset(torch.zeros(64, 1, 8, 8), torch.arange(64) % 10)
    training = Training(task, data, config, local_machine())
    plan = local_plan(units, 3, config.local, seed=0)
    result, _ = training.run(plan, initial_values(task, 0, units), None, TrainingControl())
    return result.peak_bytes
