"""An unequal split of labelled samples over devices.

For each label, the devices' shares are drawn from a Dirichlet distribution (Hsu et al., arXiv
1909.06335). An infinite concentration gives every device the same share.

Invariants: the shards are disjoint and cover the data. Each has at least the required number of
samples. The same arguments give the same split on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import SettingsError
from cos2p_worker.task import DataPlace

DRAWS_MAX = 1000
ALPHA = 0.3
"""The concentration where the place names none."""


def samples_of(
    labels: NDArray[np.int64], place: DataPlace, index: int, count: int, *, samples_min: int
) -> NDArray[np.int64]:
    """Return the samples of device `index` of `count` under the place; see `dirichlet_split`."""
    alpha = place.alpha or ALPHA
    shards = dirichlet_split(labels, count, alpha=alpha, seed=place.seed, samples_min=samples_min)
    return shards[index]


def dirichlet_split(
    labels: NDArray[np.int64], count: int, *, alpha: float, seed: int, samples_min: int
) -> list[NDArray[np.int64]]:
    """Return the indices of the samples of each of `count` devices, ascending.

    It draws again until every device has `samples_min` samples. Where that does not happen, devices
    that have too few take samples of the largest one.

    Raises:
        SettingsError: there are not enough samples for that many devices.
    """
    if count * samples_min > len(labels):
        raise SettingsError(
            f"{len(labels)} samples can't give each of {count} devices {samples_min}: "
            f"use at most {len(labels) // samples_min} devices"
        )
    rng = np.random.default_rng(seed)
    shards: list[list[int]] = []
    for _ in range(DRAWS_MAX):
        shards = _draw(labels, count, alpha, rng)
        if min(len(s) for s in shards) >= samples_min:
            break
    for shard in shards:
        while len(shard) < samples_min:
            shard.append(max(shards, key=len).pop())
    return [np.sort(np.array(s, np.int64)) for s in shards]


def _draw(
    labels: NDArray[np.int64], count: int, alpha: float, rng: np.random.Generator
) -> list[list[int]]:
    shards: list[list[int]] = [[] for _ in range(count)]
    even = np.full(count, 1 / count)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        shares = even if np.isinf(alpha) else rng.dirichlet(np.full(count, alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(places)).astype(np.int64)
        for shard, part in zip(shards, np.split(places, ends), strict=True):
            shard.extend(part.tolist())
    return shards
