"""What a device reaches without the others: its own submodel, its own data, no merging.

This is the comparison that the demo prints.

Invariants: the device gets what it has in the run: the same budget, optimiser, batch size and loss.
The caller sets the number of steps. Terms that the loss ramps up over a run stay off. Alone there
is only one plan, and no merged model to stay near.
"""

from cos2p.model.cost import CostModel
from cos2p.run_config import RunConfig
from cos2p_worker.budget import even_scores, fill_budget
from cos2p_worker.evaluation import evaluate_values
from cos2p_worker.initial import initial_values
from cos2p_worker.task import Dataset, Task
from cos2p_worker.torch_trainer import local_machine, local_plan
from cos2p_worker.train import Training
from cos2p_worker.trainer import TrainingControl


def standalone_units(
    task: Task, config: RunConfig, memory_bytes: int, owner: str
) -> tuple[int, ...]:
    """Return the fixed submodel that fills a device's budget.

    Raises:
        BudgetError: not even the smallest submodel fits.
    """
    cost = CostModel.of(task.units, config)
    return fill_budget(cost, memory_bytes, even_scores(task.units), owner)


def train_standalone(
    task: Task,
    shard: Dataset,
    units: tuple[int, ...],
    config: RunConfig,
    steps: int,
    seed: int,
) -> float:
    """Return the accuracy on the evaluation data after `steps` steps (0 without classes).

    Logit adjustment stays on: on the digits it also gives a device alone 1 to 9 points.
    """
    training = Training(task, shard, config, local_machine())
    values = initial_values(task, seed, units)
    plan = local_plan(units, steps, config.local, seed)
    result, _ = training.run(plan, values, None, TrainingControl())
    trained = {u: values[u] + result.deltas[u] for u in units}
    return evaluate_values(task, trained, task.evaluation_data(), units).accuracy or 0.0
