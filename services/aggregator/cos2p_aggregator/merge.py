"""Merging as arithmetic: flat float32 arrays in, the same bytes out on every machine.

Invariants:
- Everything that reaches the model is elementwise, in float32, in one fixed order of operations. So
  blocks, shards and the processor change no bit of it.
- Sums over elements decide whether a delta is merged, and are published as norms. No published norm
  decides anything.
- Where a sum is too close to its bound for the order of its terms to be safe, it is computed again,
  correctly rounded.
- Arrays are float32: those of a unit have the shape (size,), `scratch` has (BLOCK,). Factors are
  rounded to float32 once.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F32Array = NDArray[np.float32]

BLOCK = 1 << 15
"""Elements handled at once: 128 KiB, so that the product stays in the cache between two passes."""
ROUNDING_BAND = 1e-2
"""Relative error that a float32 sum over a block can't exceed, with a margin."""

IGNORE_FLOAT_ERRORS = np.errstate(over="ignore", invalid="ignore")
"""Ignores overflow in computations: it is detected in the results, where a unit can be named."""


@IGNORE_FLOAT_ERRORS
def square_sum(values: F32Array) -> float:
    """Return the sum of squares, fast and to about six digits; infinite or NaN where an element is.

    The linear algebra library chooses the order of the terms. So this sum must never be the only
    input of a decision about bytes.
    """
    total = 0.0
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        total += float(np.dot(block, block))
    return total


def exact_square_sum(values: F32Array) -> float:
    """Return the sum of squares, correctly rounded per block and over blocks.

    It is the same on every machine. A float32's square is exact in float64, so `math.fsum` rounds
    once per block.
    """
    squares = (
        np.square(values[start : start + BLOCK], dtype=np.float64)
        for start in range(0, len(values), BLOCK)
    )
    return math.fsum(math.fsum(block.tolist()) for block in squares)


def inspected(
    delta: F32Array, norm_max: float
) -> tuple[Literal["not_finite", "norm"] | None, float]:
    """Return why a unit's delta must not be merged, None where it may, and its sum of squares.

    `norm_max` is the largest L2 norm that is allowed.
    """
    total, limit = square_sum(delta), norm_max * norm_max
    if not math.isfinite(total):
        if not bool(np.isfinite(delta).all()):
            return "not_finite", total
        # The float32 sum overflowed, but the elements are finite.
        total = exact_square_sum(delta)
    elif abs(total - limit) <= ROUNDING_BAND * limit:
        # Too close to the limit: the order of the terms could decide.
        total = exact_square_sum(delta)
    return ("norm" if total > limit else None), total


@IGNORE_FLOAT_ERRORS
def add_weighted(
    accumulator: F32Array, delta: F32Array, factor: float, *, first: bool, scratch: F32Array
) -> None:
    """Accumulator += factor * delta, in place; with `first`, its old content is overwritten unread.

    `first` means that nothing was added to this unit since the last version.
    """
    scale = np.float32(factor)
    if first:
        np.multiply(delta, scale, accumulator)
        return
    multiply, add = np.multiply, np.add
    for start in range(0, len(delta), BLOCK):
        place = accumulator[start : start + BLOCK]
        product = scratch[: len(place)]
        multiply(delta[start : start + BLOCK], scale, product)
        add(place, product, place)


@IGNORE_FLOAT_ERRORS
def apply_step(raw: F32Array, accumulator: F32Array, rate: float, *, scratch: F32Array) -> float:
    """Raw += rate * accumulator, in place; return the sum of squares of the step.

    `rate` is the server's learning rate over the sum of weights.
    """
    scale, total = np.float32(rate), 0.0
    for start in range(0, len(raw), BLOCK):
        place = raw[start : start + BLOCK]
        step = scratch[: len(place)]
        np.multiply(accumulator[start : start + BLOCK], scale, step)
        part = float(np.dot(step, step))
        total += part if math.isfinite(part) else exact_square_sum(step)
        np.add(place, step, place)
    return total


def move_average(average: F32Array, raw: F32Array, keep: float, *, scratch: F32Array) -> None:
    """Average += (1 - keep) * (raw - average), in place; `keep` is the decay d."""
    share = np.float32(1.0 - keep)
    for start in range(0, len(raw), BLOCK):
        place = average[start : start + BLOCK]
        move = scratch[: len(place)]
        np.subtract(raw[start : start + BLOCK], place, move)
        np.multiply(move, share, move)
        np.add(place, move, place)


def decay_at(version: int, decay: float) -> float:
    """Return the average's decay d at a version: low at first, so version 0 is soon forgotten."""
    return min(decay, (1.0 + version) / (10.0 + version))
