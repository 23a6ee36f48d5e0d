"""Losses: what a step minimises, and the shift of logits that label skew asks for.

Two forms, both checked (docs/results.md): logit adjustment (Menon et al., arXiv 2007.07314), cross
entropy on logits + strength * log(label share of this device); and FedLC (Zhang et al., arXiv
2209.00189), logits - strength * n_c ** (-1/4). A device then does not learn that labels which it
has not are rare everywhere.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs of the model, labels) to the mean loss, a scalar tensor."""

SMOOTHING = 1.0
"""Added to each label's count, so that an absent label's logit is shifted, not removed."""

ABSENT = 1e-8
"""FedLC's count of a label that the device has not."""


def label_shift(label_counts: Sequence[int], strength: float) -> Tensor:
    """Strength * log((n_c + 1) / (n + C)), float32, shape (classes,)."""
    counts = torch.tensor(label_counts, dtype=torch.float64) + SMOOTHING
    return (strength * torch.log(counts / counts.sum())).to(torch.float32)


def fedlc_shift(label_counts: Sequence[int], strength: float) -> Tensor:
    """-strength * n_c ** (-1/4), float32, shape (classes,).

    An absent label counts as 1e-8 samples, so its logit falls by 100 strength and out of the loss.
    Deviation: the published sum over the other labels is the whole softmax here.
    """
    counts = torch.tensor(label_counts, dtype=torch.float64).clamp_min(ABSENT)
    return (-strength * counts**-0.25).to(torch.float32)


def adjusted(loss: Loss, shift: Tensor | None) -> Loss:
    """`loss` on shifted logits; `loss` itself without a shift."""
    if shift is None:
        return loss
    return lambda outputs, labels: loss(outputs + shift.to(outputs.device), labels)
