"""The log that all simulated processes share. It passes each new record to the checkers.

Invariants: every record of `fleet`, `decisions` and `models` is judged once, in its topic's order.
It is judged before the append that wrote it returns. Causes are judged before their effects.
"""

from collections.abc import Sequence

from cos2p.clock import Clock
from cos2p.log import codec
from cos2p.log.bus import NewRecord, Record
from cos2p.log.messages import Message, SnapshotPart
from cos2p.log.snapshots import Snapshot, whole_snapshots
from cos2p.log.topics import DEAD_LETTERS, DECISIONS, FLEET, MODELS, SNAPSHOTS
from cos2p_sim.checkers import Checker, InvariantError
from cos2p_sim.ring import RingLog


class WatchedLog(RingLog):
    """See `cos2p.log.bus.Bus`."""

    def __init__(self, clock: Clock, prefix: str) -> None:
        super().__init__(clock, prefix)
        self.checker = Checker()
        self._checked_topics = {
            topic.full_name(prefix): topic for topic in (FLEET, DECISIONS, MODELS)
        }
        self._checked_counts = dict.fromkeys(self._checked_topics, 0)
        self._reported: list[Message] = []
        """The messages of `fleet`, by offset."""
        self._acknowledged: list[int] = []
        self._parts: list[NewRecord] = []

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Append the records and judge them.

        Raises:
            InvariantError: an appended record breaks a rule.
        """
        offsets = await super().append(topic, partition, records)
        if topic in self._checked_topics:
            self._check_new_records()
        if topic == SNAPSHOTS.full_name(self.prefix):
            self._parts += records
        return offsets

    @property
    def snapshots(self) -> list[Snapshot]:
        """Every snapshot that was written whole, including those that compaction has removed."""
        decoded = (
            codec.decode(Record("", 0, i, 0.0, new.key, bytes(new.value), new.headers))
            for i, new in enumerate(self._parts)
        )
        parts = (part for part in decoded if isinstance(part, SnapshotPart))
        return whole_snapshots(parts, lambda number, reason: None)

    def acknowledge(self, places: Sequence[tuple[str, int, int]]) -> None:
        """Note the records whose appends returned, as (topic, partition, offset)."""
        fleet = FLEET.full_name(self.prefix)
        self._acknowledged += [offset for topic, _, offset in places if topic == fleet]

    def end(self, ends: str) -> None:
        """Judge the end of the run; see `Checker.end`."""
        self.checker.end((self._reported[offset] for offset in self._acknowledged), ends=ends)
        dead = self._log(DEAD_LETTERS.full_name(self.prefix), 0)
        if dead:
            raise InvariantError(f"a record could not be read: {codec.decode(dead[0])}")

    def _check_new_records(self) -> None:
        """Judge the new records: first `fleet`, then `decisions`, then `models`."""
        # The topics are in causal order: a report leads to a decision, a decision to a version.
        for name, topic in self._checked_topics.items():
            log = self._log(name, 0)
            while self._checked_counts[name] < len(log):
                record = log[self._checked_counts[name]]
                self._checked_counts[name] += 1
                message = codec.decode(record)
                if topic is FLEET:
                    self._reported.append(message)
                self.checker.take(topic.name, record.offset, message)
