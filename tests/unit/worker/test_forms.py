"""Plans trained with each objective: the whole path from settings to deltas."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from cos2p.errors import SettingsError
from cos2p.log.messages import Plan
from cos2p.model.cost import CostModel
from cos2p.run_config import AnchorConfig, ExitConfig, LocalConfig, RunConfig
from cos2p_worker.evaluation import evaluate_values
from cos2p_worker.initial import initial_values
from cos2p_worker.task import Task
from cos2p_worker.torch_trainer import local_machine
from cos2p_worker.train import Training
from cos2p_worker.trainer import TrainingControl, TrainResult

PlanOf = Callable[..., Plan]
EXITS = ExitConfig(distillation=0.5, final_share=0.5)
OBJECTIVES = ["exits", "depthfl", "scalefl"]


def made(task: Task, objective: str, **local: object) -> Task:
    plain = {"steps": 4, "batch_size": 16, "exits": EXITS, "anchor": AnchorConfig(share=0.0)}
    config = LocalConfig.model_validate(plain | {"objective": objective} | local)
    run = RunConfig(local=config)
    return replace(task.for_run(run), run=run)


def train(task: Task, plan: Plan, seed: int = 0) -> TrainResult:
    training = Training(task, task.shard(0, 2), task.run, local_machine())
    return training.run(plan, initial_values(task, seed), None, TrainingControl())[0]


def prefix(task: Task, blocks: int) -> tuple[int, ...]:
    return task.units.close(
        u for u in np.flatnonzero(task.units.prunable).tolist() if task.units.blocks[u] < blocks
    )


def moved(deltas: dict[int, NDArray[np.float32]], units: tuple[int, ...]) -> list[int]:
    return [u for u in units if not deltas[u].any()]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_unit_of_a_submodel_is_trained(task: Task, plan_of: PlanOf, objective: str) -> None:
    exited = made(task, objective)
    units = prefix(exited, 2)

    result = train(exited, plan_of(units).model_copy(update={"progress": 0.9}))

    assert [] == moved(dict(result.deltas), units)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_plan_gives_the_same_bytes(task: Task, plan_of: PlanOf, objective: str) -> None:
    exited = made(task, objective)
    plan = plan_of(prefix(exited, 3)).model_copy(update={"progress": 0.9})

    first = train(exited, plan)
    torch.manual_seed(99)
    second = train(exited, plan)

    assert [d.tobytes() for d in first.deltas.values()] == [
        d.tobytes() for d in second.deltas.values()
    ]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_learns_and_so_do_its_exits(
    task: Task, plan_of: PlanOf, objective: str
) -> None:
    exited = made(task, objective, optimizer="adamw")
    units = prefix(exited, 3)
    base = initial_values(exited, 0)

    result = train(exited, plan_of(units, steps=40).model_copy(update={"progress": 0.9}))

    values = {u: base[u] + result.deltas[u] for u in units}
    found = evaluate_values(exited, values, exited.evaluation_data(), units)
    assert min(*found.exit_accuracies, found.accuracy or 0, found.mean_accuracy or 0) > 0.6


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_anchor_holds_the_deepest_head(task: Task, plan_of: PlanOf, objective: str) -> None:
    free, held = made(task, objective), made(task, objective, anchor=AnchorConfig(share=0.5))
    plan = plan_of(prefix(free, 2)).model_copy(update={"progress": 0.9})

    assert train(free, plan).loss_first == train(held, plan).loss_first
    assert train(free, plan).loss_last != train(held, plan).loss_last


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_forecast_peak_is_near_the_measured_one(
    task: Task, plan_of: PlanOf, objective: str
) -> None:
    exited = made(task, objective, proximal=0.1)
    for blocks in (1, 2, 3):
        units = prefix(exited, blocks)

        found = train(exited, plan_of(units)).peak_bytes

        forecast = CostModel.of(exited.units, exited.run).peak_bytes(units)
        assert 0.8 * forecast <= found <= 1.15 * forecast


FORMS: list[dict[str, object]] = [
    {"objective": "final", "anchor": AnchorConfig(share=0.25)},
    {"objective": "final", "proximal": 0.5},
    {"objective": "exits"},
    {"objective": "depthfl"},
    {"objective": "scalefl"},
    {"objective": "fjord", "exits": ExitConfig()},
    {"objective": "fjord", "exits": ExitConfig(distillation=1.0)},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda f: ",".join(f))
def test_the_forecast_arithmetic_of_a_form_is_what_torch_counts(
    task: Task, plan_of: PlanOf, form: dict[str, object]
) -> None:
    """As a ratio to the plain loss: torch counts no norms, the model counts them."""
    plain = made(task, "final")
    given = made(task, **form)  # type: ignore[arg-type]

    counted, forecast = matrix_flops(given, plan_of), forecast_flops(given)

    assert forecast / forecast_flops(plain) == pytest.approx(
        counted / matrix_flops(plain, plan_of), rel=0.05
    )


def matrix_flops(task: Task, plan_of: PlanOf) -> float:
    """Of a step, mean over a plan late in the run."""
    steps = 30 if task.run.local.objective == "fjord" else 8
    plan = plan_of(prefix(task, 3), steps=steps).model_copy(update={"progress": 0.9})
    with FlopCounterMode(display=False) as counter:
        train(task, plan)
    return float(counter.get_total_flops()) / plan.local_steps


def forecast_flops(task: Task) -> int:
    return CostModel.of(task.units, task.run).training_flops(prefix(task, 3))


def test_a_task_that_was_not_made_for_the_run_is_refused(task: Task, plan_of: PlanOf) -> None:
    forgotten = replace(task, run=made(task, "exits").run)

    with pytest.raises(SettingsError, match="for_run"):
        train(forgotten, plan_of(prefix(task, 1)))
