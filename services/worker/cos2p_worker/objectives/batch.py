"""What a local step trains on."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a step trains on.

    Attributes:
        step: the step's number in the plan, from 1.
        inputs: the model's input, first dimension the samples.
        labels: the loss's labels, first dimension the samples.
    """

    step: int
    inputs: Tensor
    labels: Tensor


BatchOf = Callable[[int], Batch]
"""Maps a step's number to its batch; the batches of a plan follow from its seed."""
