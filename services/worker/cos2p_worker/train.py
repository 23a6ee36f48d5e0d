"""Local training of one plan: the submodel, its steps, the delta.

Invariant: training is deterministic to the byte. The inputs are the plan, the data, the base values
and the held state. The same inputs give the same delta on the same machine with the same number of
threads. On a GPU this holds as far as torch's kernels are deterministic.

Held state is the optimiser's state after the last plan. It is used when the next plan has the same
units. A restarted worker has none, so its delta is then another one. Replay does not depend on it,
because the delta itself is in the log.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cos2p.log.messages import Plan
from cos2p.run_config import LocalConfig, RunConfig
from cos2p_worker.layout import UnitArrays
from cos2p_worker.objectives.batch import Batch
from cos2p_worker.objectives.local_loss import local_loss
from cos2p_worker.peak import LiveBytes
from cos2p_worker.score import GateScorer
from cos2p_worker.submodel import build_submodel, read_units
from cos2p_worker.task import Dataset, Task
from cos2p_worker.trainer import (
    TrainingControl,
    TrainingFailedError,
    TrainingOutOfMemoryError,
    TrainingStoppedError,
    TrainResult,
)

MEASURED_STEPS = 2
"""Steps under measurement on the CPU; the second has the optimiser's state."""


@dataclass(frozen=True)
class HeldState:
    """What a device keeps between two plans with the same units."""

    key: tuple[object, ...]
    """Units, batch size and settings that the state belongs to."""
    optimizer: dict[str, Any]
    peak_bytes: int


@dataclass(frozen=True)
class Machine:
    """Where training runs.

    Attributes:
        busy: seconds of work of the calling thread. It is CPU time: a machine that others also use
            must not multiply its own delays when it plays a slower one.
        memory_bytes: a peak of live tensor bytes above it counts as out of memory; None for no
            limit but the machine's own.
        slowdown: after each step, sleep (slowdown - 1) times the step's busy seconds.
    """

    device: torch.device
    busy: Callable[[], float]
    wall: Callable[[], float]
    memory_bytes: int | None = None
    slowdown: float = 1.0


@dataclass(frozen=True)
class Training:
    """What stays the same from plan to plan on a device."""

    task: Task
    data: Dataset
    config: RunConfig
    machine: Machine

    def run(
        self, plan: Plan, base: UnitArrays, held: HeldState | None, watch: TrainingControl
    ) -> tuple[TrainResult, HeldState]:
        """Train a plan as `Trainer.train` does; return also what to hold for the next one.

        `held` is what the last plan left. It is taken over, not copied, so it is usable once.

        Raises:
            SettingsError: model and layout do not agree (see `build_submodel`).
        """
        with _memory_errors():
            session = _Session(self, plan, base, held)
            losses, throttle_s = session.steps(watch)
            values = read_units(self.task.model, session.module, session.units)
        result = TrainResult(
            deltas={u: np.subtract(values[u], base[u], out=values[u]) for u in plan.trained},
            steps_done=len(losses),
            sample_count=len(self.data),
            loss_first=losses[0],
            loss_last=losses[-1],
            peak_bytes=session.peak_bytes,
            throttle_s=throttle_s,
            scores=session.scorer.scores() if session.scorer is not None else None,
        )
        state = HeldState(session.key, session.optimizer.state_dict(), session.peak_bytes)
        return result, state


class _Session:
    """One plan's training."""

    def __init__(
        self, training: Training, plan: Plan, base: UnitArrays, held: HeldState | None
    ) -> None:
        task, config = training.task, training.config.local
        self._training, self._plan, self._machine = training, plan, training.machine
        self.key = (plan.trained, plan.frozen, plan.batch_size, config)
        self.units = tuple(sorted({*plan.trained, *plan.frozen}))
        if self._machine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._machine.device)
        self.module = build_submodel(
            task.model, plan.trained, plan.frozen, base, self._machine.device
        )
        self.module.train()
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        if not self._parameters:
            raise TrainingFailedError(f"plan {plan.plan_id} trains nothing")
        self.optimizer = make_optimizer(self._parameters, config)
        self.peak_bytes = 0
        if held is not None and held.key == self.key:
            self.optimizer.load_state_dict(held.optimizer)
            self.peak_bytes = held.peak_bytes
        for group in self.optimizer.param_groups:  # after the held state, which has its own rate
            group["lr"] = plan.learning_rate
        counts = task.label_counts(training.data)
        self._loss = local_loss(task, training.config, counts, plan)
        self._measured_steps = plan.local_steps if self._loss.steps_differ else MEASURED_STEPS
        seed = plan.seed % 2**63
        drawn = draw_batches(len(training.data), plan.batch_size, seed)
        self._seed, self._places = seed, list(islice(drawn, plan.local_steps))
        self._meter = self._new_meter()
        self.scorer: GateScorer | None = None
        if training.config.plans.importance == "gate" and config.score_every:
            device = self._machine.device
            self.scorer = GateScorer(task.units, plan.trained, task.classes, device)

    def steps(self, watch: TrainingControl) -> tuple[list[float], float]:
        """Train all steps; return the loss of each, and the seconds slept."""
        losses: list[float] = []
        slept_s, unpaid = self._prepare(watch.stop), 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            for step in range(self._plan.local_steps):
                if watch.stop.is_set():
                    raise TrainingStoppedError(
                        f"plan {self._plan.plan_id} was abandoned after {step} steps"
                    )
                meter = self._meter if step < self._measured_steps else None
                busy = self._machine.busy()
                with meter or nullcontext():
                    losses.append(self._step(self._batch(step + 1)))
                self._check_memory(step)
                # A measured step is slow. Its sleep is based on the next step's time instead.
                last = step + 1 == self._plan.local_steps
                if meter is not None and not last:
                    unpaid += 1
                else:
                    owed_s = (self._machine.busy() - busy) * (1 + unpaid)
                    slept_s += self._throttle(owed_s, watch.stop)
                    unpaid = 0
                watch.on_step(step + 1)
        return losses, slept_s

    def _prepare(self, stop: threading.Event) -> float:
        """Prepare what the loss needs of the dispatched weights; return the seconds slept."""
        if not self._loss.prepares:
            return 0.0
        busy = self._machine.busy()
        self._loss.prepare(self.module, self._batch, self._plan.local_steps)
        if self._meter is not None:
            self._meter.hold(self._loss.kept())
        return self._throttle(self._machine.busy() - busy, stop)

    def _batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 1."""
        data, device = self._training.data, self._machine.device
        places = self._places[step - 1]
        return Batch(step, data.inputs[places].to(device), data.labels[places].to(device))

    def _step(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with self._scored(batch):
            value = self._loss.backward(self.module, batch)
        limit = self._training.config.local.gradient_norm_max
        nn.utils.clip_grad_norm_(self._parameters, limit)
        self.optimizer.step()
        if not math.isfinite(value):
            raise TrainingFailedError(f"plan {self._plan.plan_id}: the loss is {value}")
        return value

    def _scored(self, batch: Batch) -> AbstractContextManager[None]:
        """Score the first step and every score_every-th after it."""
        every = self._training.config.local.score_every
        if self.scorer is None or (batch.step - 1) % every:
            return nullcontext()
        return self.scorer.scoring(self.module, batch.labels)

    def _throttle(self, busy_s: float, stop: threading.Event) -> float:
        sleep_s = (self._machine.slowdown - 1.0) * busy_s
        if sleep_s <= 0:
            return 0.0
        started = self._machine.wall()
        stop.wait(sleep_s)
        return self._machine.wall() - started

    def _new_meter(self) -> LiveBytes | None:
        if self._machine.device.type == "cuda" or self.peak_bytes:
            return None
        meter = LiveBytes()
        meter.hold(self.module.parameters())
        return meter

    def _check_memory(self, step: int) -> None:
        if self._machine.device.type == "cuda":
            self.peak_bytes = torch.cuda.max_memory_allocated(self._machine.device)
        elif self._meter is not None:
            self.peak_bytes = self._meter.peak_bytes
        limit = self._machine.memory_bytes
        if limit is not None and self.peak_bytes > limit:
            raise TrainingOutOfMemoryError(
                f"step {step + 1} used {self.peak_bytes} bytes, the device has {limit}",
                self.peak_bytes,
            )


def make_optimizer(parameters: list[nn.Parameter], config: LocalConfig) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name; fused: 4 times faster on many small tensors."""
    rate = config.learning_rate
    if config.optimizer == "adamw":
        # No decay: a unit would shrink with the number of its updates, so rarely trained units
        # would stay.
        return torch.optim.AdamW(parameters, rate, weight_decay=0.0, fused=True)
    return torch.optim.SGD(parameters, rate, config.momentum, fused=True)


def draw_batches(sample_count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield endless batches of positions: one random order of all samples after another.

    A device with fewer samples than a batch uses all of them in each step.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, sample_count)
    places = torch.empty(0, dtype=torch.int64)
    while True:
        while len(places) < size:
            places = torch.cat([places, torch.randperm(sample_count, generator=generator)])
        yield places[:size]
        places = places[size:]


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Convert every out-of-memory error to one type."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise TrainingOutOfMemoryError(f"out of memory: {error}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise TrainingOutOfMemoryError(f"out of memory: {error}") from error
