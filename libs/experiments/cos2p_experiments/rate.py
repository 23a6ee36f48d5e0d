"""The rate check: how fast the gradient-norm proxy falls with N* E Q, over a grid of N* and E.

The bound that is checked against (ours, a sketch; RA-Fed, doi 10.1145/3580305.3599521, has the
same form) promises (1/Q) sum_q |grad|^2 = O(1 / sqrt(N* E Q)) where the local rate is proportional
to sqrt(N* / (E Q)): a slope of -1/2 of log(mean proxy) on log(N* E Q). Hence every cell of the grid
has its own learning rate, and all have one number of versions Q.

What it can show: that runs fall at least as fast as the rate, or not; and, by the two slopes apart,
whether N* and E each do what they do in the product. What it can't:

- prove the rate: a bound may be loose, and the slope is one line through a dozen points of one
  task; a small model on an easy task falls faster than the bound, which is no contradiction;
- tell optimisation from noise: the proxy |D|^2 / (lr E)^2 holds the updates' noise, which by itself
  falls as 1 / (N* E) and pulls the slope towards -1; `Point.noise` says how much of it is noise;
- say anything of Adam, momentum or clipped gradients: there the proxy is no gradient norm;
- vary N* alone: the grid keeps each device's share of the model, so that the pruning noise stays,
  and varies how many devices there are, so more N* is more updates a version too.

Under skewed labels the terms that N* and E don't lower (label mix, pruning noise) flatten the
slope; that too is consistent with the bound.

Invariants: pure functions; a cell that left some unit without an update in some version has no N*
and no point; seeds are averaged first, so that their number does not narrow an interval whose error
is the line's misfit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from cos2p.history.version import VersionRow
from cos2p_experiments.result import CellResult
from cos2p_experiments.statistics import CONFIDENCE

PROMISED = -0.5


@dataclass(frozen=True)
class Point:
    """One cell, or the geometric mean of its seeds.

    Attributes:
        n_star: harmonic mean over its versions of N* merged: what 1 / N* is the mean of.
        steps: E, mean over versions and updates.
        versions: Q.
        proxy: mean over its versions of the gradient-norm proxy.
        noise: share of |D|^2 that is the updates' variance, in [0, 1]: their dispersion over
            N* - 1, which is right where every unit has N* updates of one weight, else too much;
            None at N* below 2, where one update shows no variance.
    """

    n_star: float
    steps: float
    versions: float
    proxy: float
    noise: float | None = None

    @property
    def product(self) -> float:
        """N* E Q."""
        return self.n_star * self.steps * self.versions


@dataclass(frozen=True)
class Slope:
    """A slope of a least-squares fit in logarithms.

    Attributes:
        count: points of the fit.
        value: the slope.
        half_width: of its 95 % t interval; None where no degree of freedom is left.
    """

    count: int
    value: float
    half_width: float | None

    @property
    def verdict(self) -> Literal["as promised", "faster", "slower"] | None:
        """Where the interval lies to -1/2; None without one. "faster" keeps the promise too."""
        if self.half_width is None:
            return None
        if abs(self.value - PROMISED) <= self.half_width:
            return "as promised"
        return "faster" if self.value < PROMISED else "slower"


@dataclass(frozen=True)
class RateFit:
    """What a grid says.

    Attributes:
        product: slope on log(N* E Q).
        n_star: slope on log N* beside log E; None where one of the two does not vary.
        steps: slope on log E beside log N*; likewise.
    """

    product: Slope
    n_star: Slope | None
    steps: Slope | None


def point_of(cell: CellResult, versions: int | None = None) -> Point | None:
    """A cell up to version Q; None where it has no N*, or told no proxy.

    Args:
        cell: with a window of one version, so that N* is that of each merge.
        versions: Q; None is all.
    """
    rounds = cell.rounds[:versions]
    proxies = [r.gradient_proxy for r in rounds if r.gradient_proxy is not None]
    if not rounds or len(proxies) < len(rounds) or not all(r.coverage_min for r in rounds):
        return None
    proxy = float(np.mean(proxies))
    if proxy <= 0:
        return None
    return Point(
        n_star=len(rounds) / sum(1 / r.coverage_min for r in rounds),
        steps=float(np.mean([r.steps_mean for r in rounds])),
        versions=len(rounds),
        proxy=proxy,
        noise=_noise(rounds),
    )


def mean_point(points: Sequence[Point]) -> Point:
    """The geometric mean of seeds, field by field: the mean in logarithms (noise: plain mean)."""
    logs = np.log([[p.n_star, p.steps, p.versions, p.proxy] for p in points])
    n_star, steps, versions, proxy = (float(v) for v in np.exp(logs.mean(axis=0)))
    noises = [p.noise for p in points if p.noise is not None]
    return Point(n_star, steps, versions, proxy, float(np.mean(noises)) if noises else None)


def fit_rate(points: Sequence[Point]) -> RateFit | None:
    """Fit a grid's points, one per pair of N* and E; None under two different products."""
    proxy = np.log([p.proxy for p in points])
    product = _slopes({"product": np.log([p.product for p in points])}, proxy)
    if product is None:
        return None
    apart = _slopes(
        {
            "n_star": np.log([p.n_star for p in points]),
            "steps": np.log([p.steps for p in points]),
        },
        proxy,
    )
    if apart is None:
        return RateFit(product["product"], None, None)
    return RateFit(product["product"], apart["n_star"], apart["steps"])


def _noise(rounds: Sequence[VersionRow]) -> float | None:
    """Sum over versions of dispersion / (N* - 1), over that of |D|^2."""
    told = [
        (r.dispersion / (r.coverage_min - 1), r.delta_square - r.dispersion)
        for r in rounds
        if r.dispersion is not None and r.delta_square is not None and r.coverage_min > 1
    ]
    noise, whole = sum(n for n, _ in told), sum(w for _, w in told)
    return min(1.0, noise / whole) if whole > 0 else None


def _slopes(
    given: Mapping[str, NDArray[np.float64]], values: NDArray[np.float64]
) -> dict[str, Slope] | None:
    """Least squares on several regressors and a constant; None where they don't vary apart."""
    count, width = len(values), len(given) + 1
    design = np.column_stack([np.ones(count), *given.values()])
    if count < width or np.linalg.matrix_rank(design, tol=1e-6) < width:
        return None
    fitted, *_ = np.linalg.lstsq(design, values, rcond=None)
    free = count - width
    halves: Sequence[float | None] = [None] * width
    if free > 0:
        variance = float(np.sum((values - design @ fitted) ** 2)) / free
        errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
        halves = [float(stdtrit(free, (1 + CONFIDENCE) / 2) * e) for e in errors]
    return {
        name: Slope(count, float(fitted[i]), halves[i]) for i, name in enumerate(given, start=1)
    }
