"""The loss of a plan's steps: an objective, and what is added to it.

Invariants: a form that is off adds no operation, so that a plan's delta is then the same byte for
byte as if the form did not exist; nothing here draws from torch's global generator; what a form
needs of the dispatched weights is computed before the first step, while the weights are those.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from cos2p.log.messages import Plan
from cos2p.run_config import LocalConfig, RunConfig
from cos2p_worker.loss import Loss, adjusted, label_shift
from cos2p_worker.models.exits import heads_of
from cos2p_worker.objectives.anchor import Anchor, Proximal
from cos2p_worker.objectives.batch import Batch, BatchOf
from cos2p_worker.objectives.exits import DepthFL, ScaleFL, SharedExits
from cos2p_worker.objectives.ordered_dropout import OrderedDropout
from cos2p_worker.task import Task

Counts = tuple[int, ...] | None


class Objective(Protocol):
    """What a step minimises."""

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """The loss in parts, each (scalar loss, final head's outputs of the pass that made it).

        Each part is backpropagated before the next is asked for, so that memory holds the graph
        of one pass at a time.
        """
        ...


@dataclass(frozen=True)
class FinalHead:
    """The task's loss of the final head."""

    loss: Loss

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass."""
        final = heads_of(module(batch.inputs))[-1]
        yield self.loss(final, batch.labels), final


@dataclass(frozen=True)
class LocalLoss:
    """An objective, and what holds the device near the model that it was given.

    `steps_differ` tells that one step's peak says nothing of the next one's.
    """

    objective: Objective
    anchor: Anchor | None = None
    proximal: Proximal | None = None
    steps_differ: bool = False

    @property
    def prepares(self) -> bool:
        """Whether there is anything to prepare."""
        return self.anchor is not None or self.proximal is not None

    def prepare(self, module: nn.Module, batch_of: BatchOf, steps: int) -> None:
        """Once, before the first step: `module` has the dispatched weights."""
        if self.anchor is not None:
            self.anchor.prepare(module, batch_of, steps)
        if self.proximal is not None:
            self.proximal.prepare(module)

    def kept(self) -> Iterator[Tensor]:
        """The tensors that `prepare` made."""
        if self.anchor is not None:
            yield from self.anchor.kept()
        if self.proximal is not None:
            yield from self.proximal.kept()

    def backward(self, module: nn.Module, batch: Batch) -> float:
        """Add a step's gradients to those of the module's parameters; the loss."""
        total = 0.0
        for number, (loss, outputs) in enumerate(self.objective.parts(module, batch)):
            if self.anchor is not None and not number:
                loss = self.anchor.added(loss, batch.step, outputs)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if self.proximal is not None:
            total += self.proximal.add_gradients()
        return total


def local_loss(task: Task, config: RunConfig, label_counts: Counts, plan: Plan) -> LocalLoss:
    """The loss that a run's settings name.

    Args:
        task: its model and loss.
        config: the run's settings.
        label_counts: the device's own samples per label; None for a task without classes.
        plan: its units and seed, and how far the run is.

    Raises:
        SettingsError: the task was not made for these settings.
    """
    task.require_made_for(config)
    local = config.local
    shift = None
    if label_counts is not None and local.logit_adjustment:
        shift = label_shift(label_counts, local.logit_adjustment)
    anchored = task.classes is not None and local.anchor.share
    return LocalLoss(
        _objective(task, local, adjusted(task.loss, shift), plan),
        Anchor(local.anchor.share, plan.progress) if anchored else None,
        Proximal(local.proximal) if local.proximal else None,
        steps_differ=local.objective == "fjord",
    )


def _objective(task: Task, local: LocalConfig, loss: Loss, plan: Plan) -> Objective:
    match local.objective:
        case "exits":
            return SharedExits(loss, local.exits, plan.progress)
        case "depthfl":
            return DepthFL(loss, local.exits, plan.progress)
        case "scalefl":
            return ScaleFL(loss, local.exits, plan.progress)
        case "fjord":
            trained, frozen = plan.trained, plan.frozen
            return OrderedDropout(loss, local.exits, task.model, trained, frozen, plan.seed)
        case _:
            return FinalHead(loss)
