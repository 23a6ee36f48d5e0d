"""How often each unit was there of late: the factors that make one model of what was trained apart.

Devices train submodels: each lacks blocks and parts of blocks, and learns to give with its own what
all would give together. Summed unscaled, the whole model gives too much. The remedy is that of
dropout (Srivastava et al. 2014, weight scaling) and of stochastic depth (Huang et al. 2016, arXiv
1603.09382): at inference each part is scaled by its survival probability. Here it is measured: the
weight of the updates whose submodels held the unit over that of all, averaged over versions.

Invariants: a fold of VersionPublished, so whoever reads `models` has the same factors for the same
version, in whatever order its shards came and however often; a frozen unit is there as a trained
one is; what no submodel held counts 0, so it stays silent.
"""

import numpy as np
from numpy.typing import NDArray

from cos2p.messages import VersionPublished
from cos2p.units import UnitTable

DECAY = 0.9
"""What a version's shares weigh where those of the next weigh 1: the default of
merge.average_decay, whatever a run makes of that."""

_Part = tuple[list[int], NDArray[np.float64]]
"""Units of a shard, and their shares in [0, 1]."""


class Survival:
    """The fold.

    Args:
        table: the model's units.
    """

    def __init__(self, table: UnitTable) -> None:
        self._table = table
        self._waiting: dict[int, dict[int, _Part]] = {}
        self._sums = np.zeros(len(table))
        self._weights = np.zeros(len(table))
        self._folded = 0

    def take(self, message: VersionPublished) -> None:
        """Note what a shard has published.

        What is folded already and told again counts once; without shares (version 0) it says
        nothing.
        """
        if message.version <= self._folded:
            return
        owned = list(self._table.owned_by(message.shard, message.shard_count))
        if len(message.unit_shares) == np.dtype("<f4").itemsize * len(owned):
            shares = np.frombuffer(message.unit_shares, "<f4").astype(np.float64)
            part = owned, np.clip(np.nan_to_num(shares), 0.0, 1.0)
            self._waiting.setdefault(message.version, {})[message.shard] = part

    def at(self, version: int) -> NDArray[np.float64]:
        """Each unit's survival probability at a version, shape (units,), in [0, 1].

        The mean of its shares in the versions up to this one of which its shard has told, each
        weighing DECAY times what the next does; 1 where there is none. Versions have to be asked
        for in ascending order: what came before is folded and let go.
        """
        self._folded = max(self._folded, version)
        for number in sorted(v for v in self._waiting if v <= version):
            for owned, shares in self._waiting.pop(number).values():
                self._sums[owned] = DECAY * self._sums[owned] + shares
                self._weights[owned] = DECAY * self._weights[owned] + 1
        known = self._weights > 0
        return np.divide(self._sums, self._weights, out=np.ones(len(known)), where=known)
