"""The cost of a submodel on a device: memory, arithmetic, bytes on the wire and seconds.

This module owns the cost model that planner, demo and export share.

Peak bytes, with s = 2 for Adam, 1 for momentum and 0 for SGD:

    (2 + s) * 4 * parameters(trained) + 4 * parameters(frozen) + batch * 4 * activations(trained)

All values are float32.
The runtime's own share is not included.
The run's local loss may cost more (`Extra`).
Planner, experiments and audit all compute this extra cost here.

Invariants:
Every cost is a sum over units, so that a budget is linear.
A forecast is a function of the unit table and the run's settings.
Only a `Calibration`, made from one device's reports, changes it.
A calibration from measurements never leaves a device without a plan.
Only running out of memory can do that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import BudgetError, SettingsError
from cos2p.model.nested import nested_widths
from cos2p.model.units import STEM, Indices, Ring, UnitTable
from cos2p.run_config import LocalConfig, RunConfig

FLOAT_BYTES = 4
BACKWARD_FACTOR = 3
"""Cost of forward and backward together, in forward passes."""
STEP_FIXED_S = 0.003
"""Seconds of a training step in addition to its arithmetic, before a device has reported."""


@dataclass(frozen=True)
class Extra:
    """What a run's local loss costs beyond one forward and backward pass of the submodel a step.

    Attributes:
        forward_share: share of the steps with one more forward pass (the anchor's teacher).
        copies: number of additional copies of the trained weights (for the proximal term).
        widths: "drawn" if a step trains one of the nested widths (FjORD), "taught" if it trains
            the full width before a narrower one, else "full".
    """

    forward_share: float = 0.0
    copies: int = 0
    widths: Literal["full", "drawn", "taught"] = "full"

    @classmethod
    def of(cls, local: LocalConfig) -> "Extra":
        """The extra cost of these settings; none if every such term is off."""
        anchored = local.anchor.share
        if local.objective != "fjord":
            return cls(anchored, int(local.proximal > 0))
        widths: Literal["drawn", "taught"] = "taught" if local.exits.distillation else "drawn"
        return cls(anchored, int(local.proximal > 0), widths)


@dataclass(frozen=True)
class CostModel:
    """Costs of a model's units under a run's optimiser, batch size and local loss.

    Attributes:
        table: the model's units.
        slots: optimiser values kept per trained parameter (0 SGD, 1 momentum, 2 Adam).
        batch_size: samples of a local step.
        extra: extra cost of the local loss.
    """

    table: UnitTable
    slots: int
    batch_size: int
    extra: Extra = Extra()

    @classmethod
    def of(cls, table: UnitTable, config: RunConfig) -> "CostModel":
        """The cost model of a run."""
        return cls(table, config.slots, config.local.batch_size, Extra.of(config.local))

    @cached_property
    def trained_bytes(self) -> NDArray[np.int64]:
        """Peak bytes that each unit adds when it is trained, shape (units,)."""
        parameters = (2 + self.slots + self.extra.copies) * FLOAT_BYTES * self.table.sizes
        return parameters + self.batch_size * FLOAT_BYTES * self.table.activations

    @cached_property
    def frozen_bytes(self) -> NDArray[np.int64]:
        """Peak bytes that each unit adds when it is frozen, shape (units,)."""
        return FLOAT_BYTES * self.table.sizes

    @cached_property
    def stem_bytes(self) -> int:
        """Peak bytes of the stem's core units, which every submodel has."""
        return int(self.trained_bytes[self.table.cores[STEM]].sum())

    @cached_property
    def prunable_bytes(self) -> int:
        """The prunable cost: peak bytes of all units except the stem's core units."""
        return self.whole_bytes - self.stem_bytes

    @cached_property
    def whole_bytes(self) -> int:
        """Peak bytes of the whole model, with all units trained."""
        return int(self.trained_bytes.sum())

    def peak_bytes(self, trained: Iterable[int], frozen: Iterable[int] = ()) -> int:
        """Forecast of a submodel's peak in bytes; the units include the cores that they need."""
        peak = self.trained_bytes[list(trained)].sum() + self.frozen_bytes[list(frozen)].sum()
        return int(peak)

    def training_flops(self, trained: Iterable[int], frozen: Iterable[int] = ()) -> int:
        """Floating-point operations of one sample's step: the mean over a plan's steps.

        Frozen units run forward only. So does a pass of the anchor's teacher. It runs before the
        first step, but its cost is spread over all steps.
        """
        units, still = tuple(trained), self._forward_flops(frozen)
        forward = self._forward_flops(units)
        step = BACKWARD_FACTOR * forward + still
        teacher = self.extra.forward_share * (forward + still)
        if self.extra.widths == "full":
            return int(step + teacher)
        *narrower, _ = nested_widths(self.table, units)
        draws = len(narrower) + 1
        drawn = sum(BACKWARD_FACTOR * self._forward_flops(w) + still for w in narrower) / draws
        return int(drawn + teacher + (step if self.extra.widths == "taught" else step / draws))

    @cached_property
    def whole_flops(self) -> int:
        """`training_flops` of the whole model."""
        return self.training_flops(range(len(self.table)))

    def _forward_flops(self, units: Iterable[int]) -> int:
        return int(self.table.flops[list(units)].sum())

    @cached_property
    def trained_flops(self) -> NDArray[np.float64]:
        """Operations that each trained unit adds to a full-width step of one sample, (units,)."""
        return self.table.flops.astype(np.float64) * (BACKWARD_FACTOR + self.extra.forward_share)

    def weight_bytes(self, units: Iterable[int]) -> int:
        """Bytes of these units' values on the wire, without headers."""
        return int(FLOAT_BYTES * self.table.sizes[list(units)].sum())

    def share(self, trained: Iterable[int]) -> float:
        """Share of the prunable cost that these trained units have, 0 to 1."""
        if not self.prunable_bytes:
            return 0.0
        chosen = list(trained)
        cost = self.trained_bytes[chosen][self.table.blocks[chosen] != STEM].sum()
        return float(cost) / self.prunable_bytes

    def fraction_of(self, memory_bytes: float) -> float:
        """The budget fraction r of a device with this memory, clipped to 0..1."""
        if not self.prunable_bytes:
            return 1.0
        return min(1.0, max(0.0, (memory_bytes - self.stem_bytes) / self.prunable_bytes))

    def memory_for_fraction(self, fraction: float) -> int:
        """The memory with which a device may hold `fraction` of the prunable cost, in bytes.

        Raises:
            SettingsError: the fraction is not within 0..1.
        """
        if not 0 <= fraction <= 1:
            raise SettingsError(f"a budget fraction lies between 0 and 1, not {fraction:g}")
        return self.stem_bytes + math.ceil(fraction * self.prunable_bytes)

    @cached_property
    def smallest(self) -> tuple[int, ...]:
        """The cheapest submodel: the stem and one block with one unit of each of its kinds."""

        def cheapest(ring: Ring) -> Indices:
            return ring.lowest(self.trained_bytes, 0.0)

        thin = [self.table.cut([block], cheapest) for block in range(self.table.block_count)]
        return min(thin, key=self.peak_bytes, default=self.table.cut([], cheapest))

    @cached_property
    def smallest_bytes(self) -> int:
        """Peak bytes of the smallest submodel."""
        return self.peak_bytes(self.smallest)

    def require(self, memory_bytes: int, owner: str) -> None:
        """Refuse a budget that is too small for every submodel; the error names the owner, `owner`.

        Raises:
            BudgetError: the budget is too small; the text gives a sufficient number of bytes.
        """
        if memory_bytes < self.smallest_bytes:
            raise BudgetError(self.budget_text(memory_bytes, owner))

    def budget_text(self, memory_bytes: int, owner: str, least_bytes: int | None = None) -> str:
        """Explain that the budget of `owner` is too small, and which would be sufficient.

        `least_bytes` is what the run's policy needs; None for the smallest submodel's.
        """
        due = self.smallest_bytes if least_bytes is None else least_bytes
        whose = "" if due == self.smallest_bytes else " that the run's policy plans"
        return (
            f"{owner}: a budget of {plain_bytes(memory_bytes)} is below the smallest submodel"
            f"{whose}; {plain_bytes(due)} ({due} bytes) would do"
        )


def plain_bytes(count: float) -> str:
    """Write a number of bytes with at most three digits: ``412 kB``, ``1.5 GB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


@dataclass(frozen=True)
class Workload:
    """The work that a plan gives to a device.

    Attributes:
        flops: operations of one sample's step, see `CostModel.training_flops`.
        batch_size: samples of a step.
        steps: number of local steps.
        bytes_down: bytes of the weights to fetch.
        bytes_up: bytes of the delta to send.
    """

    flops: int
    batch_size: int
    steps: int
    bytes_down: int
    bytes_up: int

    def train_s(self, flops_per_s: float) -> float:
        """Forecast seconds of the training: steps * (fixed + batch * flops / speed)."""
        return self.steps * (STEP_FIXED_S + self.batch_size * self.flops / flops_per_s)

    def wire_s(self, bytes_per_s: float) -> float:
        """Forecast seconds of fetching and sending."""
        return (self.bytes_down + self.bytes_up) / bytes_per_s


@dataclass(frozen=True)
class Calibration:
    """How a device's reports change its forecasts.

    It starts neutral, and every change makes a new value.

    Attributes:
        memory_factor: moving average of measured over predicted peak, never below 1.
        ceiling_bytes: upper limit of predicted peaks after the device ran out of memory; None
            before that.
        seconds_factor: moving average of measured over predicted training seconds.
        seconds_count: number of reports in `seconds_factor`.
    """

    memory_factor: float = 1.0
    ceiling_bytes: int | None = None
    seconds_factor: float = 1.0
    seconds_count: int = 0

    EMA = 0.3
    FACTOR_MAX = 4.0
    SHRINK = 0.8

    def with_peak(self, measured_bytes: float, predicted_bytes: float) -> "Calibration":
        """The calibration after a report of a peak; if either value is 0, it does not change."""
        if measured_bytes <= 0 or predicted_bytes <= 0:
            return self
        ratio = min(self.FACTOR_MAX, max(1.0, measured_bytes / predicted_bytes))
        factor = self.memory_factor + self.EMA * (ratio - self.memory_factor)
        return replace(self, memory_factor=factor)

    def with_seconds(self, measured_s: float, predicted_s: float) -> "Calibration":
        """The calibration after a report of training time; the first report counts fully."""
        if measured_s <= 0 or predicted_s <= 0:
            return self
        ratio = measured_s / predicted_s
        rate = self.EMA if self.seconds_count else 1.0
        factor = self.seconds_factor + rate * (ratio - self.seconds_factor)
        return replace(self, seconds_factor=factor, seconds_count=self.seconds_count + 1)

    def after_out_of_memory(self, predicted_bytes: int) -> "Calibration":
        """The calibration after a plan ran out of memory: plans stay well below its peak."""
        ceiling = int(self.SHRINK * predicted_bytes)
        if self.ceiling_bytes is not None:
            ceiling = min(ceiling, self.ceiling_bytes)
        return replace(self, ceiling_bytes=ceiling)

    def budget_bytes(self, memory_bytes: int, margin: float, smallest_bytes: int) -> int:
        """Largest predicted peak to plan for a device with this memory, less a margin (a share)."""
        usable = int(memory_bytes * (1 - margin))
        # Measurements never push the budget below the smallest submodel; the ceiling may.
        budget = max(int(usable / self.memory_factor), min(usable, smallest_bytes))
        return budget if self.ceiling_bytes is None else min(budget, self.ceiling_bytes)
