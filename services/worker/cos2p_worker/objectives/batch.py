"""What a local step trains on."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The model's inputs and the loss's labels, first dimension the samples.

    `step` is the step's number in the plan, from 1.
    """

    step: int
    inputs: Tensor
    labels: Tensor


BatchOf = Callable[[int], Batch]
"""Maps a step's number to its batch; the batches of a plan follow from its seed."""
