"""The trainer of real devices: PyTorch in a thread next to the event loop.

It is the worker's only file that reads the machine's clocks for training.

Invariants: one plan is trained at a time. The optimiser's state is held from plan to plan and
dropped when the units change. The shell sets what the process requires of torch (threads, device).
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cos2p.log.messages import Plan
from cos2p.model.cost import STEP_FIXED_S, CostModel
from cos2p.run_config import AnchorConfig, LocalConfig, RunConfig
from cos2p_worker.initial import initial_values
from cos2p_worker.task import Dataset, Task
from cos2p_worker.train import MEASURED_STEPS, HeldState, Machine, Training
from cos2p_worker.trainer import TrainingControl, TrainResult

TIMED_STEPS = 4
"""Steps timed for the speed of the device, after those that warm up."""
FIXED_SHARE_MAX = 0.75
"""Largest share of a step's time that counts as fixed: the rest has to show the speed."""


class TorchTrainer:
    """See `cos2p_worker.trainer.Trainer`."""

    def __init__(self, task: Task, data: Dataset, config: RunConfig, machine: Machine) -> None:
        self._training = Training(task, data, config, machine)
        self.held: HeldState | None = None
        """What the last plan left for the next one."""
        self.sample_count = len(data)
        self.label_counts = task.label_counts(data)
        self.units = task.units

    async def train(
        self, plan: Plan, base: Mapping[int, NDArray[np.float32]], watch: TrainingControl
    ) -> TrainResult:
        """See `Trainer.train`."""
        held, self.held = self.held, None
        result, self.held = await asyncio.to_thread(self._training.run, plan, base, held, watch)
        return result

    async def measure_flops_per_s(self) -> float:
        """See `Trainer.measure_flops_per_s`; it times steps of the smallest submodel."""
        return await asyncio.to_thread(self._measure)

    def _measure(self) -> float:
        config = with_plain_loss(self._training.config)
        task = self._training.task.for_run(config)
        cost = CostModel.of(task.units, config)
        machine = replace(self._training.machine, slowdown=1.0, memory_bytes=None)
        training = replace(self._training, task=task, config=config, machine=machine)
        ends: list[float] = []
        watch = TrainingControl(on_step=lambda _: ends.append(machine.busy()))
        plan = local_plan(cost.smallest, MEASURED_STEPS + TIMED_STEPS, config.local, seed=0)
        values = initial_values(training.task, seed=0, units=cost.smallest)
        training.run(plan, values, None, watch)
        step_s = float(np.diff(ends[MEASURED_STEPS - 1 :]).min())
        step_s *= self._training.machine.slowdown
        arithmetic_s = max(step_s - STEP_FIXED_S, (1 - FIXED_SHARE_MAX) * step_s)
        samples = min(cost.batch_size, self.sample_count)
        return samples * cost.training_flops(cost.smallest) / arithmetic_s


def with_plain_loss(config: RunConfig) -> RunConfig:
    """Return the same settings with the loss of the final head alone.

    A device's speed does not depend on its loss. Some forms train another width at each step, so
    that no two steps could be compared. Some require submodels of a minimum number of blocks.
    """
    plain = {"objective": "final", "anchor": AnchorConfig(), "proximal": 0.0, "score_every": 0}
    return config.model_copy(update={"local": config.local.model_copy(update=plain)})


def local_machine(
    memory_bytes: int | None = None, slowdown: float = 1.0, accelerator: str = "cpu"
) -> Machine:
    """Return this process's machine; `accelerator` is "cpu" or "cuda".

    A GPU works next to its thread, so there wall time is the time for which a step was busy.
    """
    busy = time.perf_counter if accelerator == "cuda" else time.thread_time
    device = torch.device(accelerator)
    return Machine(device, busy, time.perf_counter, memory_bytes, slowdown)


def use_threads(count: int) -> None:
    """Compute with `count` threads from now on: another number changes bits of the sums."""
    torch.set_num_threads(count)


def local_plan(units: tuple[int, ...], steps: int, local: LocalConfig, seed: int) -> Plan:
    """Make a plan that no planner made: for measuring, and for training alone."""
    return Plan(
        plan_id="local",
        worker_id="local",
        incarnation=0,
        base_version=0,
        trained=units,
        local_steps=steps,
        batch_size=local.batch_size,
        learning_rate=local.learning_rate,
        seed=seed,
        deadline_s=0,
        peak_bytes=0,
    )
