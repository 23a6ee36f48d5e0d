"""Training on a device that this machine is not."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from cos2p.clock import LoopClock
from cos2p.log.messages import Plan
from cos2p.model.cost import STEP_FIXED_S, CostModel
from cos2p.run_config import RunConfig
from cos2p_experiments.fleets import Member, Scale, fleet_named, members
from cos2p_experiments.virtual_trainer import VirtualTrainer
from cos2p_sim.learner import step_seconds
from cos2p_sim.loop import run_virtual
from cos2p_worker.initial import initial_values
from cos2p_worker.task import load_task
from cos2p_worker.torch_trainer import local_plan
from cos2p_worker.trainer import (
    TrainingControl,
    TrainingOutOfMemoryError,
    TrainingStoppedError,
    TrainResult,
)

TASK = load_task("digits").at(None, 0)
CONFIG = RunConfig.model_validate({"local": {"steps": 4, "batch_size": 8}})
COST = CostModel.of(TASK.units, CONFIG)
VALUES = initial_values(TASK, 0)
WHOLE = tuple(range(len(TASK.units)))
FLEET = members(fleet_named("jetson16"), COST, Scale(), seed=0, margin=0.05)
ORIN = FLEET[-1]


def plan(units: tuple[int, ...] = WHOLE, seed: int = 1) -> Plan:
    return local_plan(units, CONFIG.local.steps, CONFIG.local, seed)


def trainer(member: Member = ORIN, config: RunConfig = CONFIG, seed: int = 0) -> VirtualTrainer:
    return VirtualTrainer(TASK, TASK.shard(0, 16), config, member, LoopClock(), seed)


def timed(work: Callable[[], Coroutine[Any, Any, TrainResult]]) -> tuple[TrainResult, float]:
    async def measured() -> tuple[TrainResult, float]:
        begun = asyncio.get_running_loop().time()
        result = await work()
        return result, asyncio.get_running_loop().time() - begun

    return run_virtual(measured())


def test_a_plan_takes_the_device_what_the_cost_model_says_but_for_jitter() -> None:
    _, took_s = timed(lambda: trainer().train(plan(), VALUES, TrainingControl()))

    assert pytest.approx(4 * (0.1 + STEP_FIXED_S), rel=0.5) == took_s


def test_a_slower_device_takes_longer_by_as_much_and_learns_the_same() -> None:
    slow = replace(ORIN, flops_per_s=ORIN.flops_per_s / 10)

    fast_result, fast_s = timed(lambda: trainer().train(plan(), VALUES, TrainingControl()))
    slow_result, slow_s = timed(lambda: trainer(slow).train(plan(), VALUES, TrainingControl()))

    assert pytest.approx((1.0 + STEP_FIXED_S) / (0.1 + STEP_FIXED_S)) == slow_s / fast_s
    for unit, delta in fast_result.deltas.items():
        assert delta.tobytes() == slow_result.deltas[unit].tobytes()


def test_jitter_depends_on_seed_device_and_its_count_of_plans_alone() -> None:
    async def seconds(which: VirtualTrainer, *plans: Plan) -> list[float]:
        clock, found = asyncio.get_running_loop(), list[float]()
        speed = await which.measure_flops_per_s()
        for p in plans:
            begun_s = clock.time()
            await which.train(p, VALUES, TrainingControl())
            found.append((clock.time() - begun_s) / step_seconds(COST, p, speed))
        return found

    whole, small = plan(), plan(COST.smallest)
    both = run_virtual(seconds(trainer(), whole, small))
    swapped = run_virtual(seconds(trainer(), small, whole))
    other_seed = run_virtual(seconds(trainer(seed=1), whole))
    other_device = run_virtual(seconds(trainer(FLEET[0]), small))

    assert pytest.approx(both) == swapped
    assert both[0] != both[1]
    assert pytest.approx(both[0]) != other_seed[0]
    assert pytest.approx(both[0]) != other_device[0]


def test_a_plan_over_the_devices_memory_runs_out_of_it() -> None:
    small = replace(ORIN, memory_bytes=COST.peak_bytes(WHOLE) // 2)

    with pytest.raises(TrainingOutOfMemoryError, match="the device has"):
        timed(lambda: trainer(small).train(plan(), VALUES, TrainingControl()))


def test_where_memory_is_not_enforced_it_does_not() -> None:
    small = replace(ORIN, memory_bytes=COST.peak_bytes(WHOLE) // 2)
    ideal = RunConfig.model_validate(CONFIG.model_dump() | {"plans": {"enforce_memory": False}})

    result, _ = timed(lambda: trainer(small, ideal).train(plan(), VALUES, TrainingControl()))

    assert result.peak_bytes > small.memory_bytes


def test_a_stopped_plan_ends_before_its_next_step_and_its_state_is_lost() -> None:
    which, watch = trainer(), TrainingControl()

    async def stop_soon() -> float:
        begun = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(0.15, watch.stop.set)
        with pytest.raises(TrainingStoppedError, match="after 1 steps"):
            await which.train(plan(), VALUES, watch)
        return asyncio.get_running_loop().time() - begun

    assert 0.15 < run_virtual(stop_soon()) < 0.3
    fresh, _ = timed(lambda: trainer().train(plan(), VALUES, TrainingControl()))
    after, _ = timed(lambda: which.train(plan(), VALUES, TrainingControl()))
    assert fresh.loss_last == after.loss_last


def test_steps_are_told_as_they_pass() -> None:
    reported: list[tuple[int, float]] = []

    async def listen() -> None:
        begun = asyncio.get_running_loop().time()

        def on_step(steps: int) -> None:
            reported.append((steps, asyncio.get_running_loop().time() - begun))

        await trainer().train(plan(), VALUES, TrainingControl(on_step=on_step))

    run_virtual(listen())

    assert [1, 2, 3, 4] == [steps for steps, _ in reported]
    assert pytest.approx([reported[0][1] * n for n in (1, 2, 3, 4)]) == [s for _, s in reported]


def test_the_device_says_the_speed_that_it_was_given() -> None:
    assert ORIN.flops_per_s == run_virtual(trainer().measure_flops_per_s())
