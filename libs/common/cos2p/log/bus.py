"""The bus: an ordered log per topic partition, with four operations.

Every implementation keeps these invariants; `tests/contract/test_bus.py` checks them.
Offsets of a partition rise with each appended record and are never reused.
An append is acknowledged when it survives the crash of any one process (Kafka: acks=all).
Acknowledged records are read by all readers in the same order.
They stay until retention or compaction removes them.
An append that raised has written all of its records, a prefix of them, or none.
Readers keep their own positions.
Values are opaque bytes.

A compacted topic must keep only the newest record of each key.
Its offsets then have gaps, which a read skips, but the ends never go back.
So a reader that starts at `first` gets at least the newest record of each key, in order.
Retention removes that record, too, once it is old enough.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cos2p.model.payload import Buffer


@dataclass(frozen=True)
class NewRecord:
    """A record to append."""

    value: Buffer
    key: bytes = b""
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    timestamp_s: float
    key: bytes
    value: bytes | memoryview
    headers: Mapping[str, bytes]


@dataclass(frozen=True)
class TopicSpec:
    """The properties that a topic must have.

    Attributes:
        name: full name of the topic, with the prefix.
        record_bytes_max: limit of a value's bytes; a larger one is refused before any write.
        retention_s: how long records stay, in seconds; None for ever.
        bulk: whether the topic holds blob chunks, whose values may be stored separately.
        compacted: see above; each bus decides when older records are removed.
    """

    name: str
    partitions: int
    record_bytes_max: int
    retention_s: float | None = None
    bulk: bool = False
    compacted: bool = False


@dataclass(frozen=True)
class Offsets:
    """The ends of a partition: the oldest offset kept, and that of the next record appended."""

    first: int
    next: int


class Bus(Protocol):
    """The log that all roles of a run share."""

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that are missing, and note the limits of all.

        Raises:
            TopicMismatchError: a topic exists with a different number of partitions.
            BusUnreachableError: there is no connection; the text names host and cause.
        """
        ...

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Append in order, wait for the acknowledgement and return the records' offsets.

        The offsets rise; other writers' records may lie between them.

        Raises:
            TopicMissingError, RecordTooLargeError: see `cos2p.errors`.
            BusUnreachableError, StorageError: see `cos2p.errors`.
            BusError: a record for a compacted topic has no key; nothing was written.
        """
        ...

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        """Read records from `offset` on: at least one if there is any.

        The values together have at most about `bytes_max`. At the end of the log it waits up to
        `wait_s` for a record, then returns an empty list.

        Raises:
            TopicMissingError, BusUnreachableError: see `cos2p.errors`.
            OffsetExpiredError: `offset` is older than the oldest record kept.
        """
        ...

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """Both ends of each partition, by the partition's number.

        Raises:
            TopicMissingError, BusUnreachableError: see `cos2p.errors`.
        """
        ...

    async def close(self) -> None:
        """Close connections and files; acknowledged records are already safe."""
        ...


async def records_between(
    bus: Bus, topic: str, offset: int, end: int, *, bytes_max: int = 4 << 20
) -> AsyncIterator[Record]:
    """Give the records of partition 0 from `offset` to `end`, or to where the log ends."""
    while offset < end:
        found = await bus.read(topic, 0, offset, bytes_max=bytes_max, wait_s=1.0)
        if not found:
            return
        for record in found:
            offset = record.offset + 1
            if record.offset < end:
                yield record
