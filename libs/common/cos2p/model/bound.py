"""What the rate's bound names, as arithmetic on plain arrays.

The sketch of a bound that we monitor (ours; RA-Fed's rate, doi 10.1145/3580305.3599521, has the
same form) has a term in 1 / sqrt(N* E Q), and terms that grow with pruning noise, staleness, the
updates' dispersion and the distance between the labels that train a unit and everybody's.

Invariants: pure functions, no state; shapes are (units,), (updates, units) and (updates, classes);
None where the given data says nothing, never a guess.
"""

import math

import numpy as np
from numpy.typing import NDArray

LOW_SHARE = 0.05

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def low_coverage(counts: Counts) -> int:
    """The 5 % quantile of merged updates per unit: the least that all but 5 % of the units have.

    Args:
        counts: shape (prunable units,).
    """
    if not counts.size:
        return 0
    return int(np.sort(counts)[max(0, math.ceil(LOW_SHARE * len(counts)) - 1)])


def gini(counts: Counts) -> float:
    """Gini coefficient of merged updates per unit: sum_ij |x_i - x_j| / (2 n^2 mean(x)), by ranks.

    0 where all have as many (or none), towards 1 where few units have all.
    """
    total = float(counts.sum())
    if total <= 0:
        return 0.0
    ranks = np.arange(1, len(counts) + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (len(counts) * total)) - (
        1 + 1 / len(counts)
    )


def label_distances(trained: Mask, weights: Floats, labels: Floats, everyone: Floats) -> Floats:
    """Total variation between the label mix that trained each unit and everybody's, in [0, 1].

    A unit's mix is the mean of its updates' label shares, weighted as the merge weighs them.

    Args:
        trained: which update trained which unit, shape (updates, units).
        weights: of the updates in the merge, shape (updates,).
        labels: samples per label of each update's device, shape (updates, classes), no row empty.
        everyone: samples per label of all devices, shape (classes,), not all 0.

    Returns:
        Shape (units,); NaN for a unit that none of these updates trained.
    """
    shares = labels / labels.sum(axis=1, keepdims=True)
    masses = trained * weights[:, None]
    totals = masses.sum(axis=0)
    with np.errstate(invalid="ignore"):
        mixes = (masses.T @ shares) / totals[:, None]
    distances: Floats = 0.5 * np.abs(mixes - everyone / everyone.sum()).sum(axis=1)
    return distances


def pruning_noise(present: Mask, squares: Floats) -> float | None:
    """Share of the model's square that a submodel lacks: sum_dropped |w_u|^2 / |w|^2, in [0, 1].

    Args:
        present: the units trained or frozen, shape (units,).
        squares: squared L2 norm of each unit's weights in the base version, shape (units,).
    """
    total = float(squares.sum())
    return float(squares[~present].sum()) / total if total > 0 else None


def dispersion(delta_square: float, mean_square: float) -> float:
    """The updates' variance about their mean: mean |delta|^2 - |mean delta|^2, unit by unit.

    Never below 0: both are sums of many float32 squares, and their difference may be less than
    their rounding.

    Args:
        delta_square: weighted mean of the updates' squared norms, summed over the units merged.
        mean_square: squared norm of the weighted mean.
    """
    return max(0.0, delta_square - mean_square)


def gradient_proxy(mean_square: float, path: float) -> float | None:
    """|D|^2 / (lr E)^2: the squared gradient norm, were the local steps plain gradient steps.

    Args:
        mean_square: squared norm of the mean delta D.
        path: lr * E, mean over the updates; None is returned where it is 0.
    """
    return mean_square / path**2 if path > 0 else None
