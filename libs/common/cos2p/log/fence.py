"""The epoch fence: of two planners, the one that started later is obeyed.

Invariant: whoever reads the decisions in order keeps the same ones: a decision counts if and only
if its epoch is the newest that any EpochStarted before it has opened.
"""

from cos2p.log.messages import Decision, EpochStarted


class EpochFence:
    """Sorts a planner's valid decisions from those of one that was replaced.

    Args:
        epoch: in force where the reading begins; 0 at the log's start.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.fenced_count = 0

    def admits(self, decision: Decision) -> bool:
        """Whether the next decision of the log counts."""
        if isinstance(decision, EpochStarted):
            if decision.epoch > self.epoch:
                self.epoch = decision.epoch
                return True
        elif decision.epoch == self.epoch and self.epoch > 0:
            return True
        self.fenced_count += 1
        return False
