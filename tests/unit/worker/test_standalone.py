"""Training alone, and the fixed submodel for a budget."""

import numpy as np
import pytest

from cos2p.errors import BudgetError
from cos2p.model.cost import CostModel
from cos2p_worker.budget import energy_scores, even_scores, fill_budget
from cos2p_worker.initial import initial_values
from cos2p_worker.standalone import standalone_units, train_standalone
from cos2p_worker.task import Dataset, Task


def cost_of(task: Task) -> CostModel:
    return CostModel.of(task.units, task.run)


@pytest.mark.parametrize("fraction", [0.25, 0.4, 0.6, 0.9, 1.0])
def test_the_submodel_fills_its_budget_and_no_more(task: Task, fraction: float) -> None:
    cost = cost_of(task)
    memory_bytes = cost.memory_for_fraction(fraction)

    units = standalone_units(task, task.run, memory_bytes, "w")

    largest = int(cost.trained_bytes[task.units.prunable].max())
    assert memory_bytes - 2 * largest <= cost.peak_bytes(units) <= memory_bytes
    assert units == task.units.close(units)


def test_with_all_the_memory_it_is_the_whole_model(task: Task) -> None:
    memory_bytes = cost_of(task).memory_for_fraction(1.0)

    assert tuple(range(len(task.units))) == standalone_units(task, task.run, memory_bytes, "w")


def test_a_small_budget_leaves_blocks_out_and_keeps_the_others_wide(task: Task) -> None:
    cost = cost_of(task)
    units = standalone_units(task, task.run, cost.memory_for_fraction(0.3), "w")

    blocks = {int(b) for b in task.units.blocks[list(units)]} - {-1}
    assert 0 < len(blocks) < task.units.block_count


def test_no_kind_starves(task: Task) -> None:
    cost = cost_of(task)
    for scores in (even_scores(task.units), energy_scores(cost, initial_values(task, 0))):
        units = fill_budget(cost, cost.memory_for_fraction(0.6), scores, "w")

        kinds = [task.units.units[u].kind for u in units]
        assert kinds.count("head") >= 2
        assert kinds.count("neurons") >= 2


def test_a_budget_below_the_smallest_submodel_names_the_number_that_would_do(task: Task) -> None:
    smallest = cost_of(task).smallest_bytes

    with pytest.raises(BudgetError, match=f"device-3: .*{smallest} bytes"):
        standalone_units(task, task.run, smallest - 1, "device-3")
    assert standalone_units(task, task.run, smallest, "device-3")


def test_the_units_with_more_energy_stay(task: Task) -> None:
    values = initial_values(task, 0)
    names = [u.name for u in task.units.units]
    strong = names.index("block2.neurons.2"), names.index("block2.head.1")
    for unit in strong:
        values[unit] = 20 * values[unit]
    cost = cost_of(task)

    units = fill_budget(cost, cost.memory_for_fraction(0.4), energy_scores(cost, values), "w")

    assert set(strong) <= set(units)


def test_alone_a_device_learns_what_it_has_seen(task: Task) -> None:
    units = standalone_units(task, task.run, cost_of(task).memory_for_fraction(0.6), "w")

    untrained = train_standalone(task, task.shard(0, 2), units, task.run, steps=1, seed=0)
    trained = train_standalone(task, task.shard(0, 2), units, task.run, steps=80, seed=0)

    assert untrained < 0.8 < trained


def test_alone_a_device_does_not_learn_what_it_has_not_seen(task: Task) -> None:
    data = task.shard(0, 2)
    half = Dataset(data.inputs[data.labels < 2], data.labels[data.labels < 2])
    units = tuple(range(len(task.units)))

    accuracy = train_standalone(task, half, units, task.run, steps=80, seed=0)

    assert accuracy == pytest.approx(0.5, abs=0.15)
    assert np.isfinite(accuracy)
