"""Exits: classifiers after inner blocks, and which of a model's units they belong to.

Invariants: a model without exits returns its logits. A model with exits returns a tuple of logits,
shallow first. The last of them is the (sub)model's prediction.

Where exits are shared, every submodel has them all and the final head. A skipped block passes the
stream on unchanged.

Where exits are not shared, each is in the core of its block, and the final head is in the core of
the last one. A device that lacks a block has no part of its exit. So it can't dilute the exit with
an update of zeros.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor

from cos2p.errors import SettingsError
from cos2p.model.units import STEM
from cos2p.run_config import LocalConfig
from cos2p_worker.layout import Shape, UnitSpec, whole


@dataclass(frozen=True)
class Exits:
    """Where a model has exits.

    Attributes:
        after: blocks after which there is one, ascending; the last block has the final head.
        shared: whether all submodels have them (else they are part of their blocks).
    """

    after: tuple[int, ...] = ()
    shared: bool = True

    def __bool__(self) -> bool:
        return bool(self.after) or not self.shared

    def kept(self, blocks: set[int], last: int) -> tuple[tuple[int, ...], bool]:
        """Return a submodel's inner exits, and whether it has the final head (of block `last`)."""
        if self.shared:
            return self.after, True
        return tuple(b for b in self.after if b in blocks), last in blocks

    def check_blocks(self, blocks: set[int], last: int, *, prefix: bool = False) -> None:
        """Refuse blocks that go on after the deepest head, or (`prefix`) are not the first ones."""
        if self.shared:
            return
        ends = [*self.after, last]
        if max(blocks, default=-1) not in ends or (prefix and blocks != set(range(len(blocks)))):
            first = " and be the first ones" if prefix else ""
            raise SettingsError(
                f"blocks {sorted(blocks)} make no submodel of a model whose exits are part of its "
                f"blocks: they must end with one of {ends}{first}"
            )

    def head(
        self, shapes: Mapping[str, Shape], block: int, last: int, flops: int, kept: int
    ) -> UnitSpec:
        """Return the unit of the exit after a block, or of the final head after the last one."""
        at, name = ("", "head") if block == last else (f"exits.{block}.", f"exit{block}")
        ends = ("norm.weight", "norm.bias", "head.weight", "head.bias")
        slices = whole(shapes, *(at + end for end in ends))
        return UnitSpec(name, "core", STEM if self.shared else block, slices, flops, kept)


NO_EXITS = Exits()
THIRDS = (Fraction(1, 3), Fraction(2, 3))
SCALEFL_DEPTHS = (Fraction(1, 3), Fraction(1, 2), Fraction(3, 4))


def exits_of(local: LocalConfig, block_count: int) -> Exits:
    """Return the exits that a run's local loss requires of a model.

    `exits` has them after a third and two thirds of the depth. `depthfl` has them after every
    block. `scalefl` has them after a third, a half and three quarters of the depth, rounded up (in
    the paper: after blocks 4, 6 and 9 of 12).

    Raises:
        SettingsError: the model has too few blocks for the objective.
    """
    if local.objective in ("final", "fjord"):
        return NO_EXITS
    if local.objective == "depthfl":
        return Exits(tuple(range(block_count - 1)), shared=False)
    if local.objective == "scalefl":
        return Exits(_inner(SCALEFL_DEPTHS, block_count), shared=False)
    after = _inner(THIRDS, block_count)
    if not after:
        raise SettingsError(
            f"local.objective = 'exits' needs a model of 2 blocks or more; this one has "
            f"{block_count}: take objective 'final'"
        )
    return Exits(after)


def _inner(depths: tuple[Fraction, ...], block_count: int) -> tuple[int, ...]:
    """Return the blocks at whose end these shares of the depth are reached, without the last."""
    ends = {math.ceil(depth * block_count) - 1 for depth in depths}
    return tuple(sorted(ends - {block_count - 1}))


def heads_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return a model's outputs as logits of its heads, shallow first."""
    return outputs if isinstance(outputs, tuple) else (outputs,)
