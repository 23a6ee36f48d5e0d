"""Distances between class probabilities, and how their weight rises over a run."""

import math

from torch import Tensor
from torch.nn import functional


def soft(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(logits / T), last dimension the classes."""
    return functional.log_softmax(logits / temperature, -1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of log-probabilities, averaged over samples.

    The last dimension is the classes. At a temperature T it is weighted with T^2, so that the
    gradient's size does not depend on T (Hinton et al., arXiv 1503.02531).
    """
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def ramp_up(progress: float, length: float) -> float:
    """Return min(1, progress / length); 1 without a ramp. Both are shares of the run."""
    return 1.0 if progress >= length else progress / length


def late_ramp(progress: float, length: float) -> float:
    """Return exp(-5 (1 - ramp_up)^2), as in DepthFL: it rises late."""
    return math.exp(-5.0 * (1.0 - ramp_up(progress, length)) ** 2)
