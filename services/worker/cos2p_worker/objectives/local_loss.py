"""The loss of a plan's steps: an objective, and the terms added to it.

Invariants: a form that is off adds no operation. So a plan's delta is then byte for byte the same
as if the form did not exist. Nothing here draws from torch's global generator. What a form needs of
the dispatched weights is computed before the first step, while the module still has those weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cos2p.log.messages import Plan
from cos2p.run_config import LocalConfig, RunConfig
from cos2p_worker.loss import Loss, adjusted, label_shift
from cos2p_worker.objectives.anchor import Anchor, Proximal
from cos2p_worker.objectives.batch import Batch, BatchOf
from cos2p_worker.objectives.exits import DepthFL, FinalHead, ScaleFL, SharedExits
from cos2p_worker.objectives.ordered_dropout import OrderedDropout
from cos2p_worker.task import Task

Counts = tuple[int, ...] | None
ONE_PASS = {"final": FinalHead, "exits": SharedExits, "depthfl": DepthFL, "scalefl": ScaleFL}


Objective = FinalHead | OrderedDropout
"""What a step minimises. `parts` yields (scalar loss, final head's outputs of the pass that made
it). Each part is backpropagated before the next is asked for, so that memory holds the graph of one
pass at a time."""


@dataclass(frozen=True)
class LocalLoss:
    """An objective, and the terms that keep the device near the model that it received.

    `steps_differ` means that one step's peak does not predict the next one's.
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
        """Prepare the terms, once, before the first step: `module` has the dispatched weights."""
        if self.anchor is not None:
            self.anchor.prepare(module, batch_of, steps)
        if self.proximal is not None:
            self.proximal.prepare(module)

    def kept(self) -> Iterator[Tensor]:
        """Yield the tensors that `prepare` made."""
        if self.anchor is not None:
            yield from self.anchor.kept()
        if self.proximal is not None:
            yield from self.proximal.kept()

    def backward(self, module: nn.Module, batch: Batch) -> float:
        """Add a step's gradients to those of the module's parameters; return the loss."""
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
    """Make the loss that a run's settings name, for a device with these samples per label.

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
    if local.objective == "fjord":
        units = (plan.trained, plan.frozen)
        return OrderedDropout(loss, local.exits, task.model, *units, plan.seed)
    return ONE_PASS[local.objective](loss, local.exits, plan.progress)
