"""What the planner logs about records that it refuses.

Invariants: a record is counted and logged once, however often it is read. The first refusals of a
writer are logged one by one, later ones more and more rarely. So a device that is never understood
can't fill a log.
"""

from cos2p.log.mailbox import BURIED_MAX, Refusal
from cos2p.log.topics import Topic
from cos2p.monitoring.watch import Watch
from cos2p.service.logs import Log


class Refusals:
    """Counts and logs refusals: call it with each refusal of a topic, in the log's order.

    A second reading of the same records may follow.

    Args:
        topic: the topic of the records.
        watch: counts the refusals.
        log: receives a line for operators.
    """

    def __init__(self, topic: Topic, watch: Watch, log: Log) -> None:
        self._topic, self._watch, self._log = topic.name, watch, log
        self._next_offset = 0

    def __call__(self, refusal: Refusal) -> None:
        """Count and log a refusal."""
        if refusal.offset < self._next_offset:
            return
        self._next_offset = refusal.offset + 1
        self._watch.refused(self._topic)
        number = refusal.number
        if number <= BURIED_MAX or number.bit_count() == 1:  # 16, 32, 64, ...
            self._log.warning(
                "record_refused", topic=self._topic, reason=refusal.reason, number=number
            )
