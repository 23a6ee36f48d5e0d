"""Devices that die before they report: how large a plan they may still get.

A memory limit kills a process without a message. The log shows a plan without an answer, and then
the device back as another incarnation. One loss may be a power cut. Two losses, with no update in
between, mean that the plans are too large.

Invariants: the state is a function of the decisions and of the incarnations heard, in any order of
the two. A restarted planner may know decisions of a device before its Hello. The state grows with
the devices, not with the number of deaths.
"""

from dataclasses import dataclass, field

from cos2p.model.cost import Calibration
from cos2p_planner.state.ledger import PlanFacts

LOSSES_MIN = 2
"""This many deaths in a row are not chance."""
FATAL_KEPT = 16
LOST_KEPT = LOSSES_MIN + 1
"""Of the newest incarnation one may still be alive."""


@dataclass
class LostPlans:
    """Plans lost with their device, by device; a snapshot holds this object unchanged.

    Attributes:
        lost_peaks: since the device's last update: forecast peak of the lost plan, by incarnation.
        fatal: what is known for good: the incarnation that died last, the largest peak still to
            try.
    """

    lost_peaks: dict[str, dict[int, int]] = field(default_factory=dict)
    fatal: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def lost(self, facts: PlanFacts) -> None:
        """Note that a plan ended because its device was silent, or restarted."""
        peaks = self.lost_peaks.setdefault(facts.worker_id, {})
        peaks[facts.incarnation] = facts.peak_bytes
        for incarnation in sorted(peaks)[:-LOST_KEPT]:
            del peaks[incarnation]

    def answered(self, facts: PlanFacts) -> None:
        """Note that a plan's update was admitted."""
        learnt = self._learnt(facts.worker_id, facts.incarnation)
        if learnt:
            known = self.fatal.setdefault(facts.worker_id, [])
            known[:] = [*known, *learnt][-FATAL_KEPT:]
        self.lost_peaks.pop(facts.worker_id, None)

    def ceiling(self, worker_id: str, incarnation: int, since: int) -> int | None:
        """Return the largest forecast peak to plan for a device; None where no limit is known.

        `incarnation` was heard last. Deaths of incarnations before `since` do not count.
        """
        known = [*self.fatal.get(worker_id, ()), *self._learnt(worker_id, incarnation)]
        return min((peak for died, peak in known if died >= since), default=None)

    def _learnt(self, worker_id: str, incarnation: int) -> list[tuple[int, int]]:
        """Return what plans lost since the last update mean, once a later incarnation is heard."""
        peaks = self.lost_peaks.get(worker_id, {})
        died = sorted(i for i in peaks if i < incarnation)
        if len(died) < LOSSES_MIN:
            return []
        return [(died[-1], int(Calibration.SHRINK * peaks[died[-1]]))]
