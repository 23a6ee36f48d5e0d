"""Reads Kafka's partitions at the caller's positions: one consumer per read in progress.

Fetches are small, because a broker fills a fetch up to its limit, even with half a record.
A blob's chunk is larger than the limit, so it comes alone and whole.
So no bytes are transferred that no caller asked for.
While a caller asks for more bytes than it received, the next chunk is fetched ahead.
When the caller has received all, the consumer is paused.
The next chunk would be another blob's.

Invariants:
A reader is lent to one caller at a time, so that reads of one partition never disturb each other.
It seeks only if the requested offset is not its position.
At most `IDLE_MAX` unused readers stay open.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from cos2p.log.bus import Record
from cos2p.log.buses.kafka_link import stop

IDLE_MAX = 8
FETCH_BYTES = 64 * 1024
"""Limit of one fetch; a broker still sends a larger first record whole (KIP-74)."""
FETCH_OPTIONS: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "max_partition_fetch_bytes": FETCH_BYTES,
}


class Reader:
    """One consumer, assigned to one partition for its whole life."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, partition: int) -> None:
        self.consumer = consumer
        self.place = (topic, partition)
        self.position = -1
        self._at = TopicPartition(topic, partition)
        self._pending: deque[Record] = deque()
        self.paused = False
        consumer.assign([self._at])

    async def fetch(self, offset: int, bytes_max: int, wait_s: float) -> list[Record]:
        """Read the records at `offset`, waiting up to `wait_s`.

        An empty list does not mean that the log has no record there.

        Raises:
            KafkaError: as the consumer raises it.
        """
        if offset != self.position:
            self._pending.clear()
            self.consumer.seek(self._at, offset)
            self.position = offset
        if not self._pending:
            if self.paused:
                self.consumer.resume(self._at)
                self.paused = False
            found = await self.consumer.getmany(self._at, timeout_ms=int(wait_s * 1000))
            for batch in found.values():
                self._pending.extend(_record(raw) for raw in batch)
        return self._take(bytes_max)

    def pause(self) -> None:
        """Fetch nothing until the next call of `fetch`."""
        self.consumer.pause(self._at)
        self.paused = True

    def _take(self, bytes_max: int) -> list[Record]:
        taken: list[Record] = []
        size = 0
        while self._pending:
            size += len(self._pending[0].value)
            if taken and size > bytes_max:
                break
            taken.append(self._pending.popleft())
        if taken:
            self.position = taken[-1].offset + 1
            if size >= bytes_max and len(taken[-1].value) >= FETCH_BYTES:
                self.pause()
        return taken


class ReaderPool:
    """The open readers, and which of them are idle; `connect` opens a consumer."""

    def __init__(self, connect: Callable[[], Awaitable[AIOKafkaConsumer]]) -> None:
        self._connect = connect
        self._idle: list[Reader] = []
        """Idle readers, longest unused first."""
        self._busy: set[Reader] = set()

    async def lend(self, topic: str, partition: int, offset: int) -> Reader:
        """Lend a reader of this partition, preferably one at `offset`.

        A reader at another position is used only while it is paused. Otherwise it may have a long
        poll in flight, which would delay its next fetch by more than a new connection takes.
        """
        fitting = [
            reader
            for reader in self._idle
            if reader.place == (topic, partition) and (reader.paused or reader.position == offset)
        ]
        fitting.sort(key=lambda reader: reader.position == offset)
        if fitting:
            reader = fitting[-1]
            self._idle.remove(reader)
        else:
            reader = Reader(await self._connect(), topic, partition)
        self._busy.add(reader)
        return reader

    async def take_back(self, reader: Reader) -> None:
        """End the loan; the longest unused readers over the limit are closed."""
        self._busy.discard(reader)
        self._idle.append(reader)
        while len(self._idle) > IDLE_MAX:
            await stop(self._idle.pop(0).consumer)

    async def drop(self, reader: Reader) -> None:
        """End the loan of a reader whose consumer can't be used any more."""
        self._busy.discard(reader)
        await stop(reader.consumer)

    async def close(self) -> None:
        """Close all readers, including those that are lent."""
        readers = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for reader in readers:
            await stop(reader.consumer)


def _record(raw: Any) -> Record:
    key, value, headers = raw.key or b"", raw.value or b"", dict(raw.headers)
    at_s = raw.timestamp / 1000
    return Record(raw.topic, raw.partition, raw.offset, at_s, key, value, headers)
