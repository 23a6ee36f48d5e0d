"""The bus in memory, for tests and the simulator: a real log with offsets and waiting readers.

Invariants: it behaves as the others do (one contract suite), the size limit and expiry included; a
compacted topic holds the newest record of each key and nothing else.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence

from cos2p.clock import Clock
from cos2p.errors import OffsetExpiredError, TopicMismatchError, TopicMissingError
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses import limits


class MemoryBus:
    """One process's log. Several services may share one instance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._specs: dict[str, TopicSpec] = {}
        self._logs: dict[tuple[str, int], list[Record]] = {}
        self._first: dict[tuple[str, int], int] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._newest: dict[tuple[str, int], dict[bytes, int]] = {}
        """Of compacted topics: the offset of each key's record."""
        # One per partition: an append wakes its own readers only.
        self._arrived: dict[tuple[str, int], asyncio.Condition] = {}

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        for spec in specs:
            known = self._specs.get(spec.name)
            if known is not None and known.partitions != spec.partitions:
                raise TopicMismatchError(
                    f"topic {spec.name} has {known.partitions} partitions, not {spec.partitions}"
                )
            self._specs[spec.name] = spec
            for partition in range(spec.partitions):
                self._logs.setdefault((spec.name, partition), [])
                self._first.setdefault((spec.name, partition), 0)
                self._next.setdefault((spec.name, partition), 0)
                self._newest.setdefault((spec.name, partition), {})
                self._arrived.setdefault((spec.name, partition), asyncio.Condition())

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        log = self._log(topic, partition)
        limits.check(self._specs[topic], records)
        offsets = []
        for new in records:
            offset = self._next[topic, partition]
            self._next[topic, partition] = offset + 1
            if self._specs[topic].compacted:
                self._forget_older(topic, partition, new.key, offset)
            log.append(
                Record(
                    topic,
                    partition,
                    offset,
                    self._clock.now(),
                    new.key,
                    bytes(new.value),
                    dict(new.headers),
                )
            )
            offsets.append(offset)
        arrived = self._arrived[topic, partition]
        async with arrived:
            arrived.notify_all()
        return offsets

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        """See `Bus.read`."""
        log = self._log(topic, partition)
        first = self._first[topic, partition]
        if offset < first:
            raise OffsetExpiredError(f"{topic}[{partition}] starts at {first}, not at {offset}")
        if wait_s > 0 and offset >= self._next[topic, partition]:
            try:
                arrived = self._arrived[topic, partition]
                async with asyncio.timeout(wait_s), arrived:
                    await arrived.wait_for(lambda: offset < self._next[topic, partition])
            except TimeoutError:
                return []
        found: list[Record] = []
        size = 0
        for record in log[self._index(topic, partition, offset) :]:
            size += len(record.value)
            if found and size > bytes_max:
                break
            found.append(record)
        return found

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`."""
        self._log(topic, 0)
        return {
            p: Offsets(self._first[topic, p], self._next[topic, p])
            for p in range(self._specs[topic].partitions)
        }

    async def close(self) -> None:
        """See `Bus.close`; the log stays for others."""

    def expire(self, topic: str, partition: int, before: int) -> None:
        """Play retention: forget the records below offset `before`."""
        log, first = self._log(topic, partition), self._first[topic, partition]
        before = min(before, self._next[topic, partition])
        expired = self._index(topic, partition, before)
        newest = self._newest[topic, partition]
        for record in log[:expired] if newest else ():
            del newest[record.key]
        del log[:expired]
        self._first[topic, partition] = max(first, before)

    def _forget_older(self, topic: str, partition: int, key: bytes, offset: int) -> None:
        """Compact: `offset` takes the place of the key's record so far."""
        newest = self._newest[topic, partition]
        if (older := newest.get(key)) is not None:
            del self._logs[topic, partition][self._index(topic, partition, older)]
        newest[key] = offset

    def _index(self, topic: str, partition: int, offset: int) -> int:
        """Where in the list the first record at or after `offset` is."""
        log = self._logs[topic, partition]
        if self._newest[topic, partition]:
            return bisect_left(log, offset, key=lambda record: record.offset)
        return min(max(0, offset - self._first[topic, partition]), len(log))

    def _log(self, topic: str, partition: int) -> list[Record]:
        try:
            return self._logs[topic, partition]
        except KeyError:
            raise TopicMissingError(
                f"there is no {topic}[{partition}] on this bus: run `cos2p topics create`"
            ) from None
