"""Devices that do not live to report: how large a plan may yet be that they are asked for.

A memory limit kills without a word. What the log shows is a plan without an answer, and then the
device back as another incarnation. Once may be a power cut; twice, with no update in between, means
that the plans are too large.
Invariant: a function of the decisions and of the incarnations heard, whichever are known first: a
restarted planner has all decisions before it hears the first device.
"""

from collections import defaultdict

from cos2p.cost import Calibration
from cos2p_planner.ledger import PlanFacts

DEATHS_MIN = 2
"""So many in a row are no chance."""


class Deaths:
    """Plans lost with their device, by device."""

    def __init__(self) -> None:
        self._lost: defaultdict[str, dict[int, int]] = defaultdict(dict)
        """Since the device's last update: forecast peak of the plan lost, by incarnation."""
        self._fatal: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """What is known for good: the incarnation that died last, the largest peak to try yet."""

    def lost(self, facts: PlanFacts) -> None:
        """A plan ended because its device was silent, or restarted."""
        self._lost[facts.worker_id][facts.incarnation] = facts.peak_bytes

    def answered(self, facts: PlanFacts) -> None:
        """A plan's update was admitted."""
        self._fatal[facts.worker_id] += self._learnt(facts.worker_id, facts.incarnation)
        self._lost.pop(facts.worker_id, None)

    def ceiling(self, worker_id: str, incarnation: int, since: int) -> int | None:
        """Largest forecast peak to plan for a device; None where nothing speaks against any.

        Args:
            worker_id: the device.
            incarnation: as which it was heard last.
            since: deaths of incarnations before this one do not count.
        """
        known = [*self._fatal[worker_id], *self._learnt(worker_id, incarnation)]
        return min((peak for died, peak in known if died >= since), default=None)

    def _learnt(self, worker_id: str, incarnation: int) -> list[tuple[int, int]]:
        """What the plans lost since the last update mean, once a later incarnation is heard."""
        peaks = self._lost[worker_id]
        died = sorted(i for i in peaks if i < incarnation)
        if len(died) < DEATHS_MIN:
            return []
        return [(died[-1], int(Calibration.SHRINK * peaks[died[-1]]))]
