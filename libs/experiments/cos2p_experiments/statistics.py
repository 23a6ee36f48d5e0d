"""Statistics over several seeds: means, paired differences, Holm's correction, curves.

Invariants: all are pure functions on plain numbers. A figure that the data can't give is None,
never 0 or a guess: one seed has no spread, an accuracy never reached has no time. No cell is
dropped silently: every result holds its number of seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """The count, mean and sample standard deviation of some values (None under two values)."""

    count: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class PairedDifference:
    """A paired difference over the seeds that both sides have.

    Attributes:
        count: the number of pairs.
        mean: the mean of the differences.
        half_width: half of the 95 % t interval; None with one pair.
        p: the two-sided p of Student's paired t test; None with one pair.
        p_corrected: `p` after Holm's correction over a family; None if there is none.
    """

    count: int
    mean: float
    half_width: float | None
    p: float | None
    p_corrected: float | None = None

    @property
    def direction(self) -> str:
        """Ahead or behind where the corrected p is under 0.05, else "not shown"."""
        if self.p_corrected is None or self.p_corrected >= 0.05:
            return "not shown"
        return "ahead" if self.mean > 0 else "behind"


@dataclass(frozen=True)
class Censored:
    """Values of which some are only known to lie above a bound.

    Attributes:
        count: the number of all values.
        reached: the number of known values.
        median: the median, with unknown values counted as larger than all; None if unknown.
    """

    count: int
    reached: int
    median: float | None


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None for no values."""
    return float(np.mean(values)) if len(values) else None


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and sample standard deviation; None for no values."""
    if not len(values):
        return None
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), sd)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> PairedDifference | None:
    """Return `ours` - `theirs` over the seeds that both have; None where they share none.

    With no variance at all, p is 1 for a mean of 0, else 0. These are the limits of the t test.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    given = spread([ours[s] - theirs[s] for s in seeds])
    if given is None:
        return None
    if given.sd is None:
        return PairedDifference(given.count, given.mean, None, None)
    error = given.sd / np.sqrt(given.count)
    free = given.count - 1
    half = float(stdtrit(free, (1 + CONFIDENCE) / 2) * error)
    p = float(2 * stdtr(free, -abs(given.mean) / error)) if error else float(given.mean == 0)
    return PairedDifference(given.count, given.mean, half, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Apply Holm's step-down correction to one family (Holm 1979). None stays None, uncounted.

    The smallest p is multiplied by the family's size m, the next by m - 1, and so on. No p may
    fall below the one before it, or rise over 1.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    floor = 0.0
    for rank, (p, index) in enumerate(known):
        floor = max(floor, min(1.0, (len(known) - rank) * p))
        adjusted[index] = floor
    return adjusted


def corrected(found: Sequence[PairedDifference | None]) -> list[PairedDifference | None]:
    """Correct the p of one family's differences."""
    ps = holm([None if d is None else d.p for d in found])
    return [d and replace(d, p_corrected=p) for d, p in zip(found, ps, strict=True)]


def value_at(xs: Sequence[float], ys: Sequence[float], x: float) -> float | None:
    """Return the newest y whose x is not later than `x`; None before the first.

    The value is not interpolated: at that moment the server held that version and no later one.
    """
    index = int(np.searchsorted(xs, x, side="right")) - 1
    return float(ys[index]) if index >= 0 else None


def first_reach(xs: Sequence[float], ys: Sequence[float], target: float) -> float | None:
    """Return where the curve first reaches `target`, linear between points; None if never.

    A curve that starts at or over the target reaches it at its first point.
    """
    above = np.flatnonzero(np.asarray(ys) >= target)
    if not above.size:
        return None
    i = int(above[0])
    if i == 0:
        return float(xs[0])
    share = (target - ys[i - 1]) / (ys[i] - ys[i - 1])
    return float(xs[i - 1] + share * (xs[i] - xs[i - 1]))


def censored(values: Sequence[float | None]) -> Censored:
    """Return the median of values. None stands for a value larger than all known ones."""
    known = sorted(v for v in values if v is not None)
    low, high = (len(values) - 1) // 2, len(values) // 2
    median = (known[low] + known[high]) / 2 if values and high < len(known) else None
    return Censored(len(values), len(known), median)


def mean_height(xs: Sequence[float], ys: Sequence[float], end: float) -> float | None:
    """Return the area under the curve from 0 to `end`, divided by `end`: the mean over time.

    The curve is a staircase (see `value_at`) and is 0 before its first point. None where no point
    lies before `end`.
    """
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if x < end]
    if not inside or end <= 0:
        return None
    edges = np.array([x for x, _ in inside] + [end])
    return float(np.sum(np.diff(edges) * [y for _, y in inside]) / end)
