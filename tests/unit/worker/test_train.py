"""Local training of a plan."""

import copy
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cos2p.log.messages import Plan
from cos2p_worker.initial import initial_values
from cos2p_worker.submodel import all_units, build_submodel
from cos2p_worker.task import Dataset, Task
from cos2p_worker.train import HeldState, Machine, Training, draw_batches
from cos2p_worker.trainer import (
    TrainingControl,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStoppedError,
    TrainResult,
)

PlanOf = Callable[..., Plan]


class Ticks:
    """A clock that goes on by `step` at each look."""

    def __init__(self, step: float = 1.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Sleeps(threading.Event):
    """An event that notes for how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return False


def training_of(task: Task, **machine: object) -> Training:
    data = task.shard(0, 2)
    given = Machine(torch.device("cpu"), Ticks(), Ticks())
    return Training(task, data, task.run, replace(given, **machine))  # type: ignore[arg-type]


def run(
    training: Training, plan: Plan, held: HeldState | None = None, seed: int = 0
) -> tuple[TrainResult, HeldState]:
    base = initial_values(training.task, seed)
    return training.run(plan, base, held, TrainingControl())


def length(result: TrainResult) -> float:
    return float(np.sqrt(sum(float(np.dot(d, d)) for d in result.deltas.values())))


def same(a: TrainResult, b: TrainResult) -> bool:
    return all(a.deltas[u].tobytes() == b.deltas[u].tobytes() for u in a.deltas)


def test_the_same_plan_gives_the_same_delta_byte_for_byte(task: Task, plan_of: PlanOf) -> None:
    plan = plan_of(all_units(task.model))

    first, _ = run(training_of(task), plan)
    torch.manual_seed(123)
    second, _ = run(training_of(task), plan)

    assert same(first, second)


def test_another_seed_gives_another_delta(task: Task, plan_of: PlanOf) -> None:
    units = all_units(task.model)

    first, _ = run(training_of(task), plan_of(units, seed=1))
    second, _ = run(training_of(task), plan_of(units, seed=2))

    assert not same(first, second)


def test_the_plan_names_the_learning_rate_even_with_held_state(task: Task, plan_of: PlanOf) -> None:
    plan = plan_of(all_units(task.model))
    slower = plan.model_copy(update={"learning_rate": plan.learning_rate / 10})

    _, held = run(training_of(task), plan)
    fast, _ = run(training_of(task), plan, held)
    _, held = run(training_of(task), plan)
    slow, _ = run(training_of(task), slower, held)

    assert 0 < length(slow) < 0.5 * length(fast)


def test_held_state_is_part_of_what_gives_the_delta(task: Task, plan_of: PlanOf) -> None:
    plan, training = plan_of(all_units(task.model)), training_of(task)
    fresh, held = run(training, plan)

    again, _ = run(training, plan, copy.deepcopy(held))
    once_more, _ = run(training_of(task), plan, held)

    assert not same(fresh, again)
    assert same(again, once_more)


def test_held_state_of_other_units_is_dropped(task: Task, plan_of: PlanOf) -> None:
    units = all_units(task.model)
    fewer = task.units.close(u for u in units if task.units.blocks[u] != 1)
    training = training_of(task)
    _, held = run(training, plan_of(fewer))

    expected, _ = run(training, plan_of(units))
    found, _ = run(training, plan_of(units), held)

    assert same(expected, found)


def test_the_deltas_are_of_the_trained_units_and_lead_to_the_trained_model(
    task: Task, plan_of: PlanOf
) -> None:
    """base + delta is a model with a lower loss on the device's own data."""
    units = task.units.close(u for u in range(len(task.units)) if task.units.blocks[u] != 2)
    training = training_of(task)
    base = initial_values(task, 0)

    result, _ = run(training, plan_of(units, steps=30))

    assert units == tuple(result.deltas)
    moved = {u: base[u] + result.deltas[u] for u in units}
    losses = [loss_on(training, values, units) for values in (base, moved)]
    assert losses[1] < 0.5 * losses[0]
    assert result.loss_last < result.loss_first
    assert (30, 64) == (result.steps_done, result.sample_count)


def loss_on(
    training: Training, values: dict[int, NDArray[np.float32]], units: tuple[int, ...]
) -> float:
    module = build_submodel(training.task.model, (), units, values, torch.device("cpu"))
    return float(training.task.loss(module(training.data.inputs), training.data.labels))


def test_frozen_units_have_no_delta_and_shape_the_others(task: Task, plan_of: PlanOf) -> None:
    table = task.units
    frozen = tuple(u for u in range(len(table)) if table.blocks[u] == 0)
    trained = tuple(u for u in range(len(table)) if table.blocks[u] != 0)

    with_it, _ = run(training_of(task), plan_of(trained, frozen))
    without, _ = run(training_of(task), plan_of(trained))

    assert trained == tuple(with_it.deltas)
    assert not same(with_it, without)


def test_base_values_may_be_memory_mapped_and_stay_as_they_are(task: Task, plan_of: PlanOf) -> None:
    values = initial_values(task, 0)
    for value in values.values():
        value.flags.writeable = False
    before = {u: value.tobytes() for u, value in values.items()}

    training = training_of(task)
    training.run(plan_of(all_units(task.model)), values, None, TrainingControl())

    assert before == {u: value.tobytes() for u, value in values.items()}


def test_progress_is_told_after_each_step(task: Task, plan_of: PlanOf) -> None:
    steps: list[int] = []
    watch = TrainingControl(on_step=steps.append)

    training_of(task).run(plan_of(all_units(task.model)), initial_values(task, 0), None, watch)

    assert [1, 2, 3, 4] == steps


def test_it_stops_before_the_next_step(task: Task, plan_of: PlanOf) -> None:
    stop = threading.Event()
    watch = TrainingControl(stop, lambda done: stop.set() if done == 2 else None)

    with pytest.raises(TrainingStoppedError, match="after 2 steps"):
        training_of(task).run(plan_of(all_units(task.model)), initial_values(task, 0), None, watch)


def test_the_throttle_sleeps_a_multiple_of_the_busy_time(task: Task, plan_of: PlanOf) -> None:
    """Slowed 3 times: 2 s of sleep per busy second; measured steps are paid by the next one."""
    stop = Sleeps()
    training = training_of(task, slowdown=3.0, busy=Ticks(0.5))

    result, held = training.run(
        plan_of(all_units(task.model)), initial_values(task, 0), None, TrainingControl(stop)
    )

    assert [3 * 1.0, 1.0] == stop.seconds
    assert result.throttle_s > 0
    stop.seconds.clear()
    training.run(
        plan_of(all_units(task.model)), initial_values(task, 0), held, TrainingControl(stop)
    )
    assert [1.0] * 4 == stop.seconds


def test_a_device_that_is_not_slowed_never_sleeps(task: Task, plan_of: PlanOf) -> None:
    stop = Sleeps()

    result, _ = training_of(task).run(
        plan_of(all_units(task.model)), initial_values(task, 0), None, TrainingControl(stop)
    )

    assert [] == stop.seconds
    assert 0 == result.throttle_s


def test_a_peak_over_the_budget_is_out_of_memory(task: Task, plan_of: PlanOf) -> None:
    plan = plan_of(all_units(task.model))
    result, _ = run(training_of(task), plan)

    with pytest.raises(TrainingOutOfMemoryError) as caught:
        run(training_of(task, memory_bytes=result.peak_bytes - 1), plan)

    assert 0 < caught.value.peak_bytes <= result.peak_bytes
    run(training_of(task, memory_bytes=result.peak_bytes), plan)


def test_the_peak_is_measured_once_per_set_of_units(task: Task, plan_of: PlanOf) -> None:
    plan, training = plan_of(all_units(task.model)), training_of(task)

    first, held = run(training, plan)
    second, _ = run(training, plan, held)

    assert first.peak_bytes == second.peak_bytes > 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_every_way_of_running_out_of_memory_is_one_error(
    task: Task, plan_of: PlanOf, error: Exception
) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        raise error

    with pytest.raises(TrainingOutOfMemoryError):
        run(training_of(replace(task, loss=loss)), plan_of(all_units(task.model)))


def test_another_runtime_error_is_a_bug_and_stays_one(task: Task, plan_of: PlanOf) -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("shapes")

    with pytest.raises(RuntimeError, match="shapes"):
        run(training_of(replace(task, loss=loss)), plan_of(all_units(task.model)))


def test_a_loss_that_is_not_finite_fails_the_plan(task: Task, plan_of: PlanOf) -> None:
    broken = replace(task, loss=lambda outputs, labels: outputs.sum() * float("nan"))

    with pytest.raises(TrainingFailedError, match="the loss is nan"):
        run(training_of(broken), plan_of(all_units(task.model)))


def test_a_task_without_classes_trains(task: Task, plan_of: PlanOf) -> None:
    data = Dataset(torch.randn(20, 1, 8, 8), torch.randn(20, 4))
    regression = replace(task, classes=None, loss=torch.nn.functional.mse_loss)
    training = replace(training_of(task), task=regression, data=data)

    result, _ = run(training, plan_of(all_units(task.model)))

    assert np.isfinite(result.loss_last)


def take(batches: Iterator[Tensor], count: int) -> list[Tensor]:
    return [next(batches) for _ in range(count)]


def test_every_sample_is_drawn_once_before_any_is_drawn_again() -> None:
    drawn = torch.cat(take(draw_batches(10, 4, seed=3), 5))

    assert list(range(10)) == sorted(drawn[:10].tolist())
    assert list(range(10)) == sorted(drawn[10:].tolist())


def test_a_device_with_few_samples_uses_all_in_each_batch() -> None:
    for batch in take(draw_batches(3, 8, seed=3), 2):
        assert [0, 1, 2] == sorted(batch.tolist())
