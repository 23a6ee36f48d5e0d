"""At which of its beats a worker sends a Hello instead of a heartbeat.

A planner may refuse a Hello, for instance because it didn't know the worker's key yet. It does not
report the refusal. Retention also removes old Hellos. So Hellos are repeated. Each gap is twice the
one before, so that an idle day adds few of them to the log. A plan shows that the planner knows the
worker. From then on the gaps start again from the first.

Invariant: the next Hello comes no later than HELLO_MAX_S after the last, or 15 beats if they last
longer.
"""

HELLO_BEATS = 15
"""Beats from a start or a plan to the next Hello."""
HELLO_MAX_S = 300.0


class Hellos:
    """Counts a worker's beats, which are `heartbeat_s` seconds apart."""

    def __init__(self, heartbeat_s: float) -> None:
        self._gap_max = max(HELLO_BEATS, int(HELLO_MAX_S / heartbeat_s))
        self._beats_left, self._gap = 0, HELLO_BEATS

    def due(self) -> bool:
        """Return whether the next beat is a Hello, and count it."""
        if self._beats_left:
            self._beats_left -= 1
            return False
        self._beats_left = self._gap - 1
        self._gap = min(2 * self._gap, self._gap_max)
        return True

    def known(self) -> None:
        """Note that a plan has come."""
        self._beats_left, self._gap = HELLO_BEATS, min(2 * HELLO_BEATS, self._gap_max)
