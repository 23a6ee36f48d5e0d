"""Small models and unequal devices to simulate, drawn from a seed.

Invariant: the claimed memory of every device holds the smallest submodel.
"""

from functools import partial

import numpy as np

from cos2p.clock import Clock
from cos2p.model.cost import CostModel
from cos2p.model.units import STEM, Kind, Unit, UnitTable
from cos2p_sim.learner import Behaviour, stand_in
from cos2p_sim.ring import Body
from cos2p_sim.scenario import Case
from cos2p_worker.shell import WorkerDevice, run_worker

BLOCKS = 3
FRACTIONS = (0.15, 0.25, 0.4, 0.6)
"""Budgets of the four device classes, as shares of the prunable cost."""
SPEEDS = (1.0, 2.0, 4.0, 8.0)
"""Speeds of devices, as multiples of the slowest."""
PLAN_S = 16.0
"""Seconds that the slowest devices need for a plan of the whole model."""


def small_table(seed: int) -> UnitTable:
    """Return a stem and three blocks: a core, two heads, two neuron groups, 4 to 16 floats each."""
    rng = np.random.default_rng([seed, 2])

    def unit(name: str, kind: Kind, block: int) -> Unit:
        size = int(rng.integers(4, 17))
        return Unit(name, kind, block, size, 2 * size, int(rng.integers(1, 5)))

    units = [unit("stem", "core", STEM)]
    for block in range(BLOCKS):
        units.append(unit(f"block{block}.core", "core", block))
        units += [unit(f"block{block}.head.{i}", "head", block) for i in range(2)]
        units += [unit(f"block{block}.neurons.{i}", "neurons", block) for i in range(2)]
    return UnitTable(tuple(units))


def draw_fleet(case: Case, table: UnitTable, clock: Clock) -> dict[str, Body]:
    """Draw the devices of a case and return their workers by name.

    All classes take turns; speeds are independent of budgets.
    """
    rng = np.random.default_rng([case.seed, 3])
    cost = CostModel.of(table, case.config)
    local = case.config.local
    whole = local.steps * local.batch_size * cost.whole_flops
    workers: dict[str, Body] = {}
    for index in range(case.device_count):
        which = index % len(FRACTIONS)
        claimed = max(cost.memory_for_fraction(FRACTIONS[which]), cost.smallest_bytes)
        overstates = rng.random() < case.scenario.fleet.boasting_share
        real = max(int(0.7 * claimed), cost.smallest_bytes) if overstates else claimed
        labels = tuple(int(n) for n in rng.integers(0, 40, 4))
        behaviour = Behaviour(
            flops_per_s=whole / PLAN_S * float(rng.choice(SPEEDS)),
            memory_bytes=real,
            failing_share=case.scenario.fleet.failing_share,
            spoilt_share=case.scenario.fleet.spoilt_share,
            sample_count=sum(labels) + 1,
            label_counts=labels,
        )
        device = WorkerDevice(claimed, f"class-{which}")
        trainer_of = stand_in(table, behaviour, clock)
        name = f"worker-{index}"
        workers[name] = partial(run_worker, worker_id=name, device=device, trainer_of=trainer_of)
    return workers
