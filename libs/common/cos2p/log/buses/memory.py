"""The bus in memory, for tests and the simulator: a real log with offsets and waiting readers.

Invariants:
It passes the contract suite of the other buses, including size limits and expiry.
A compacted topic holds only the newest record of each key.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Sequence

from cos2p.clock import Clock
from cos2p.errors import OffsetExpiredError, TopicMismatchError, TopicMissingError
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses import limits


class PartitionLog(list[Record]):
    """The records of one partition."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.next = 0
        self.newest: dict[bytes, int] = {}
        """Offset of each key's record, in compacted topics."""
        # One condition per partition, so that an append wakes only its own readers.
        self.arrived = asyncio.Condition()

    def place_of(self, offset: int) -> int:
        """Index of the first record at or after `offset`."""
        if self.newest:
            return bisect_left(self, offset, key=lambda record: record.offset)
        return min(max(0, offset - self.first), len(self))

    def compact(self, key: bytes) -> None:
        """Remove the key's older record: its next one comes now."""
        if (older := self.newest.get(key)) is not None:
            del self[self.place_of(older)]
        self.newest[key] = self.next


class MemoryBus:
    """The log of one process; several services may share one instance."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._specs: dict[str, TopicSpec] = {}
        self._logs: dict[tuple[str, int], PartitionLog] = {}

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
                self._logs.setdefault((spec.name, partition), PartitionLog())

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`."""
        log, spec = self._log(topic, partition), self._specs[topic]
        limits.check(spec, records)
        offsets = list(range(log.next, log.next + len(records)))
        for offset, new in zip(offsets, records, strict=True):
            if spec.compacted:
                log.compact(new.key)
            value, headers, at_s = bytes(new.value), dict(new.headers), self._clock.now()
            log.append(Record(topic, partition, offset, at_s, new.key, value, headers))
            log.next = offset + 1
        async with log.arrived:
            log.arrived.notify_all()
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
        if offset < log.first:
            raise OffsetExpiredError(f"{topic}[{partition}] starts at {log.first}, not at {offset}")
        if wait_s > 0 and offset >= log.next:
            try:
                async with asyncio.timeout(wait_s), log.arrived:
                    await log.arrived.wait_for(lambda: offset < log.next)
            except TimeoutError:
                return []
        found: list[Record] = []
        size = 0
        for record in log[log.place_of(offset) :]:
            size += len(record.value)
            if found and size > bytes_max:
                break
            found.append(record)
        return found

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`."""
        self._log(topic, 0)
        logs = [self._logs[topic, p] for p in range(self._specs[topic].partitions)]
        return {p: Offsets(log.first, log.next) for p, log in enumerate(logs)}

    async def close(self) -> None:
        """See `Bus.close`; the log stays, because other services may use it."""

    def expire(self, topic: str, partition: int, before: int) -> None:
        """Simulate retention: remove the records below offset `before`."""
        log = self._log(topic, partition)
        before = min(before, log.next)
        expired = log.place_of(before)
        for record in log[:expired] if log.newest else ():
            del log.newest[record.key]
        del log[:expired]
        log.first = max(log.first, before)

    def _log(self, topic: str, partition: int) -> PartitionLog:
        try:
            return self._logs[topic, partition]
        except KeyError:
            raise TopicMissingError(
                f"there is no {topic}[{partition}] on this bus: run `cos2p topics create`"
            ) from None
