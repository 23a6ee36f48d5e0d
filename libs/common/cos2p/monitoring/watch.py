"""What a role tells its surroundings while it works; a role that nobody watches tells nobody.

Invariant: telling changes nothing of what a role does, and never raises.
"""

from cos2p.messages import Message


class Watch:
    """Hears what a role tells; this one forgets it."""

    def blocked(self, cause: str, text: str) -> None:
        """The role can't make progress for this cause, for now.

        Args:
            cause: one word; each cause is blocked and freed on its own.
            text: what is missing, for a person.
        """

    def freed(self, cause: str) -> None:
        """That cause is gone."""

    def saw(self, message: Message, at_s: float) -> None:
        """The role has read or appended a message of its run, appended at `at_s`."""

    def refused(self, topic: str) -> None:
        """The role has refused a record of this topic (its name without prefix)."""
