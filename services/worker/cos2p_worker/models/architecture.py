"""What every model of ours is to the rest of the worker: a layout, a way to build submodels, taps.

Invariant of taps: in the activation that a tap sees, a unit's channels lie side by side, and the
units present in that block in table order, all of one kind with the same number of channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from torch import Tensor, nn

from cos2p.model.units import Kind
from cos2p_worker.layout import Layout
from cos2p_worker.models.exits import NO_EXITS, Exits


@dataclass(frozen=True)
class Architecture:
    """A model that can be cut.

    Attributes:
        layout: its units.
        build: makes the module that holds exactly the given units (ascending, closed under their
            cores), with the parameters' names of the whole model and the shapes of
            `layout.shapes_of(units)`; freshly initialised from torch's global generator.
        exits: where it has exits; with any, its outputs are a tuple.
        with_exits: makes the same architecture with other exits; None where it can't have any.
        branch_outputs: the parameters that write what a block's branches give to the stream
            (weights and biases): scaling a unit's part of them scales what it gives.
    """

    layout: Layout
    build: Callable[[tuple[int, ...]], nn.Module]
    exits: Exits = NO_EXITS
    with_exits: Callable[[Exits], "Architecture"] | None = None
    branch_outputs: frozenset[str] = frozenset()


CHANNEL_DIM: Mapping[Kind, int] = MappingProxyType({"head": -1, "neurons": -1, "channels": 1})
"""By kind: the dimension of a tapped activation along which its units lie; dimension 0 is always
the batch. So (batch, tokens, units * width) for heads and neurons, (batch, units * width, side,
side) for channels."""


Tap = Callable[[int, Kind, Tensor], Tensor]
"""Sees, and may replace, what a block's units of one kind give out: (block, kind, activation)
to what the block goes on with, `activation` itself or another tensor of its shape. `block` is the
number in the whole model. `activation` is the attention result before the output projection
("head"), the MLP's hidden layer before its second matrix ("neurons"), the inner channels before the
second convolution ("channels"), each after its nonlinearity; without channels where the submodel
has no unit of that kind in that block."""

BlockTap = Callable[[Kind, Tensor], Tensor]
"""A tap of one block: (kind, activation) to what goes on."""


class Tapped(nn.Module):
    """A model that calls `tap` in every block, where one is set; without one it costs nothing.

    A model of a user's own need not be one: it then gives no scores.
    """

    tap: Tap | None = None

    def tap_of(self, block: int) -> BlockTap | None:
        """The tap of a block, if there is any."""
        return partial(self.tap, block) if self.tap is not None else None
