"""Terms that keep a device near the model that it received.

`Anchor` compares outputs, `Proximal` compares weights. Both damp the drift of a device with few
labels during a plan's steps. Neither needs a second model.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cos2p_worker.models.exits import heads_of
from cos2p_worker.objectives.batch import BatchOf
from cos2p_worker.objectives.divergence import divergence, ramp_up, soft

ROUNDING = 1e-9
TEMPERATURE = 2.0
"""T of the softened outputs; no other value was measured."""
RAMP = 0.3
"""Share of the run over which the term's weight rises to T^2: an early teacher knows little. One
run without a ramp, and one with twice the weight, were no worse (docs/history/log.md)."""


def is_anchored(step: int, share: float) -> bool:
    """Return whether step `step` (from 1) has the term: `share` of the steps, evenly spread."""
    return math.floor(step * share + ROUNDING) > math.floor((step - 1) * share + ROUNDING)


class Anchor:
    """Ramp * T^2 * KL(dispatched submodel's output || current output), on some steps.

    The teacher is the submodel as it was dispatched, on the very batches of the anchored steps. Its
    outputs are computed before the first local step, while the weights are still the teacher's.
    Logits on both sides are those of the final head, without the shift of logit adjustment. This
    form is our own. Knowledge distillation against forgetting in federated learning is from Lee et
    al., arXiv 2106.03097 (there with the global model, and non-true classes only). `share` of the
    steps have the term. `progress` is the share of the run that was done when the plan was made.
    """

    def __init__(self, share: float, progress: float) -> None:
        self._share = share
        self._weight = ramp_up(progress, RAMP) * TEMPERATURE**2
        self._taught: dict[int, Tensor] = {}

    def prepare(self, module: nn.Module, batch_of: BatchOf, steps: int) -> None:
        """Compute the teacher's outputs with the dispatched weights."""
        if not self._weight:
            return
        was_training = module.training
        module.eval()
        with torch.no_grad():
            for step in range(1, steps + 1):
                if is_anchored(step, self._share):
                    outputs = heads_of(module(batch_of(step).inputs))[-1]
                    self._taught[step] = soft(outputs, TEMPERATURE)
        module.train(was_training)

    def kept(self) -> Iterator[Tensor]:
        """Yield the teacher's log-probabilities."""
        yield from self._taught.values()

    def added(self, loss: Tensor, step: int, outputs: Tensor) -> Tensor:
        """Return loss + term; `loss` itself on the other steps, and while the ramp is at 0."""
        taught = self._taught.pop(step, None)
        if taught is None:
            return loss
        return loss + self._weight * divergence(taught, soft(outputs, TEMPERATURE))


class Proximal:
    """Rho / 2 * squared distance of the trained weights from the dispatched ones (FedProx).

    From Li et al., arXiv 1812.06127. It costs one copy of the trained weights.
    """

    def __init__(self, rho: float) -> None:
        self._rho = rho
        self._pairs: list[tuple[nn.Parameter, Tensor]] = []

    def prepare(self, module: nn.Module) -> None:
        """Copy the dispatched weights."""
        self._pairs = [(p, p.detach().clone()) for p in module.parameters() if p.requires_grad]

    def kept(self) -> Iterator[Tensor]:
        """Yield the copies."""
        yield from (then for _, then in self._pairs)

    @torch.no_grad()
    def add_gradients(self) -> float:
        """Add rho * (w - w_dispatched) to the gradients, without a graph; return the term."""
        squares = 0.0
        for now, then in self._pairs:
            drift = now - then
            squares += float(drift.square().sum())
            if now.grad is None:
                now.grad = self._rho * drift
            else:
                now.grad.add_(drift, alpha=self._rho)
        return self._rho / 2 * squares
