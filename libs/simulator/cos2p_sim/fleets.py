"""Small models and unequal devices to simulate, drawn from a seed.

Invariant: every device that is drawn can hold the smallest submodel (what it says of itself).
"""

from dataclasses import dataclass

import numpy as np

from cos2p.model.cost import CostModel
from cos2p.model.units import STEM, Kind, Unit, UnitTable
from cos2p_sim.learner import Temper
from cos2p_sim.scenario import Case

BLOCKS = 3
FRACTIONS = (0.15, 0.25, 0.4, 0.6)
"""Budgets of the four device classes, as shares of the prunable cost."""
SPEEDS = (1.0, 2.0, 4.0, 8.0)
PLAN_S = 16.0
"""Seconds that a whole model's plan takes the slowest class."""


@dataclass(frozen=True)
class StandIn:
    """A simulated device.

    Attributes:
        worker_id: its name.
        claimed_bytes: the memory that it says it has.
        temper: how it really is.
    """

    worker_id: str
    device_class: str
    claimed_bytes: int
    temper: Temper


def small_table(seed: int) -> UnitTable:
    """A stem and three blocks of a core, two heads and two neuron groups, 4 to 16 floats each."""
    chance = np.random.default_rng([seed, 2])

    def unit(name: str, kind: Kind, block: int) -> Unit:
        size = int(chance.integers(4, 17))
        return Unit(name, kind, block, size, 2 * size, int(chance.integers(1, 5)))

    units = [unit("stem", "core", STEM)]
    for block in range(BLOCKS):
        units.append(unit(f"block{block}.core", "core", block))
        units += [unit(f"block{block}.head.{i}", "head", block) for i in range(2)]
        units += [unit(f"block{block}.neurons.{i}", "neurons", block) for i in range(2)]
    return UnitTable(tuple(units))


def draw_fleet(case: Case, table: UnitTable) -> tuple[StandIn, ...]:
    """The devices of a case: all classes, speeds independent of budgets."""
    chance = np.random.default_rng([case.seed, 3])
    cost = CostModel.of(table, case.config)
    local = case.config.local
    whole = local.steps * local.batch_size * cost.training_flops(range(len(table)))
    devices = []
    for index in range(case.device_count):
        which = index % len(FRACTIONS)
        claimed = max(cost.memory_for_fraction(FRACTIONS[which]), cost.smallest_bytes)
        boasts = chance.random() < case.scenario.fleet.boasting_share
        real = max(int(0.7 * claimed), cost.smallest_bytes) if boasts else claimed
        labels = tuple(int(n) for n in chance.integers(0, 40, 4))
        temper = Temper(
            flops_per_s=whole / PLAN_S * float(chance.choice(SPEEDS)),
            memory_bytes=real,
            failing_share=case.scenario.fleet.failing_share,
            spoilt_share=case.scenario.fleet.spoilt_share,
            sample_count=sum(labels) + 1,
            label_counts=labels,
        )
        devices.append(StandIn(f"worker-{index}", f"class-{which}", claimed, temper))
    return tuple(devices)
