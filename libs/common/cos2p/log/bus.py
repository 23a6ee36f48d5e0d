"""The bus: an ordered log per topic partition, with four verbs.

Invariants that every implementation keeps, checked by `tests/contract/test_bus.py`:
offsets of a partition rise with each appended record and are never reused; an append is
acknowledged when it will survive the crash of any one process (Kafka: acks=all); what is
acknowledged is read by everyone, in the same order, until retention or compaction removes it; an
append that raised has written all of its records, or a prefix of them, or nothing; readers keep
their own positions. Values are opaque bytes.

Of a compacted topic only the newest record of each key has to stay. Offsets then have gaps, which
a read skips; the ends don't go back. So a reader that starts at `first` gets the newest record of
each key at least, in order. Retention takes that record, too, once it is old enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class NewRecord:
    """What is appended."""

    value: Buffer
    key: bytes = b""
    headers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What is read."""

    topic: str
    partition: int
    offset: int
    timestamp_s: float
    key: bytes
    value: bytes | memoryview
    headers: Mapping[str, bytes]


@dataclass(frozen=True)
class TopicSpec:
    """What a topic must be.

    Attributes:
        name: full name, prefix included.
        partitions: how many; an existing topic with another number is an error.
        record_bytes_max: largest value; a larger one is refused before anything is written.
        retention_s: how long records stay; None for ever.
        bulk: True for blob chunks: an implementation may keep their values apart.
        compacted: True where only the newest record of each key has to stay (retention takes that
            one, too). Offsets then have gaps; how soon older ones go is the implementation's.
    """

    name: str
    partitions: int
    record_bytes_max: int
    retention_s: float | None = None
    bulk: bool = False
    compacted: bool = False


@dataclass(frozen=True)
class Offsets:
    """The ends of a partition: `first` is the oldest record kept, `next` the next to be given."""

    first: int
    next: int


class Bus(Protocol):
    """One log for all roles of a run."""

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that are missing, and know the limits of all.

        Raises:
            TopicMismatchError: one exists with another number of partitions.
            BusUnreachableError: no connection; the text names host and cause.
        """
        ...

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Append in order and wait for the acknowledgement; the offset of each record.

        The offsets rise; another writer's records may lie in between.

        Raises:
            TopicMissingError, RecordTooLargeError, BusUnreachableError, StorageError.
            BusError: a record without a key for a compacted topic; nothing was written.
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
        """Records from `offset` on: at least one if there is any, and about `bytes_max` at most.

        At the end of the log it waits up to `wait_s` for a record, then returns an empty list.

        Raises:
            TopicMissingError, BusUnreachableError.
            OffsetExpiredError: `offset` is older than the oldest record kept.
        """
        ...

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """Both ends of each partition.

        Raises:
            TopicMissingError, BusUnreachableError.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and files; appended records are safe already."""
        ...
