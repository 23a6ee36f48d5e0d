"""The terms of the bound on the convergence rate, computed from plain arrays.

The monitored bound is a sketch of our own.
RA-Fed's rate (doi 10.1145/3580305.3599521) has the same form.
It has a term in 1 / sqrt(N* E Q).
Other terms grow with pruning noise, staleness and the updates' dispersion.
A last one grows with the distance between the labels that train a unit and those of all devices.

Invariants:
The functions are pure and have no state.
Shapes are (units,), (updates, units) and (updates, classes).
A result that the given data does not determine is None.
"""

import math

import numpy as np
from numpy.typing import NDArray

LOW_SHARE = 0.05

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def low_coverage(counts: Counts) -> int:
    """The 5 % quantile of merged updates per unit: all but 5 % of the units have at least this.

    The counts have shape (prunable units,).
    """
    if not counts.size:
        return 0
    return int(np.sort(counts)[max(0, math.ceil(LOW_SHARE * len(counts)) - 1)])


def gini(counts: Counts) -> float:
    """Gini coefficient of merged updates per unit: sum_ij |x_i - x_j| / (2 n^2 mean(x)), by ranks.

    It is 0 if all units have the same number (or none), and towards 1 if few units have all. The
    counts have shape (units,).
    """
    total = float(counts.sum())
    if total <= 0:
        return 0.0
    ranks = np.arange(1, len(counts) + 1)
    return float(2 * (ranks * np.sort(counts)).sum() / (len(counts) * total)) - (
        1 + 1 / len(counts)
    )


def label_distances(trained: Mask, weights: Floats, labels: Floats, all_labels: Floats) -> Floats:
    """Total variation between each unit's label mix and that of all devices, in [0, 1].

    A unit's mix is the mean of its updates' label shares, with the weights of the merge.

    Args:
        trained: which update trained which unit, shape (updates, units).
        weights: the updates' weights in the merge, shape (updates,).
        labels: samples per label of each update's device, shape (updates, classes), no row empty.
        all_labels: samples per label of all devices, shape (classes,), not all 0.

    Returns:
        Shape (units,); NaN for a unit that none of these updates trained.
    """
    shares = labels / labels.sum(axis=1, keepdims=True)
    masses = trained * weights[:, None]
    totals = masses.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 gives the NaN of a unit that no update trained
        mixes = (masses.T @ shares) / totals[:, None]
    distances: Floats = 0.5 * np.abs(mixes - all_labels / all_labels.sum()).sum(axis=1)
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

    The first is the updates' weighted mean of squared norms, summed over the units merged. The
    result is never below 0. Both are sums of many float32 squares, so rounding can exceed their
    difference.
    """
    return max(0.0, delta_square - mean_square)


def gradient_proxy(mean_square: float, path: float) -> float | None:
    """|D|^2 / (lr E)^2: the squared gradient norm if local steps were plain gradient steps.

    D is the mean delta, `path` the updates' mean of lr * E. The result is None if that is 0.
    """
    return mean_square / path**2 if path > 0 else None
