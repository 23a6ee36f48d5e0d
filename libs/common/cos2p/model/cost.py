"""What a submodel costs a device: memory, arithmetic, bytes on the wire, seconds.

Owns the cost model that planner, demo and export share. Invariants: every cost is a sum over units,
so that a budget is linear; a forecast is a function of the unit table and the run's settings alone,
and only a `Calibration` (what one device has reported) bends it; a calibration from measurements
never plans a device out of the run, only running out of memory does.

Peak bytes (Adam: s = 2, momentum 1, SGD 0; float32 everywhere, the runtime's own share taken off):

    (2 + s) * 4 * parameters(trained) + 4 * parameters(frozen) + batch * 4 * activations(trained)

The run's local loss may ask for more (`Extra`): planner, experiments and audit all charge it by
this model.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import BudgetError, SettingsError
from cos2p.model.nested import nested_widths
from cos2p.model.units import STEM, UnitTable
from cos2p.run_config import LocalConfig, RunConfig

FLOAT_BYTES = 4
BACKWARD_FACTOR = 3
"""Forward and backward together cost three forward passes."""
STEP_FIXED_S = 0.003
"""What a training step costs beside its arithmetic, before a device has reported."""


@dataclass(frozen=True)
class Extra:
    """What a run's local loss asks beyond one forward and backward pass of the submodel a step.

    Attributes:
        forward_share: of the steps that have one more forward pass (the anchor's teacher).
        copies: of the trained weights kept beside them (the proximal term's).
        widths: "drawn" where a step trains one of the nested widths (FjORD), "taught" where it
            trains the full one before a narrower one; else "full".
    """

    forward_share: float = 0.0
    copies: int = 0
    widths: Literal["full", "drawn", "taught"] = "full"

    @classmethod
    def of(cls, local: LocalConfig) -> "Extra":
        """What these settings ask for; nothing where every form is off."""
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
        extra: what the local loss asks for.
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
    def stem_core(self) -> NDArray[np.bool_]:
        """True for the units that no submodel can do without, shape (units,)."""
        stem: NDArray[np.bool_] = self.table.blocks == STEM
        return stem

    @cached_property
    def stem_bytes(self) -> int:
        """Peak bytes of the stem's core units: every submodel pays them."""
        return int(self.trained_bytes[self.stem_core].sum())

    @cached_property
    def prunable_bytes(self) -> int:
        """The prunable cost: peak bytes of everything but the stem's core units."""
        return self.whole_bytes - self.stem_bytes

    @cached_property
    def whole_bytes(self) -> int:
        """Peak bytes of the whole model, trained."""
        return int(self.trained_bytes.sum())

    def peak_bytes(self, trained: Iterable[int], frozen: Iterable[int] = ()) -> int:
        """Forecast of a submodel's peak; both lists hold unit indices, closed under cores."""
        peak = self.trained_bytes[list(trained)].sum() + self.frozen_bytes[list(frozen)].sum()
        return int(peak)

    def training_flops(self, trained: Iterable[int], frozen: Iterable[int] = ()) -> int:
        """Floating-point operations of one sample's step, a mean over a plan's steps.

        Frozen units run forward only; so does a pass of the anchor's teacher, which is done before
        the first step and charged to all of them.
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
        """What each trained unit adds to a step at full width, per sample, shape (units,)."""
        return self.table.flops.astype(np.float64) * (BACKWARD_FACTOR + self.extra.forward_share)

    def weight_bytes(self, units: Iterable[int]) -> int:
        """Bytes of these units' values on the wire, headers left out."""
        return int(FLOAT_BYTES * self.table.sizes[list(units)].sum())

    def share(self, trained: Iterable[int]) -> float:
        """Part of the prunable cost that these trained units are, 0 to 1."""
        if not self.prunable_bytes:
            return 0.0
        chosen = list(trained)
        cost = self.trained_bytes[chosen][~self.stem_core[chosen]].sum()
        return float(cost) / self.prunable_bytes

    def fraction_of(self, memory_bytes: float) -> float:
        """The budget fraction r of a device with this memory, clipped to 0..1."""
        if not self.prunable_bytes:
            return 1.0
        return min(1.0, max(0.0, (memory_bytes - self.stem_bytes) / self.prunable_bytes))

    def memory_for_fraction(self, fraction: float) -> int:
        """The memory limit with which a device may hold `fraction` of the prunable cost.

        Raises:
            SettingsError: the fraction is not within 0..1.
        """
        if not 0 <= fraction <= 1:
            raise SettingsError(f"a budget fraction lies between 0 and 1, not {fraction:g}")
        return self.stem_bytes + math.ceil(fraction * self.prunable_bytes)

    @cached_property
    def smallest(self) -> tuple[int, ...]:
        """The cheapest submodel: the stem and one block with one unit of each of its kinds."""
        block = min(self._thinnest().values(), key=self.peak_bytes, default=[])
        return tuple(sorted([*np.flatnonzero(self.stem_core).tolist(), *block]))

    @cached_property
    def smallest_bytes(self) -> int:
        """Peak bytes of the smallest submodel."""
        return self.peak_bytes(self.smallest)

    def require(self, memory_bytes: int, who: str) -> None:
        """Refuse a budget that no submodel fits.

        Raises:
            BudgetError: names the number of bytes that would do.
        """
        if memory_bytes < self.smallest_bytes:
            raise BudgetError(self.budget_text(memory_bytes, who))

    def budget_text(self, memory_bytes: int, who: str, least_bytes: int | None = None) -> str:
        """Why a budget is too small, and which would do: the smallest submodel's, or the policy's.

        Args:
            memory_bytes: the budget.
            who: named first.
            least_bytes: what the run's policy asks for at least; None for the smallest submodel.
        """
        due = self.smallest_bytes if least_bytes is None else least_bytes
        whose = "" if due == self.smallest_bytes else " that the run's policy plans"
        return (
            f"{who}: a budget of {plain_bytes(memory_bytes)} is below the smallest submodel"
            f"{whose}; {plain_bytes(due)} ({due} bytes) would do"
        )

    def _thinnest(self) -> dict[int, list[int]]:
        """Per block: its core and the cheapest unit of each prunable kind."""
        cheapest: dict[tuple[int, str], int] = {}
        found: dict[int, list[int]] = defaultdict(list)
        for index, unit in enumerate(self.table.units):
            if unit.block == STEM:
                continue
            if unit.kind == "core":
                found[unit.block].append(index)
                continue
            best = cheapest.setdefault((unit.block, unit.kind), index)
            if self.trained_bytes[index] < self.trained_bytes[best]:
                cheapest[unit.block, unit.kind] = index
        for (block, _), index in cheapest.items():
            found[block].append(index)
        return dict(found)


def memory_for_fraction(table: UnitTable, fraction: float, *, slots: int, batch_size: int) -> int:
    """Memory limit of a device that may hold `fraction` of the prunable cost; see `CostModel`."""
    return CostModel(table, slots, batch_size).memory_for_fraction(fraction)


def plain_bytes(count: float) -> str:
    """Bytes with three digits at most: ``412 kB``, ``1.5 GB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


@dataclass(frozen=True)
class Workload:
    """What a plan asks of a device.

    Attributes:
        flops: of one sample's step, see `CostModel.training_flops`.
        batch_size: samples of a step.
        steps: local steps.
        bytes_down: weights fetched.
        bytes_up: delta sent.
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
    """How a device's reports bend the forecasts. Starts neutral; every change is a new value.

    Attributes:
        memory_factor: measured over predicted peak, moving average, never below 1.
        ceiling_bytes: predicted peaks from here up have run out of memory, with a margin.
        seconds_factor: measured over predicted training seconds, moving average.
        seconds_count: reports in `seconds_factor`.
    """

    memory_factor: float = 1.0
    ceiling_bytes: int | None = None
    seconds_factor: float = 1.0
    seconds_count: int = 0

    EMA = 0.3
    FACTOR_MAX = 4.0
    SHRINK = 0.8

    def with_peak(self, measured_bytes: float, predicted_bytes: float) -> "Calibration":
        """After a report that measured its peak; zero on either side says nothing."""
        if measured_bytes <= 0 or predicted_bytes <= 0:
            return self
        ratio = min(self.FACTOR_MAX, max(1.0, measured_bytes / predicted_bytes))
        factor = self.memory_factor + self.EMA * (ratio - self.memory_factor)
        return replace(self, memory_factor=factor)

    def with_seconds(self, measured_s: float, predicted_s: float) -> "Calibration":
        """After a report that timed its training; the first one counts whole."""
        if measured_s <= 0 or predicted_s <= 0:
            return self
        ratio = measured_s / predicted_s
        rate = self.EMA if self.seconds_count else 1.0
        factor = self.seconds_factor + rate * (ratio - self.seconds_factor)
        return replace(self, seconds_factor=factor, seconds_count=self.seconds_count + 1)

    def after_out_of_memory(self, predicted_bytes: int) -> "Calibration":
        """After a plan that did not fit: nothing as large is tried again."""
        ceiling = int(self.SHRINK * predicted_bytes)
        if self.ceiling_bytes is not None:
            ceiling = min(ceiling, self.ceiling_bytes)
        return replace(self, ceiling_bytes=ceiling)

    def budget_bytes(self, memory_bytes: int, margin: float, smallest_bytes: int) -> int:
        """Largest predicted peak to plan for a device with this memory."""
        usable = int(memory_bytes * (1 - margin))
        budget = max(int(usable / self.memory_factor), min(usable, smallest_bytes))
        return budget if self.ceiling_bytes is None else min(budget, self.ceiling_bytes)
