"""FjORD's ordered dropout: a step at a width is a step of the narrower model."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cos2p.log.messages import Plan
from cos2p.model.cost import CostModel
from cos2p.model.nested import nested_widths
from cos2p.run_config import ExitConfig, LocalConfig, RunConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.objectives.batch import Batch
from cos2p_worker.objectives.exits import FinalHead
from cos2p_worker.objectives.local_loss import Objective
from cos2p_worker.objectives.ordered_dropout import OrderedDropout
from cos2p_worker.submodel import all_units, build_submodel
from cos2p_worker.task import Task
from cos2p_worker.torch_trainer import local_machine
from cos2p_worker.train import Training
from cos2p_worker.trainer import TrainingControl, TrainResult

UnitValues = dict[int, NDArray[np.float32]]
Make = Callable[[Architecture, int], UnitValues]
PlanOf = Callable[..., Plan]
CPU = torch.device("cpu")
LABELS = torch.arange(16) % 4


def dropout(
    model: Architecture, units: tuple[int, ...], distillation: float = 0.0, temperature: float = 1.0
) -> OrderedDropout:
    config = ExitConfig(distillation=distillation, temperature=temperature)
    return OrderedDropout(functional.cross_entropy, config, model, units, (), seed=3)


def steps_by_width(objective: OrderedDropout) -> dict[int, int]:
    """A step that draws each width."""
    return {objective.drawn(step): step for step in range(1, 200)}


def gradients(
    model: Architecture, units: tuple[int, ...], values: UnitValues, objective: Objective, on: Batch
) -> tuple[float, UnitValues]:
    """The loss, and its gradients by unit (zeros where none came)."""
    module = build_submodel(model, units, (), values, CPU)
    ((loss, _),) = objective.parts(module, on)
    loss.backward()  # type: ignore[no-untyped-call]
    zero = {n: np.zeros(p.shape, np.float32) for n, p in module.named_parameters()}
    found = {n: p.grad.numpy() for n, p in module.named_parameters() if p.grad is not None}
    return float(loss.detach()), model.layout.scatter(zero | found, units)


def test_a_step_at_a_width_is_a_step_of_the_narrower_model(
    model: Architecture, values_of: Make, samples: Tensor
) -> None:
    """The same loss, the same gradients, and exactly none for what is left out."""
    units, values = all_units(model), values_of(model, 0)
    objective = dropout(model, units)
    widths = nested_widths(model.layout.table, units)
    assert len(widths) == len(steps_by_width(objective)) > 2
    for width, step in steps_by_width(objective).items():
        on = Batch(step, samples, LABELS)
        narrower = FinalHead(functional.cross_entropy, ExitConfig(), 0.0)

        expected_loss, expected = gradients(model, widths[width], values, narrower, on)
        loss, found = gradients(model, units, values, objective, on)

        assert expected_loss == pytest.approx(loss)
        for unit in units:
            wanted = expected.get(unit, np.zeros_like(found[unit]))
            assert np.allclose(wanted, found[unit], atol=1e-6), model.layout.units[unit].name
            assert unit in widths[width] or not found[unit].any()


def test_full_width_teaches_the_width_that_was_drawn(
    vit_model: Architecture, values_of: Make
) -> None:
    """CE(full, y), then weight * T^2 * CE(narrow / T, softmax(full / T)), the teacher detached."""
    units, values = all_units(vit_model), values_of(vit_model, 0)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    objective = dropout(vit_model, units, distillation=0.7, temperature=2.0)
    step = steps_by_width(objective)[0]
    full = build_submodel(vit_model, units, (), values, CPU)
    narrow_units = nested_widths(vit_model.layout.table, units)[0]
    narrow = build_submodel(vit_model, narrow_units, (), values, CPU)
    taught = functional.softmax(full(images) / 2, -1).detach()

    first, second = objective.parts(full, Batch(step, images, LABELS))

    assert torch.allclose(functional.cross_entropy(full(images), LABELS), first[0])
    expected = 0.7 * 4 * functional.cross_entropy(narrow(images) / 2, taught)
    assert float(expected.detach()) == pytest.approx(float(second[0].detach()), rel=1e-5)


def test_full_width_is_not_taught_by_itself(vit_model: Architecture, values_of: Make) -> None:
    units = all_units(vit_model)
    objective = dropout(vit_model, units, distillation=1.0)
    widest = max(steps_by_width(objective))
    module = build_submodel(vit_model, units, (), values_of(vit_model, 0), CPU)
    batch = Batch(steps_by_width(objective)[widest], torch.zeros(16, 1, 8, 8), LABELS)

    assert 1 == len(list(objective.parts(module, batch)))


def test_widths_are_drawn_evenly_and_by_the_plans_seed(vit_model: Architecture) -> None:
    units = all_units(vit_model)
    objective = dropout(vit_model, units)
    counts = Counter(objective.drawn(step) for step in range(1, 3001))

    width_count = len(nested_widths(vit_model.layout.table, units))
    assert set(range(width_count)) == set(counts)
    assert all(0.85 < count * width_count / 3000 < 1.15 for count in counts.values())
    again, other = (
        dropout(vit_model, units),
        OrderedDropout(functional.cross_entropy, ExitConfig(), vit_model, units, (), seed=4),
    )
    draws = [[o.drawn(step) for step in range(1, 30)] for o in (objective, again, other)]
    assert draws[0] == draws[1] != draws[2]


def made(**local: object) -> RunConfig:
    plain = {"steps": 12, "batch_size": 16, "objective": "fjord", "anchor": {"share": 0.0}}
    return RunConfig(local=LocalConfig.model_validate(plain | local))


def train(task: Task, config: RunConfig, plan: Plan) -> TrainResult:
    training = Training(task, task.shard(0, 2), config, local_machine())
    return training.run(plan, initial_values(task, 0), None, TrainingControl())[0]


@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_plans_are_trained_byte_for_byte_alike(
    task: Task, plan_of: PlanOf, distillation: float
) -> None:
    config = made(exits=ExitConfig(distillation=distillation, temperature=1.0))
    plan = plan_of(all_units(task.model), steps=12)

    first = train(task, config, plan)
    torch.manual_seed(8)
    second = train(task, config, plan)

    assert [d.tobytes() for d in first.deltas.values()] == [
        d.tobytes() for d in second.deltas.values()
    ]


def test_frozen_units_stay_and_are_in_every_width(task: Task, plan_of: PlanOf) -> None:
    table = task.units
    frozen = tuple(u for u in range(len(table)) if table.blocks[u] == 0)
    trained = tuple(u for u in range(len(table)) if table.blocks[u] != 0)

    result = train(task, made(), plan_of(trained, frozen, steps=12))

    assert trained == tuple(result.deltas)


@pytest.mark.parametrize("distillation", [0.0, 1.0])
def test_the_peak_is_that_of_full_width_whatever_the_first_steps_draw(
    task: Task, plan_of: PlanOf, distillation: float
) -> None:
    """One pass is alive at a time, so that distillation takes no more memory."""
    config = made(exits=ExitConfig(distillation=distillation))
    units = all_units(task.model)

    found = train(task, config, plan_of(units, steps=12)).peak_bytes

    forecast = CostModel.of(task.units, config).peak_bytes(units)
    assert 0.85 * forecast <= found <= 1.15 * forecast
