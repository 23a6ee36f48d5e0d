"""What holds a device near the model that it was given: against loops written out by hand."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cos2p.log.messages import Plan
from cos2p.run_config import AnchorConfig, LocalConfig, RunConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.loss import label_shift
from cos2p_worker.objectives.anchor import RAMP, Anchor, Proximal, is_anchored
from cos2p_worker.objectives.batch import Batch
from cos2p_worker.objectives.divergence import divergence, ramp_up, soft
from cos2p_worker.submodel import all_units, build_submodel, read_units
from cos2p_worker.task import Dataset, Task
from cos2p_worker.torch_trainer import local_machine
from cos2p_worker.train import Training, draw_batches, make_optimizer
from cos2p_worker.trainer import TrainingControl

PlanOf = Callable[..., Plan]
Deltas = dict[int, NDArray[np.float32]]
CPU = torch.device("cpu")


def config_of(**local: object) -> RunConfig:
    plain = {"steps": 4, "batch_size": 16, "learning_rate": 3e-3, "anchor": {"share": 0.0}}
    given = plain | local
    return RunConfig(local=LocalConfig.model_validate(given))


def train(task: Task, config: RunConfig, plan: Plan) -> Deltas:
    training = Training(task, task.shard(0, 2), config, local_machine())
    result, _ = training.run(plan, initial_values(task, 0), None, TrainingControl())
    return dict(result.deltas)


Extra = Callable[[nn.Module, nn.Module, Tensor, Tensor, int], Tensor]
"""(module, its dispatched copy, inputs, logits, step) to what is added to the loss."""


def train_by_hand(task: Task, config: RunConfig, plan: Plan, extra: Extra | None = None) -> Deltas:
    """The plain loop, with a second copy of the dispatched weights at hand."""
    base, data, local = initial_values(task, 0), task.shard(0, 2), config.local
    module = build_submodel(task.model, plan.trained, (), base, CPU)
    dispatched = copy.deepcopy(module)
    optimizer = make_optimizer(list(module.parameters()), local)
    shift = label_shift(task.label_counts(data) or (), local.logit_adjustment)
    batches = draw_batches(len(data), plan.batch_size, plan.seed)
    for step in range(1, plan.local_steps + 1):
        places = next(batches)
        inputs, labels = data.inputs[places], data.labels[places]
        optimizer.zero_grad(set_to_none=True)
        logits = module(inputs)
        loss = functional.cross_entropy(logits + shift, labels)
        if extra is not None:
            loss = loss + extra(module, dispatched, inputs, logits, step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), local.gradient_norm_max)
        optimizer.step()
    after = read_units(task.model, module, plan.trained)
    return {u: after[u] - base[u] for u in plan.trained}


def same(a: Deltas, b: Deltas) -> bool:
    return a.keys() == b.keys() and all(a[u].tobytes() == b[u].tobytes() for u in a)


def close(a: Deltas, b: Deltas) -> bool:
    return all(np.allclose(a[u], b[u], atol=1e-6) for u in a)


def late(plan: Plan) -> Plan:
    """The plan when every ramp is over."""
    return plan.model_copy(update={"progress": 0.99})


def test_the_divergence_is_what_it_is_by_hand() -> None:
    """Teacher (3/4, 1/4) and student (1/2, 1/2) at T = 2; the second sample agrees."""
    teacher = torch.tensor([[2 * math.log(3), 0.0], [1.0, 1.0]])
    student = torch.tensor([[5.0, 5.0], [0.0, 0.0]])

    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    found = divergence(soft(teacher, 2.0), soft(student, 2.0))
    assert expected == pytest.approx(float(found), rel=1e-5)


def test_the_gradients_size_hardly_depends_on_the_temperature() -> None:
    teacher = torch.tensor([[0.3, -0.2, 0.1]])

    def gradient(temperature: float) -> float:
        student = torch.zeros(1, 3, requires_grad=True)
        distance = divergence(soft(teacher, temperature), soft(student, temperature))
        return float(torch.autograd.grad(temperature**2 * distance, student)[0].norm())

    assert gradient(8.0) == pytest.approx(gradient(2.0), rel=0.1)


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [
        (0.25, 8, [4, 8]),
        (0.5, 5, [2, 4]),
        (1.0, 3, [1, 2, 3]),
        (0.0, 4, []),
        (0.1, 30, [10, 20, 30]),
        (0.29, 100, [math.ceil(i / 0.29) for i in range(1, 30)]),
    ],
)
def test_anchored_steps_are_evenly_spread(share: float, steps: int, expected: list[int]) -> None:
    assert expected == [s for s in range(1, steps + 1) if is_anchored(s, share)]


def test_a_ramp_rises_in_a_line_and_stays() -> None:
    assert [0.0, 0.5, 1.0, 1.0] == [ramp_up(p, 0.3) for p in (0.0, 0.15, 0.3, 0.9)]
    assert 1.0 == ramp_up(0.0, 0.0)


def test_without_any_form_a_plan_is_the_plain_loop_byte_for_byte(
    task: Task, plan_of: PlanOf
) -> None:
    plan, config = plan_of(all_units(task.model)), config_of()

    assert same(train_by_hand(task, config, plan), train(task, config, plan))


@pytest.mark.parametrize(
    "local",
    [
        {"anchor": AnchorConfig(share=0.0)},
        {"proximal": 0.0},
    ],
)
def test_a_form_that_is_off_changes_no_byte(
    task: Task, plan_of: PlanOf, local: dict[str, object]
) -> None:
    plan = late(plan_of(all_units(task.model)))

    assert same(train(task, config_of(), plan), train(task, config_of(**local), plan))


def test_the_anchor_is_off_at_the_start_of_a_run(task: Task, plan_of: PlanOf) -> None:
    plan = plan_of(all_units(task.model))
    anchored = config_of(anchor=AnchorConfig(share=1.0))

    assert same(train(task, config_of(), plan), train(task, anchored, plan))


def test_the_anchors_teacher_is_the_dispatched_submodel_on_the_same_batches(
    task: Task, plan_of: PlanOf
) -> None:
    """Against a loop that keeps a second copy of the weights, at half the ramp (SGD)."""
    anchor = AnchorConfig(share=0.5)
    units = task.units.close(u for u in all_units(task.model) if task.units.blocks[u] != 1)
    plan = plan_of(units).model_copy(update={"progress": RAMP / 2, "learning_rate": 0.05})
    given: dict[str, object] = {"optimizer": "sgd", "learning_rate": 0.05}
    config = config_of(**given, anchor=anchor)

    def term(module: nn.Module, then: nn.Module, inputs: Tensor, now: Tensor, step: int) -> Tensor:
        if step not in (2, 4):
            return torch.zeros(())
        with torch.no_grad():
            taught = functional.softmax(then(inputs) / 2.0, -1)
        found = functional.log_softmax(now / 2.0, -1)
        return 0.5 * 4 * functional.kl_div(found, taught, reduction="batchmean")

    expected = train_by_hand(task, config, plan, term)
    found = train(task, config, plan)

    assert close(expected, found)
    assert not close(train(task, config_of(**given), plan), found)


def test_the_proximal_term_pulls_towards_the_dispatched_weights(
    task: Task, plan_of: PlanOf
) -> None:
    """Against the term written out with autograd; SGD, so that a gradient's size counts."""
    plan = plan_of(all_units(task.model))
    given: dict[str, object] = {"optimizer": "sgd", "gradient_norm_max": 1e9}

    def term(module: nn.Module, then: nn.Module, inputs: Tensor, now: Tensor, step: int) -> Tensor:
        pairs = zip(module.parameters(), then.parameters(), strict=True)
        squares = [((a - b.detach()) ** 2).sum() for a, b in pairs]
        return 0.5 * 40.0 * torch.stack(squares).sum()

    expected = train_by_hand(task, config_of(**given), plan, term)
    found = train(task, config_of(**given, proximal=40.0), plan)

    assert close(expected, found)
    assert not close(train(task, config_of(**given), plan), found)


def test_the_proximal_term_is_half_rho_times_the_squared_distance() -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    term = Proximal(0.5)
    term.prepare(layer)
    with torch.no_grad():
        layer.weight += torch.tensor([[3.0, 4.0]])
    layer.weight.grad = torch.tensor([[1.0, 0.0]])

    assert 0.25 * 25 == pytest.approx(term.add_gradients())
    assert [1.0 + 1.5, 2.0] == layer.weight.grad.flatten().tolist()


@pytest.mark.parametrize("local", [{"anchor": AnchorConfig(share=0.5)}, {"proximal": 1.0}])
def test_the_same_plan_gives_the_same_bytes_with_each_form(
    task: Task, plan_of: PlanOf, local: dict[str, object]
) -> None:
    plan, config = late(plan_of(all_units(task.model))), config_of(**local)

    first = train(task, config, plan)
    torch.manual_seed(5)

    assert same(first, train(task, config, plan))


def test_the_teacher_is_asked_once_per_anchored_step_and_in_evaluation_mode() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[float, bool, bool]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.calls.append((float(x[0, 0]), self.training, torch.is_grad_enabled()))
            return x

    model = Model()
    anchor = Anchor(share=0.25, progress=1.0)

    labels = torch.zeros(1, dtype=torch.int64)
    anchor.prepare(model, lambda step: Batch(step, torch.full((1, 2), float(step)), labels), 8)

    assert [(4.0, False, False), (8.0, False, False)] == model.calls
    assert model.training
    assert 2 == len(list(anchor.kept()))


def test_a_task_without_classes_is_not_anchored_and_trains_all_the_same(
    task: Task, plan_of: PlanOf
) -> None:
    data = Dataset(torch.randn(20, 1, 8, 8), torch.randn(20, task.classes or 1))
    regression = replace(task, classes=None, loss=functional.mse_loss, train_shard=lambda *_: data)
    plan = plan_of(all_units(task.model))

    anchored, free = (
        train(regression, config_of(anchor=AnchorConfig(share=share)), plan) for share in (0.5, 0.0)
    )

    for unit in plan.trained:
        np.testing.assert_array_equal(free[unit], anchored[unit])
