"""Receives what a role reports while it works; the default discards it.

Invariant: reporting does not change what a role does, and never raises.
"""

from cos2p.history.run import RunHistory


class Watch:
    """Receives a role's reports; this base class discards them."""

    def blocked(self, cause: str, text: str) -> None:
        """Report that the role can't make progress for this cause, which is one word.

        Each cause is blocked and freed separately. The text says what is missing.
        """

    def unblocked(self, cause: str) -> None:
        """Report that this cause no longer blocks the role."""

    def show_history(self, history: RunHistory) -> None:
        """Report the run's history, which the role updates as it reads and appends."""

    def refused(self, topic: str) -> None:
        """Report that the role refused a record of this topic (its name without prefix)."""
