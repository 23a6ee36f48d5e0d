"""Losses: what a step minimises, and the shift of logits that label skew asks for.

Logit adjustment (Menon et al., arXiv 2007.07314): cross entropy on logits + strength * log(label
share of this device). A device then does not learn that labels it lacks are rare everywhere.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs of the model, labels) to the mean loss, a scalar tensor."""

SMOOTHING = 1.0
"""Added to each label's count, so that an absent label's logit is shifted, not removed."""


def label_shift(label_counts: Sequence[int], strength: float) -> Tensor:
    """Strength * log((n_c + 1) / (n + C)), float32, shape (classes,)."""
    counts = torch.tensor(label_counts, dtype=torch.float64) + SMOOTHING
    return (strength * torch.log(counts / counts.sum())).to(torch.float32)


def adjusted(loss: Loss, shift: Tensor | None) -> Loss:
    """`loss` on shifted logits; `loss` itself without a shift."""
    if shift is None:
        return loss
    return lambda outputs, labels: loss(outputs + shift.to(outputs.device), labels)
