"""The epoch fence: of two planners, the one that started later is obeyed.

Invariants:
A decision counts only if its epoch is the newest that an EpochStarted before it has opened.
So all readers of the decisions accept the same ones.
"""

from cos2p.log.messages import Decision, EpochStarted


class EpochFence:
    """Separates valid decisions from those of a planner that was replaced.

    `epoch` is the epoch in force where the reading begins; 0 at the log's start.
    """

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def admits(self, decision: Decision) -> bool:
        """Take the next decision of the log and return whether it counts."""
        if isinstance(decision, EpochStarted):
            opened = decision.epoch > self.epoch
            self.epoch = max(self.epoch, decision.epoch)
            return opened
        return decision.epoch == self.epoch > 0
