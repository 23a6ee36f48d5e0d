"""Survival probabilities: how often recent submodels held each unit.

Devices train submodels that lack blocks and parts of blocks.
Each submodel learns to give with its own units what all units would give together.
So the sum of all units, unscaled, gives too much.
Dropout (Srivastava et al. 2014, weight scaling) has the same problem.
So has stochastic depth (Huang et al. 2016, arXiv 1603.09382).
Both scale each part by its survival probability at inference.
Here this probability is measured.
It is the weight of the updates whose submodels held the unit, over the weight of all updates.
The share is averaged over versions.

Invariants:
The factors are a function of the VersionPublished of a fixed number of versions.
So all readers of `models` compute the same factors for the same version.
The direction and start of reading do not matter.
Neither do the order and repetition of a version's shards.
A frozen unit counts as held, like a trained one.
A unit that no submodel held has the factor 0, so it contributes nothing.
"""

import numpy as np
from numpy.typing import NDArray

from cos2p.log.messages import VersionPublished
from cos2p.model.units import UnitTable

DECAY = 0.9
"""Weight of a version's shares relative to those of the next version. It equals the default of
merge.average_decay, but a run's setting does not change it."""

WINDOW = 128
"""Number of versions that count. The version before them would weigh 1e-6 of the newest."""

_Owned = NDArray[np.intp]
"""Indices of a shard's units, ascending."""


class Survival:
    """Collects the versions' shares and computes their mean."""

    def __init__(self, table: UnitTable) -> None:
        self._table = table
        self._shares: dict[int, dict[int, tuple[_Owned, NDArray[np.float32]]]] = {}
        self._owned: dict[tuple[int, int], _Owned] = {}
        self._oldest = 1

    def take(self, message: VersionPublished) -> None:
        """Take the shares that a shard has published, in any order and perhaps repeated.

        A message without shares (version 0) is ignored.
        """
        if message.version < self._oldest:
            return
        place = message.shard, message.shard_count
        if place not in self._owned:
            self._owned[place] = np.array(self._table.owned_by(*place), np.intp)
        owned = self._owned[place]
        if len(message.unit_shares) == np.dtype("<f4").itemsize * len(owned):
            shares = np.frombuffer(message.unit_shares, "<f4")
            part = owned, np.clip(np.nan_to_num(shares), 0.0, 1.0).astype(np.float32)
            self._shares.setdefault(message.version, {})[message.shard] = part

    def forget_before(self, version: int) -> None:
        """Drop the shares that no version from this one on needs."""
        self._oldest = max(self._oldest, first_version(version))
        for old in [v for v in self._shares if v < self._oldest]:
            del self._shares[old]

    def at(self, version: int) -> NDArray[np.float64]:
        """Each unit's survival probability at a version, shape (units,), in [0, 1].

        It is the mean of the unit's shares in the last WINDOW versions up to this one. Each version
        weighs DECAY times the next one. Versions that the unit's shard has not published are left
        out. The probability is 1 if there are no shares.
        """
        sums, weights = np.zeros(len(self._table)), np.zeros(len(self._table))
        for number in range(first_version(version), version + 1):
            for owned, shares in self._shares.get(number, {}).values():
                sums[owned] = DECAY * sums[owned] + shares
                weights[owned] = DECAY * weights[owned] + 1
        known = weights > 0
        return np.divide(sums, weights, out=np.ones(len(known)), where=known)


def first_version(version: int) -> int:
    """The oldest version whose shares count for `version`."""
    return max(1, version - WINDOW + 1)
