"""How often each unit was there of late: the factors that make one model of what was trained apart.

Devices train submodels: each lacks blocks and parts of blocks, and learns to give with its own what
all would give together. Summed unscaled, the whole model gives too much. The remedy is that of
dropout (Srivastava et al. 2014, weight scaling) and of stochastic depth (Huang et al. 2016, arXiv
1603.09382): at inference each part is scaled by its survival probability. Here it is measured: the
weight of the updates whose submodels held the unit over that of all, averaged over versions.

Invariants: a function of the VersionPublished of a fixed number of versions, so whoever reads them
from `models`, forwards or backwards, from wherever, has the same factors for the same version, in
whatever order its shards came and however often; a frozen unit is there as a trained one is; what
no submodel held counts 0, so it stays silent.
"""

import numpy as np
from numpy.typing import NDArray

from cos2p.log.messages import VersionPublished
from cos2p.model.units import UnitTable

DECAY = 0.9
"""What a version's shares weigh where those of the next weigh 1: the default of
merge.average_decay, whatever a run makes of that."""

WINDOW = 128
"""Versions that count. The one before them would weigh 1e-6 of the newest."""

_Owned = NDArray[np.intp]
"""Units of a shard, ascending."""


class Survival:
    """The versions' shares, and their mean.

    Args:
        table: the model's units.
    """

    def __init__(self, table: UnitTable) -> None:
        self._table = table
        self._shares: dict[int, dict[int, tuple[_Owned, NDArray[np.float32]]]] = {}
        self._owned: dict[tuple[int, int], _Owned] = {}
        self._oldest = 1

    def take(self, message: VersionPublished) -> None:
        """Note what a shard has published, in any order, perhaps again.

        Without shares (version 0) it says nothing.
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
        """Let go of what no version from this one on needs."""
        self._oldest = max(self._oldest, first_version(version))
        for old in [v for v in self._shares if v < self._oldest]:
            del self._shares[old]

    def at(self, version: int) -> NDArray[np.float64]:
        """Each unit's survival probability at a version, shape (units,), in [0, 1].

        The mean of its shares in the last WINDOW versions up to this one of which its shard has
        told, each weighing DECAY times what the next does; 1 where there is none.
        """
        sums, weights = np.zeros(len(self._table)), np.zeros(len(self._table))
        for number in range(first_version(version), version + 1):
            for owned, shares in self._shares.get(number, {}).values():
                sums[owned] = DECAY * sums[owned] + shares
                weights[owned] = DECAY * weights[owned] + 1
        known = weights > 0
        return np.divide(sums, weights, out=np.ones(len(known)), where=known)


def first_version(version: int) -> int:
    """The oldest version whose shares count in those of `version`."""
    return max(1, version - WINDOW + 1)
