"""What the planner logs of records that it refuses.

Invariants: a record is counted and told once, however often it is read; of one writer the first
are told one by one and later ones ever more seldom, so that a device that is never understood
can't fill a log.
"""

from cos2p.log.mailbox import BURIED_MAX, Refusal
from cos2p.log.topics import Topic
from cos2p.monitoring.watch import Watch
from cos2p.service.logs import Log


class Refusals:
    """Call it with each refusal of a topic, in the log's order; a second reading may follow.

    Args:
        topic: whose records.
        watch: counts them.
        log: for operators.
    """

    def __init__(self, topic: Topic, watch: Watch, log: Log) -> None:
        self._topic, self._watch, self._log = topic.name, watch, log
        self._next_offset = 0

    def __call__(self, refusal: Refusal) -> None:
        """Count and tell it."""
        if refusal.offset < self._next_offset:
            return
        self._next_offset = refusal.offset + 1
        self._watch.refused(self._topic)
        number = refusal.number
        if number <= BURIED_MAX or number.bit_count() == 1:  # 16, 32, 64, ...
            self._log.warning(
                "record_refused", topic=self._topic, reason=refusal.reason, number=number
            )
