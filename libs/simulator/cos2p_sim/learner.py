"""A stand-in for training. It has no model and no data, but it takes time and returns deltas.

Invariants: the delta is a function of plan and base values alone, so a repeated plan repeats its
bytes. The time that it takes is a function of the plan and the device's speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cos2p.clock import Clock
from cos2p.log.messages import Plan, RunOpened
from cos2p.model.cost import CostModel, Workload
from cos2p.model.units import UnitTable
from cos2p.run_config import RunConfig
from cos2p_worker.shell import TrainerOf
from cos2p_worker.trainer import (
    TrainingControl,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStoppedError,
    TrainResult,
)

SLICES = 3
"""How many times a plan's training counts its steps and checks whether it must stop."""


@dataclass(frozen=True)
class Behaviour:
    """How a stand-in device behaves.

    Attributes:
        memory_bytes: the device's real memory. A plan that needs more runs out of memory.
        failing_share: the share of plans that fail, drawn from the plan's seed.
        spoilt_share: the share of plans whose delta is not finite, drawn from the plan's seed.
    """

    flops_per_s: float
    memory_bytes: int
    failing_share: float = 0.0
    spoilt_share: float = 0.0
    sample_count: int = 100
    label_counts: tuple[int, ...] | None = None


class StandInTrainer:
    """See `cos2p_worker.trainer.Trainer`."""

    def __init__(
        self, table: UnitTable, config: RunConfig, behaviour: Behaviour, clock: Clock
    ) -> None:
        self._cost = CostModel.of(table, config)
        self._behaviour, self._clock = behaviour, clock
        self.units = table
        self.sample_count, self.label_counts = behaviour.sample_count, behaviour.label_counts

    async def measure_flops_per_s(self) -> float:
        """Return the speed that the device has by its `Behaviour`."""
        return self._behaviour.flops_per_s

    async def train(
        self,
        plan: Plan,
        base: Mapping[int, NDArray[np.float32]],
        watch: TrainingControl,
    ) -> TrainResult:
        """See `Trainer.train`."""
        draw = np.random.default_rng([plan.seed, 1]).random()
        peak_bytes = self._cost.peak_bytes(plan.trained, plan.frozen)
        if peak_bytes > self._behaviour.memory_bytes:
            raise TrainingOutOfMemoryError("the stand-in device is too small", peak_bytes)
        seconds = plan.local_steps * step_seconds(self._cost, plan, self._behaviour.flops_per_s)
        for part in range(1, SLICES + 1):
            await self._clock.sleep(seconds / SLICES)
            if watch.stop.is_set():
                raise TrainingStoppedError("asked to stop")
            watch.on_step(max(1, plan.local_steps * part // SLICES))
        if draw < self._behaviour.failing_share:
            raise TrainingFailedError("the stand-in device failed")
        deltas = stand_in_deltas(plan, base)
        # The other end of the same draw, so that failures take nothing from this share.
        if draw > 1 - self._behaviour.spoilt_share:
            deltas[plan.trained[0]][0] = np.nan
        return TrainResult(
            deltas=deltas,
            steps_done=plan.local_steps,
            sample_count=min(self.sample_count, plan.local_steps * plan.batch_size),
            loss_first=2.0,
            loss_last=1.0,
            peak_bytes=peak_bytes,
        )


def stand_in(table: UnitTable, behaviour: Behaviour, clock: Clock) -> TrainerOf:
    """Return what gives `run_worker` the trainer of a stand-in device."""

    async def trainer_of(opened: RunOpened) -> StandInTrainer:
        return StandInTrainer(table, opened.config, behaviour, clock)

    return trainer_of


def step_seconds(cost: CostModel, plan: Plan, flops_per_s: float) -> float:
    """Return the seconds of one step of a plan on a device of this speed."""
    flops = cost.training_flops(plan.trained, plan.frozen)
    return Workload(flops, plan.batch_size, 1, 0, 0).train_s(flops_per_s)


def stand_in_deltas(
    plan: Plan, base: Mapping[int, NDArray[np.float32]]
) -> dict[int, NDArray[np.float32]]:
    """Return a pull towards zero with noise, as one flat float32 array per trained unit."""
    noise = np.random.default_rng([plan.seed, 0]).standard_normal(
        sum(base[unit].size for unit in plan.trained), np.float32
    )
    deltas: dict[int, NDArray[np.float32]] = {}
    start = 0
    for unit in plan.trained:
        values = base[unit]
        own = noise[start : start + values.size]
        deltas[unit] = np.float32(-0.1) * values + np.float32(0.01) * own
        start += values.size
    return deltas
