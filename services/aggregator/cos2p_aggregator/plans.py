"""Which plans are open: followed through the log, or recalled where a core starts in its middle.

Invariants: a plan is open from its `PlanIssued` to the one decision that ends it. A core that
starts at a checkpoint has the same open plans, in the same order, as one that read the whole log.
Before it has all of them it obeys nothing.
"""

from cos2p.errors import MessageError
from cos2p.log import messages as m
from cos2p.log.fence import EpochFence
from cos2p_aggregator.published_records import StartPoint


class OpenPlans:
    """Plans issued and not ended, oldest first, each with the offset of its `PlanIssued`."""

    def __init__(self) -> None:
        self._plans: dict[str, tuple[int, m.Plan]] = {}

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Offsets at which the plans were issued, ascending."""
        return tuple(offset for offset, _ in self._plans.values())

    def note(self, offset: int, decision: m.Decision) -> None:
        """Apply the next decision to the open plans."""
        match decision:
            case m.PlanIssued():
                self._plans[decision.plan.plan_id] = offset, decision.plan
            case m.UpdateAdmitted() | m.PlanCancelled():
                self.end(decision.plan_id)
            case m.UpdateRefused() if decision.outcome is not m.Outcome.DUPLICATE:
                self.end(decision.plan_id)

    def end(self, plan_id: str) -> m.Plan | None:
        """Remove a plan and return it; None where it was not open."""
        _, plan = self._plans.pop(plan_id, (0, None))
        return plan


class NamedDecisions:
    """Takes from the log before a start point only what the point names.

    It names the plans that were open at the point, then the decision that made its version. All of
    these decisions were obeyed, so no fence needs to check them. The epoch of the last one was in
    force.
    """

    def __init__(self, start: StartPoint | None, plans: OpenPlans, fence: EpochFence) -> None:
        self._start, self._plans, self._fence = start, plans, fence
        self._missing = set[int]()
        if start is not None:
            self._missing = {*start.open_plans, start.decisions_offset - 1}

    def begin(self, offset: int) -> None:
        """Note that the run starts here: this decision makes version 0."""
        self._missing.discard(offset)

    def takes(self, offset: int, decision: m.Decision) -> bool:
        """Return whether a decision lies before the start point, where only named ones count.

        Raises:
            MessageError: the log is not the one that the point was made from.
        """
        start = self._start
        if start is None or offset >= start.decisions_offset:
            return False
        if offset not in self._missing:
            return True
        self._missing.discard(offset)
        if offset < start.decisions_offset - 1:
            self._plans.note(offset, decision)
        elif isinstance(decision, m.RoundClosed) and decision.version == start.version:
            self._fence.epoch = decision.epoch
        else:
            raise contradiction(offset, f"did not make version {start.version}")
        return True

    def require_all(self) -> None:
        """Continue from the point only with all that it names.

        Raises:
            MessageError: a decision that it names did not come.
        """
        if self._missing:
            raise contradiction(min(self._missing), "is missing, but a checkpoint rests on it")


def contradiction(offset: int, what: str) -> MessageError:
    """Make the error for a log that contradicts itself."""
    return MessageError(f"the decision at offset {offset} {what}: the log is damaged")
