"""The trainer that real devices use."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from cos2p.log.messages import Plan
from cos2p_worker.initial import initial_values
from cos2p_worker.submodel import all_units
from cos2p_worker.task import Task
from cos2p_worker.torch_trainer import TorchTrainer, local_machine
from cos2p_worker.train import Machine
from cos2p_worker.trainer import Trainer, TrainingControl, TrainingStoppedError, TrainResult

PlanOf = Callable[..., Plan]


def trainer_of(task: Task, machine: Machine | None = None) -> TorchTrainer:
    return TorchTrainer(task, task.shard(0, 2), task.run, machine or local_machine())


async def train(
    trainer: Trainer, task: Task, plan: Plan, stop: threading.Event | None = None
) -> TrainResult:
    watch = TrainingControl(stop or threading.Event())
    return await trainer.train(plan, initial_values(task, 0), watch)


def same(a: TrainResult, b: TrainResult) -> bool:
    return all(np.array_equal(a.deltas[u], b.deltas[u]) for u in a.deltas)


def test_it_says_what_the_planner_wants_to_know(task: Task) -> None:
    trainer = trainer_of(task)

    assert 64 == trainer.sample_count == sum(trainer.label_counts or ())
    assert task.units.digest == trainer.units.digest


def test_the_loop_turns_while_it_trains(task: Task, plan_of: PlanOf) -> None:
    async def scenario() -> int:
        turns = 0
        running = asyncio.create_task(
            train(trainer_of(task), task, plan_of(all_units(task.model), steps=30))
        )
        while not running.done():
            await asyncio.sleep(0)
            turns += 1
        await running
        return turns

    assert asyncio.run(scenario()) > 5


def test_the_optimisers_state_is_held_while_the_units_stay(task: Task, plan_of: PlanOf) -> None:
    async def scenario() -> None:
        trainer = trainer_of(task)
        plan = plan_of(all_units(task.model))
        first = await train(trainer, task, plan)
        second = await train(trainer, task, plan)
        restarted = await train(trainer_of(task), task, plan)

        assert not same(first, second)
        assert same(first, restarted)

    asyncio.run(scenario())


def test_a_plan_can_be_abandoned_and_another_trained(task: Task, plan_of: PlanOf) -> None:
    async def scenario() -> None:
        trainer = trainer_of(task)
        stop = threading.Event()
        stop.set()
        with pytest.raises(TrainingStoppedError):
            await train(trainer, task, plan_of(all_units(task.model)), stop)

        assert 4 == (await train(trainer, task, plan_of(all_units(task.model)))).steps_done

    asyncio.run(scenario())


def test_a_slowed_device_measures_itself_slower(task: Task) -> None:
    async def scenario() -> tuple[float, float]:
        plain = await trainer_of(task).measure_flops_per_s()
        return plain, await trainer_of(task, local_machine(slowdown=50.0)).measure_flops_per_s()

    plain, slowed = asyncio.run(scenario())

    assert 0 < slowed < 0.2 * plain


def test_measuring_is_not_stopped_by_a_small_budget(task: Task) -> None:
    speed = asyncio.run(trainer_of(task, local_machine(memory_bytes=1)).measure_flops_per_s())

    assert speed > 0
