"""What a baseline makes of updates, worked by hand: its weights and server step, merged for real.

A model of three units with one weight each: the planner's rules weigh, the aggregator's store
merges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.run_config import RunConfig
from cos2p_aggregator.store import ModelStore
from cos2p_planner.baselines.policies import BASELINES
from cos2p_planner.presets import config_of
from cos2p_planner.rules.closing import OpenRound, closing_of
from cos2p_planner.rules.pace import Pace
from cos2p_planner.rules.update_weight import weigh
from cos2p_planner.state.arrivals import Arrivals

TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, 1, 1, 1),
        Unit("a", "neurons", 0, 1, 1, 1),
        Unit("b", "neurons", 0, 1, 1, 1),
    )
)
START = (10.0, 20.0, 30.0)
PACE = Pace(1.0, 1.0, 1.0, ())


@dataclass(frozen=True)
class Update:
    """What one of the devices brings: its weights after training, and the ones it was sent."""

    trained: Mapping[int, float]
    sent: tuple[float, ...] = START
    samples: int = 100
    staleness: int = 0
    steps: int = 10


def server(policy: str, **changes: Any) -> tuple[RunConfig, ModelStore]:
    config = config_of(RunConfig(), {"policy": policy} | changes)
    store = ModelStore(TABLE, (0, 1, 2), averaged=config.merge.average_decay > 0)
    for unit, value in enumerate(START):
        store.load(unit, np.full(1, value, np.float32))
    return config, store


def merge(config: RunConfig, store: ModelStore, *updates: Update, devices: int = 10) -> list[float]:
    """One version of these updates; the model's weights after it."""
    for update in updates:
        found = weigh(update.samples, update.steps, update.staleness, config)
        for unit, value in update.trained.items():
            delta = np.full(1, value - update.sent[unit], np.float32)
            store.add(unit, delta, weight=found.weight, scale=found.scale, square_sum=0.0)
    state = OpenRound(
        now=0.0,
        version=0,
        opened_s=0.0,
        update_count=len(updates),
        open_count=0,
        trainable_count=devices,
        pace=PACE,
        arrivals=Arrivals(),
    )
    step = closing_of(config.rounds, config.local).step(state)
    list(store.close(1, config.merge.server_lr * step, config.merge.average_decay))
    return [float(store.average(unit)[0]) for unit in range(3)]


@pytest.mark.parametrize("policy", [p.name for p in BASELINES])
def test_a_parameter_that_nobody_trained_keeps_its_value(policy: str) -> None:
    made = merge(*server(policy), Update({0: 12.0, 1: 25.0}), Update({0: 8.0, 1: 21.0}))

    assert 30.0 == made[2]
    assert 20.0 != made[1]


@pytest.mark.parametrize(
    "policy", ["heterofl", "federated-dropout", "fedrolex", "depthfl", "scalefl", "fiarse"]
)
def test_each_weight_becomes_the_plain_mean_of_those_who_trained_it(policy: str) -> None:
    """The stem by all three, (12 + 8 + 13) / 3; `a` by two, (25 + 21) / 2; `b` by one."""
    made = merge(
        *server(policy),
        Update({0: 12.0, 1: 25.0, 2: 33.0}, samples=900),
        Update({0: 8.0, 1: 21.0}, samples=50),
        Update({0: 13.0}, samples=50),
    )

    assert pytest.approx([11.0, 23.0, 33.0]) == made


@pytest.mark.parametrize("policy", ["fedavg-ideal", "fedavg-exclusive", "fedavg-small", "fjord"])
def test_each_weight_becomes_the_mean_by_samples_of_those_who_trained_it(policy: str) -> None:
    """300 samples against 100: the stem (3 * 12 + 8) / 4, `a` by one alone."""
    made = merge(
        *server(policy),
        Update({0: 12.0, 1: 25.0}, samples=300),
        Update({0: 8.0}, samples=100),
    )

    assert pytest.approx([11.0, 25.0, 30.0]) == made


def test_fedasync_moves_by_alpha_and_staleness_towards_each_arrival() -> None:
    """Alpha 0.9; fresh by 0.9 * 2, three versions late by 0.9 * 4 ** -0.5 * 2."""
    assert pytest.approx(11.8) == merge(*server("fedasync"), Update({0: 12.0}))[0]
    late = Update({0: 12.0}, staleness=3)
    assert pytest.approx(10.9) == merge(*server("fedasync"), late)[0]


def test_fedbuff_moves_by_the_mean_of_deltas_scaled_by_staleness() -> None:
    """Deltas 4 fresh and 2 three versions late: (4 + 2 / 2) / 2 = 2.5, samples or not."""
    fresh, late = Update({0: 14.0}, samples=900), Update({0: 12.0}, samples=9, staleness=3)

    assert pytest.approx(12.5) == merge(*server("fedbuff"), fresh, late)[0]


def test_fedcompass_moves_by_alpha_over_all_devices_times_the_sum_of_deltas() -> None:
    """Alpha 0.9, ten devices, deltas 4 fresh and 2 three versions late: 0.9 / 10 * (4 + 1)."""
    fresh, late = Update({0: 14.0}), Update({0: 12.0}, staleness=3)

    assert pytest.approx(10.45) == merge(*server("fedcompass"), fresh, late, devices=10)[0]


def test_deltas_are_against_the_dispatched_base() -> None:
    """Two devices are sent 10 and train to 14 and to 12; the second arrives when the model has 14.

    It moves the model up by its own 2, scaled by s(1); against the current 14 it would pull down.
    """
    config, store = server("fedbuff")
    merge(config, store, Update({0: 14.0}))

    made = merge(config, store, Update({0: 12.0}, sent=START, staleness=1))

    assert pytest.approx(14.0 + 2.0 * 2**-0.5) == made[0]


def test_our_own_weight_is_the_root_of_samples_and_staleness_within_the_mean() -> None:
    """Weights 20 * 1 and 10 * 1/2; normalised from 5 steps of 10 the second delta is doubled."""
    config, store = server("co-s2p", merge={"average_decay": 0.0})
    fresh = Update({0: 11.0}, samples=400)
    late = Update({0: 12.0}, samples=100, staleness=3, steps=5)

    assert pytest.approx(10.0 + (20 * 1.0 + 5 * 4.0) / 25) == merge(config, store, fresh, late)[0]
