"""What every model of ours offers the rest of the worker: a layout, a submodel builder, taps.

Invariants of taps: in the activation that a tap receives, a unit's channels are contiguous. The
units present in that block are in table order. All are of one kind with the same number of
channels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

from cos2p.model.units import STEM, Kind
from cos2p_worker.layout import Layout
from cos2p_worker.models.exits import NO_EXITS, Exits


@dataclass(frozen=True)
class Architecture:
    """A model that can be cut.

    Attributes:
        build: makes the module that holds exactly the given units (ascending, closed under their
            cores). It has the parameters' names of the whole model and the shapes of
            `layout.shapes_of(units)`, and is freshly initialised from torch's global generator.
        with_exits: makes the same architecture with other exits; None where it can't have any.
        branch_outputs: the parameters that write what a block's branches give to the stream
            (weights and biases). Scaling a unit's part of them scales what it gives.
    """

    layout: Layout
    build: Callable[[tuple[int, ...]], nn.Module]
    exits: Exits = NO_EXITS
    with_exits: Callable[[Exits], "Architecture"] | None = None
    branch_outputs: frozenset[str] = frozenset()


def widths_of(layout: Layout, units: Sequence[int]) -> dict[int, Counter[Kind]]:
    """Return how many units of each kind a submodel has, for each block that it has."""
    widths: dict[int, Counter[Kind]] = {}
    for spec in (layout.specs[unit] for unit in units):
        if spec.block != STEM:
            widths.setdefault(spec.block, Counter())[spec.kind] += 1
    return widths


CHANNEL_DIM: Mapping[Kind, int] = MappingProxyType({"head": -1, "neurons": -1, "channels": 1})
"""By kind: the dimension of a tapped activation along which its units lie. Dimension 0 is always
the batch. So the shape is (batch, tokens, units * width) for heads and neurons, and (batch, units *
width, side, side) for channels."""


Tap = Callable[[int, Kind, Tensor], Tensor]
"""Receives, and may replace, the output of a block's units of one kind: (block, kind, activation)
to the tensor that the block continues with. That is `activation` itself or another tensor of its
shape. `block` is the number in the whole model. `activation` is the attention result before the
output projection ("head"), the MLP's hidden layer before its second matrix ("neurons"), or the
inner channels before the second convolution ("channels"), each after its nonlinearity. It has no
channels where the submodel has no unit of that kind in that block."""

BlockTap = Callable[[Kind, Tensor], Tensor]
"""A tap of one block: (kind, activation) to the tensor that the block continues with."""


class Tapped(nn.Module):
    """A model that calls `tap` in every block, where one is set; without one it costs nothing.

    A user's own model need not be one; then it gives no scores.
    """

    tap: Tap | None = None

    def tap_of(self, block: int) -> BlockTap | None:
        """Return the tap of a block, if there is any."""
        return partial(self.tap, block) if self.tap is not None else None
