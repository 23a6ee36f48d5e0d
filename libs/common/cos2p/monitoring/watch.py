"""What a role reports to its surroundings while it works; without a watch it goes nowhere.

Invariant: reporting changes nothing of what a role does, and never raises.
"""

from cos2p.history.run import RunHistory


class Watch:
    """Takes what a role reports; this one forgets it."""

    def blocked(self, cause: str, text: str) -> None:
        """The role can't make progress for this cause, for now.

        Args:
            cause: one word; each cause is blocked and freed on its own.
            text: what is missing, for a person.
        """

    def freed(self, cause: str) -> None:
        """That cause is gone."""

    def shows(self, history: RunHistory) -> None:
        """The role keeps this history of its run, and feeds it as it reads and appends."""

    def refused(self, topic: str) -> None:
        """The role has refused a record of this topic (its name without prefix)."""
