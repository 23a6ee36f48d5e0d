"""What the worker's shell knows of training. No torch here, so shell and simulator load fast.

Invariants: a trainer receives a plan and the values of its units. It returns one delta per trained
unit, or raises a typed error. It never uses the bus. It runs off the event loop.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import Cos2pError, ExitCode
from cos2p.log.messages import Plan
from cos2p.model.units import UnitTable


class TrainingOutOfMemoryError(Cos2pError):
    """Training needs more memory than the device has: the next plan must be smaller.

    Attributes:
        peak_bytes: the peak measured until then; 0 where the allocator gave up first.
    """

    exit_code = ExitCode.RUN_FAILED

    def __init__(self, text: str, peak_bytes: int = 0) -> None:
        super().__init__(text)
        self.peak_bytes = peak_bytes


class TrainingStoppedError(Cos2pError):
    """Training was abandoned because it was asked to stop; nothing is sent."""


class TrainingFailedError(Cos2pError):
    """Training can't give a delta (wrong base values, a loss that is not finite, ...)."""

    exit_code = ExitCode.RUN_FAILED


@dataclass(frozen=True)
class GateScores:
    """Squared gate gradients of a plan's trained units that have a gate (see `score.py`)."""

    sums: NDArray[np.float32]
    """Sums over the samples of a label, shape (units, classes), units ascending."""
    counts: NDArray[np.int64]
    """Samples scored, shape (classes,). Without classes there is one column."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a plan.

    Attributes:
        deltas: trained minus base for each of the plan's trained units, flat float32, in ascending
            order of the units.
        sample_count: samples of the device's own data (each counted once).
        loss_first, loss_last: loss of the first and of the last step's batch.
        peak_bytes: measured peak of live tensor bytes during the steps.
        throttle_s: seconds slept to play a slower device.
        scores: scores of the trained units, where they were asked for and the model has taps.
    """

    deltas: Mapping[int, NDArray[np.float32]]
    steps_done: int
    sample_count: int
    loss_first: float
    loss_last: float
    peak_bytes: int
    throttle_s: float = 0.0
    scores: GateScores | None = None


@dataclass(frozen=True)
class TrainingControl:
    """Stops a plan's training and follows its steps.

    Attributes:
        stop: set to abandon the plan before its next step (and to end a sleep).
        on_step: called with the steps done after each step, in the training thread.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    on_step: Callable[[int], None] = lambda _: None


class Trainer(Protocol):
    """Trains this device's submodels on this device's data."""

    sample_count: int
    """Samples on this device."""
    label_counts: tuple[int, ...] | None
    """Samples per label; None for a task without classes."""
    units: UnitTable
    """The model's units."""

    async def train(
        self, plan: Plan, base: Mapping[int, NDArray[np.float32]], watch: TrainingControl
    ) -> TrainResult:
        """Train a plan in a thread.

        `base` has the flat float32 values of each of the plan's units. It is read only (it may be
        memory-mapped), and not needed after the call.

        Raises:
            TrainingOutOfMemoryError: the memory does not suffice.
            TrainingStoppedError: `watch.stop` was set.
            TrainingFailedError: this plan can't give a delta.
        """
        ...

    async def measure_flops_per_s(self) -> float:
        """Return this device's training speed: a step costs 3 * batch * forward FLOPs of its units.

        The slowdown that plays a slower device is included.
        """
        ...
