"""How good a model is on data that no device trained on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cos2p_worker.layout import UnitArrays
from cos2p_worker.models.exits import heads_of
from cos2p_worker.submodel import all_units, build_submodel
from cos2p_worker.task import Dataset, Task

BATCH = 512


@dataclass(frozen=True)
class Evaluation:
    """How good a (sub)model is.

    Attributes:
        loss: mean loss of the final head (in a submodel without it: of the deepest exit).
        accuracy: that head's share of right answers; None for a task without classes.
        exit_accuracies: accuracy of each inner exit, shallow first; empty without exits.
        mean_accuracy: accuracy of the mean of all heads' probabilities; None without exits.
    """

    loss: float
    accuracy: float | None
    exit_accuracies: tuple[float, ...] = ()
    mean_accuracy: float | None = None


def evaluate(task: Task, module: nn.Module, data: Dataset) -> Evaluation:
    """Evaluate a module without training it."""
    module.eval()
    loss_sum, right = 0.0, torch.zeros(0, dtype=torch.int64)
    with torch.no_grad():
        for start in range(0, len(data), BATCH):
            labels = data.labels[start : start + BATCH]
            heads = heads_of(module(data.inputs[start : start + BATCH]))
            loss_sum += float(task.loss(heads[-1], labels)) * len(labels)
            if task.classes is not None:
                found = _right(heads, labels)
                right = found if not start else right + found
    loss = loss_sum / len(data)
    if task.classes is None:
        return Evaluation(loss, None)
    *exits, final, mean = (right.double() / len(data)).tolist()
    return Evaluation(loss, final, tuple(exits), mean if exits else None)


def _right(heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """Return the right answers of each head, and last those of the mean of their probabilities."""
    logits = torch.stack(heads)
    guesses = torch.cat([logits, logits.softmax(-1).mean(0, keepdim=True)]).argmax(-1)
    return (guesses == labels).sum(-1)


def evaluate_values(
    task: Task, values: UnitArrays, data: Dataset, units: tuple[int, ...] | None = None
) -> Evaluation:
    """Evaluate the (sub)model with these values; all units unless `units` names some."""
    chosen = all_units(task.model) if units is None else units
    module = build_submodel(task.model, (), chosen, values, torch.device("cpu"))
    return evaluate(task, module, data)
