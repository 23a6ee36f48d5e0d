"""What the planner tells of records of `fleet` that it refuses.

Invariants: a record is counted and told once, however often it is read; of one writer the first
are told one by one and later ones ever more seldom, so that a device that is never understood
can't fill a log.
"""

from cos2p.logs import Log
from cos2p.mailbox import BURIED_MAX, Refusal
from cos2p.monitoring.watch import Watch
from cos2p.topics import FLEET


class Refusals:
    """Call it with each refusal, in the log's order; a second reading may begin anew.

    Args:
        watch: counts them.
        log: for operators.
    """

    def __init__(self, watch: Watch, log: Log) -> None:
        self._watch, self._log = watch, log
        self._next_offset = 0

    def __call__(self, refusal: Refusal) -> None:
        """Count and tell it."""
        if refusal.offset < self._next_offset:
            return
        self._next_offset = refusal.offset + 1
        self._watch.refused(FLEET.name)
        number = refusal.number
        if number <= BURIED_MAX or number.bit_count() == 1:  # 16, 32, 64, ...
            self._log.warning(
                "record_refused", topic=FLEET.name, reason=refusal.reason, number=number
            )
