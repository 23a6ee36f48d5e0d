"""Devices that do not live to report: how large a plan may yet be that they are asked for.

A memory limit kills without a word. What the log shows is a plan without an answer, and then the
device back as another incarnation. Once may be a power cut; twice, with no update in between, means
that the plans are too large.
Invariants: a function of the decisions and of the incarnations heard, whichever are known first: a
restarted planner may know decisions of a device before its Hello. It grows with the devices, not
with their deaths.
"""

from dataclasses import dataclass, field

from cos2p.model.cost import Calibration
from cos2p_planner.state.ledger import PlanFacts

DEATHS_MIN = 2
"""This many in a row are not chance."""
FATAL_KEPT = 16
LOST_KEPT = DEATHS_MIN + 1
"""Of the newest incarnation one may yet live."""


@dataclass
class Deaths:
    """Plans lost with their device, by device; a snapshot holds it as it is.

    Attributes:
        lost_peaks: since the device's last update: forecast peak of the plan lost, by incarnation.
        fatal: what is known for good: the incarnation that died last, the largest peak to try yet.
    """

    lost_peaks: dict[str, dict[int, int]] = field(default_factory=dict)
    fatal: dict[str, list[tuple[int, int]]] = field(default_factory=dict)

    def lost(self, facts: PlanFacts) -> None:
        """A plan ended because its device was silent, or restarted."""
        peaks = self.lost_peaks.setdefault(facts.worker_id, {})
        peaks[facts.incarnation] = facts.peak_bytes
        for incarnation in sorted(peaks)[:-LOST_KEPT]:
            del peaks[incarnation]

    def answered(self, facts: PlanFacts) -> None:
        """A plan's update was admitted."""
        learnt = self._learnt(facts.worker_id, facts.incarnation)
        if learnt:
            known = self.fatal.setdefault(facts.worker_id, [])
            known[:] = [*known, *learnt][-FATAL_KEPT:]
        self.lost_peaks.pop(facts.worker_id, None)

    def ceiling(self, worker_id: str, incarnation: int, since: int) -> int | None:
        """Largest forecast peak to plan for a device; None where nothing speaks against any.

        Args:
            worker_id: the device.
            incarnation: as which it was heard last.
            since: deaths of incarnations before this one do not count.
        """
        known = [*self.fatal.get(worker_id, ()), *self._learnt(worker_id, incarnation)]
        return min((peak for died, peak in known if died >= since), default=None)

    def _learnt(self, worker_id: str, incarnation: int) -> list[tuple[int, int]]:
        """What the plans lost since the last update mean, once a later incarnation is heard."""
        peaks = self.lost_peaks.get(worker_id, {})
        died = sorted(i for i in peaks if i < incarnation)
        if len(died) < DEATHS_MIN:
            return []
        return [(died[-1], int(Calibration.SHRINK * peaks[died[-1]]))]
