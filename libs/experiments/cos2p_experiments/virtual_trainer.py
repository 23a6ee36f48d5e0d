"""Real training for a simulated device: torch computes the deltas, the device sets the seconds.

Invariants: the virtual seconds of a plan follow from plan, device and the device's count of plans.
They never depend on the speed of this machine. They pass step by step, so heartbeats and a stop
come when they would on the device. A plan over the device's memory is refused as on the device.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cos2p.clock import Clock
from cos2p.log.messages import Plan
from cos2p.model.cost import CostModel
from cos2p.run_config import RunConfig
from cos2p_experiments.fleets import Member
from cos2p_sim.learner import step_seconds
from cos2p_worker.task import Dataset, Task
from cos2p_worker.torch_trainer import TorchTrainer, local_machine
from cos2p_worker.trainer import TrainingControl, TrainingStoppedError, TrainResult

JITTER = 0.1
"""Standard deviation of the log of a plan's seconds: boards throttle and do other work."""
SLICES_MAX = 20
"""A plan's time passes in at most this many parts."""


class VirtualTrainer:
    """See `cos2p_worker.trainer.Trainer`; `seed` is that of the jitter."""

    def __init__(
        self,
        task: Task,
        data: Dataset,
        config: RunConfig,
        member: Member,
        clock: Clock,
        seed: int,
    ) -> None:
        limit = member.memory_bytes if config.plans.enforce_memory else None
        self._inner = TorchTrainer(task, data, config, local_machine(limit))
        self._cost = CostModel.of(task.units, config)
        self._member, self._clock, self._seed = member, clock, seed
        self._plan_count = 0
        self.cpu_s = 0.0
        """Real seconds spent on training."""
        self.sample_count = self._inner.sample_count
        self.label_counts = self._inner.label_counts
        self.units = self._inner.units

    async def measure_flops_per_s(self) -> float:
        """Return the speed of the simulated device."""
        return self._member.flops_per_s

    async def train(
        self, plan: Plan, base: Mapping[int, NDArray[np.float32]], watch: TrainingControl
    ) -> TrainResult:
        """See `Trainer.train`. The result is computed at once, then the device's time passes."""
        begun_s = time.thread_time()
        try:
            # A watch of its own: steps and stops count only while the device's time passes.
            result = await self._inner.train(plan, base, TrainingControl())
        finally:
            self.cpu_s += time.thread_time() - begun_s
        step_s = step_seconds(self._cost, plan, self._member.flops_per_s) * self._jitter()
        await self._pass(plan, step_s, watch)
        return replace(result, throttle_s=0.0)

    def _jitter(self) -> float:
        """Draw a factor by seed, device and the device's count of plans: alike for all policies."""
        drawn = np.random.default_rng([self._seed, 8, self._member.index, self._plan_count])
        self._plan_count += 1
        return float(np.exp(JITTER * drawn.standard_normal()))

    async def _pass(self, plan: Plan, step_s: float, watch: TrainingControl) -> None:
        """Let the plan's seconds pass."""
        ends = np.linspace(0, plan.local_steps, min(plan.local_steps, SLICES_MAX) + 1).astype(int)
        for before, steps_done in pairwise(ends):
            await self._clock.sleep(float(steps_done - before) * step_s)
            if watch.stop.is_set():
                self._inner.held = None
                raise TrainingStoppedError(
                    f"plan {plan.plan_id} was abandoned after {before} steps"
                )
            watch.on_step(int(steps_done))
