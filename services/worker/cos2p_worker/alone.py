"""What a device reaches without the others: its own submodel, its own data, no merging.

The comparison that the demo prints. Invariant: the device gets what it has in the run: the same
budget, optimiser, batch size and loss, and the number of steps it is told. What the loss ramps up
over a run stays off: alone there is one plan, and no merged model to be held to.
"""

from cos2p.model.cost import CostModel
from cos2p.run_config import RunConfig
from cos2p_worker.budget import even_scores, fill_budget
from cos2p_worker.evaluation import judge_values
from cos2p_worker.initial import initial_values
from cos2p_worker.task import Dataset, Task
from cos2p_worker.torch_trainer import Power, local_machine, local_plan
from cos2p_worker.train import Training
from cos2p_worker.trainer import Watch


def units_alone(task: Task, config: RunConfig, memory_bytes: int, who: str) -> tuple[int, ...]:
    """The fixed submodel that fills a device's budget.

    Raises:
        BudgetError: not even the smallest fits.
    """
    cost = CostModel.of(task.units, config)
    return fill_budget(cost, memory_bytes, even_scores(task.units), who)


def train_alone(
    task: Task,
    shard: Dataset,
    units: tuple[int, ...],
    config: RunConfig,
    steps: int,
    seed: int,
) -> float:
    """Accuracy on the evaluation data after `steps` steps (0 for a task without classes).

    Logit adjustment stays on: on the digits it gives a device alone 1 to 9 points, too.
    """
    training = Training(task, shard, config, local_machine(Power()))
    values = initial_values(task, seed, units)
    plan = local_plan(units, steps, config.local, seed)
    result, _ = training.run(plan, values, None, Watch())
    trained = {u: values[u] + result.deltas[u] for u in units}
    return judge_values(task, trained, task.evaluation_data(), units).accuracy or 0.0
