"""Losses of one pass of a model: of its final head, and of its exits too.

The exits' losses are ours, and those of two depth-cut baselines. Every cross-entropy is the task's
loss, with the logits adjusted by the device's own label share. Divergences compare plain logits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cos2p.run_config import ExitConfig
from cos2p_worker.loss import Loss
from cos2p_worker.models.exits import heads_of
from cos2p_worker.objectives.batch import Batch
from cos2p_worker.objectives.divergence import divergence, late_ramp, ramp_up, soft


@dataclass(frozen=True)
class FinalHead:
    """CE(final).

    Attributes:
        loss: the task's loss, adjusted.
        config: w ("weight"), lambda or gamma ("distillation"), mu ("final_share"), T, and a ramp.
        progress: share of the run that was done when the plan was made.
    """

    loss: Loss
    config: ExitConfig
    progress: float

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loss of one pass."""
        final = heads_of(module(batch.inputs))[-1]
        yield self.loss(final, batch.labels), final


class SharedExits(FinalHead):
    """CE(final) + w * sum CE(exit) + lambda T^2 [sum KL(mean || exit) + mu KL(mean || final)].

    `mean` is the detached mean of all heads' probabilities at T (the exit at full depth is the
    final head). Each head is weighted by how many of the batch it gets right. This form is our own.
    Self-distillation between exits is from Zhang et al., arXiv 1905.08094.
    """

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loss of one pass."""
        *exits, final = heads_of(module(batch.inputs))
        c = self.config
        loss = self.loss(final, batch.labels)
        for logits in exits:
            loss = loss + c.weight * self.loss(logits, batch.labels)
        strength = c.distillation * ramp_up(self.progress, c.ramp) * c.temperature**2
        if strength and exits:
            mean = _mean([*exits, final], batch.labels, c.temperature)
            for logits in exits:
                loss = loss + strength * divergence(mean, soft(logits, c.temperature))
            if c.final_share:
                taught = divergence(mean, soft(final, c.temperature))
                loss = loss + strength * c.final_share * taught
        yield loss, final


@torch.no_grad()
def _mean(heads: list[Tensor], labels: Tensor, temperature: float) -> Tensor:
    """Return the log of the heads' mean probabilities, weighted by (right answers + 1)."""
    right = torch.stack([(h.argmax(-1) == labels).sum() + 1 for h in heads])
    weights = (right / right.sum()).log()
    probabilities = torch.stack([soft(h, temperature) for h in heads])
    return torch.logsumexp(probabilities + weights.view(-1, *[1] * heads[0].ndim), 0)


class DepthFL(FinalHead):
    """sum_e CE_e + lambda(q) / (K - 1) * sum over pairs e != f of T^2 KL(f || e), f detached.

    From Kim et al., DepthFL, ICLR 2023; K is the number of the submodel's exits. As published, T =
    1 and lambda(q) = exp(-5 (1 - q / 300)^2) of 1000 rounds, then 1. For this set temperature 1,
    distillation 1, ramp 0.3. Deviations: there is an exit after every block (there: after each of
    four stages). The ramp is in shares of the run. FedDyn's regulariser is left out.
    """

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loss of one pass."""
        heads = heads_of(module(batch.inputs))
        c = self.config
        loss = torch.stack([self.loss(logits, batch.labels) for logits in heads]).sum()
        strength = c.distillation * late_ramp(self.progress, c.ramp) * c.temperature**2
        if strength and len(heads) > 1:
            softened = [soft(logits, c.temperature) for logits in heads]
            pairs = [
                divergence(teacher.detach(), student)
                for e, student in enumerate(softened)
                for f, teacher in enumerate(softened)
                if e != f
            ]
            loss = loss + strength / (len(heads) - 1) * torch.stack(pairs).sum()
        yield loss, heads[-1]


class ScaleFL(FinalHead):
    """sum_j j [CE_j + gamma T^2 KL(K || j)] / (K (K + 1) / 2) over the submodel's K exits.

    From Ilhan et al., ScaleFL, CVPR 2023. As published, T = 3 and gamma (here "distillation") is 0
    for images and 0.05 for text. It applies only after a quarter of the rounds: ramp 0.25 is when
    it begins. The teacher is not detached, as in the published code. Exits are at the ends of the
    four levels of the published transformer.
    """

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the loss of one pass."""
        heads = heads_of(module(batch.inputs))
        c = self.config
        count = len(heads)
        strength = c.distillation * c.temperature**2 if self.progress >= c.ramp else 0.0
        terms = []
        for j, logits in enumerate(heads, 1):
            term = self.loss(logits, batch.labels)
            if strength and j < count:
                teacher = soft(heads[-1], c.temperature)
                term = term + strength * divergence(teacher, soft(logits, c.temperature))
            terms.append(j * term)
        yield torch.stack(terms).sum() / math.comb(count + 1, 2), heads[-1]
