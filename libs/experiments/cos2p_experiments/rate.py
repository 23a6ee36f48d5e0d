"""The rate check: how fast the gradient-norm proxy falls with N* E Q, over a grid of N* and E.

The bound is a sketch of ours. RA-Fed (doi 10.1145/3580305.3599521) has the same form. It promises
(1/Q) sum_q |grad|^2 = O(1 / sqrt(N* E Q)) where the local rate is proportional to
sqrt(N* / (E Q)). That is a slope of -1/2 of log(mean proxy) on log(N* E Q). Hence every cell of
the grid has its own learning rate, and all cells have one number of versions Q.

The check can show whether runs fall at least as fast as the rate. By the two separate slopes it
can show whether N* and E each act as in the product. It can't:

- prove the rate. A bound may be loose, and the slope is one line through a dozen points of one
  task. A small model on an easy task falls faster than the bound, which is no contradiction.
- separate optimisation from noise. The proxy |D|^2 / (lr E)^2 contains the updates' noise. That
  noise alone falls as 1 / (N* E) and pulls the slope towards -1. `Point.noise` is its share.
- cover Adam, momentum or clipped gradients. With these the proxy is not a gradient norm.
- vary N* alone. The grid keeps each device's share of the model, so the pruning noise stays. It
  varies the number of devices, so a higher N* also means more updates per version.

Under skewed labels, N* and E don't lower the terms of label mix and pruning noise. These terms
flatten the slope, which is consistent with the bound too.

Invariants: all are pure functions. A cell that left a unit without an update in some version has
no N* and no point. Seeds are averaged first, because the interval's error is the misfit of the
line and more seeds must not narrow it.
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
        n_star: N* merged, as its harmonic mean over the versions.
        steps: E, the mean over versions and updates.
        versions: Q.
        proxy: the mean of the gradient-norm proxy over the versions.
        noise: the share of |D|^2 that is the updates' variance, in [0, 1]. It is their dispersion
            over N* - 1. This is exact where every unit has N* updates of one weight, else too
            high. None at N* below 2, where one update shows no variance.
    """

    n_star: float
    steps: float
    versions: float
    proxy: float
    noise: float | None = None

    @property
    def product(self) -> float:
        """The product N* E Q."""
        return self.n_star * self.steps * self.versions


@dataclass(frozen=True)
class Slope:
    """A slope of a least-squares fit in logarithms.

    Attributes:
        count: the number of points of the fit.
        value: the slope.
        half_width: half of its 95 % t interval; None where no degree of freedom is left.
    """

    count: int
    value: float
    half_width: float | None

    @property
    def verdict(self) -> Literal["as promised", "faster", "slower"] | None:
        """How the interval relates to -1/2; None without one. "faster" keeps the promise too."""
        if self.half_width is None:
            return None
        if abs(self.value - PROMISED) <= self.half_width:
            return "as promised"
        return "faster" if self.value < PROMISED else "slower"


def point_of(cell: CellResult) -> Point | None:
    """Return a cell's point; None where it has no N* or no proxy.

    The cell's coverage window is one version, so that N* is that of each merge.
    """
    rounds = cell.rounds
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
    """Return the geometric mean of seeds, field by field. The noise is a plain mean."""
    logs = np.log([[p.n_star, p.steps, p.versions, p.proxy] for p in points])
    n_star, steps, versions, proxy = (float(v) for v in np.exp(logs.mean(axis=0)))
    noises = [p.noise for p in points if p.noise is not None]
    return Point(n_star, steps, versions, proxy, float(np.mean(noises)) if noises else None)


def fit_rate(points: Sequence[Point]) -> dict[str, Slope]:
    """Fit a grid's points, one per pair of N* and E.

    Returns:
        The slope on log(N* E Q), `product`, and those on log N* and log E fitted together, `n_star`
        and `steps`. The latter are left out where N* and E don't vary apart. With fewer than two
        products there is no slope at all.
    """
    product, n_star, steps, proxy = (
        np.log([getattr(p, name) for p in points])
        for name in ("product", "n_star", "steps", "proxy")
    )
    whole = _slopes({"product": product}, proxy)
    return whole and whole | _slopes({"n_star": n_star, "steps": steps}, proxy)


def _noise(rounds: Sequence[VersionRow]) -> float | None:
    """Return the sum over versions of dispersion / (N* - 1), divided by that of |D|^2."""
    scaled = [
        (r.dispersion / (r.coverage_min - 1), r.delta_square - r.dispersion)
        for r in rounds
        if r.dispersion is not None and r.delta_square is not None and r.coverage_min > 1
    ]
    noise, whole = sum(n for n, _ in scaled), sum(w for _, w in scaled)
    return min(1.0, noise / whole) if whole > 0 else None


def _slopes(
    given: Mapping[str, NDArray[np.float64]], values: NDArray[np.float64]
) -> dict[str, Slope]:
    """Fit least squares on regressors and a constant; empty where they don't vary apart."""
    count, width = len(values), len(given) + 1
    design = np.column_stack([np.ones(count), *given.values()])
    if count < width or np.linalg.matrix_rank(design, tol=1e-6) < width:
        return {}
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
