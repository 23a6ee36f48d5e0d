"""Reading partitions of Kafka at positions of our own: one consumer per partition being read.

Invariants: a reader is lent to one caller at a time, so that reads of one partition never disturb
each other; it seeks only where the asked offset is not its position; at most `IDLE_MAX` readers
stay open unused. Fetches are small, because a broker fills a fetch up to its limit, with half a
record if need be: a blob's chunk is larger than the limit and so comes alone, whole, and nothing
is moved that nobody asked for. While a caller asks for more bytes than it got, the next chunk is
fetched ahead; when it got all, the consumer is paused: the next chunk is another blob's.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from cos2p.log.bus import Record

IDLE_MAX = 8
FETCH_BYTES = 64 * 1024
"""Limit of one fetch; a larger first record is sent whole nevertheless (KIP-74)."""
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
        """What lies at `offset`, waiting up to `wait_s`; an empty list says nothing of the log.

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
        """Fetch nothing until asked again."""
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
    """Readers that are open, and which of them are idle."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[AIOKafkaConsumer]],
        stop: Callable[[AIOKafkaConsumer], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._stop = stop
        self._idle: list[Reader] = []
        """Longest unused first."""
        self._busy: set[Reader] = set()

    async def lend(self, topic: str, partition: int, offset: int) -> Reader:
        """A reader of this partition, the one that stands at `offset` if there is one.

        A reader elsewhere serves only while paused: else it may have a long poll on the way,
        which holds up the next fetch on its connection for longer than a new one takes to open.
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
        """End of the loan; the longest unused readers over the limit are closed."""
        self._busy.discard(reader)
        self._idle.append(reader)
        while len(self._idle) > IDLE_MAX:
            await self._stop(self._idle.pop(0).consumer)

    async def drop(self, reader: Reader) -> None:
        """End of the loan of a reader whose consumer can't be used any more."""
        self._busy.discard(reader)
        await self._stop(reader.consumer)

    async def close(self) -> None:
        """Close all, the lent ones too."""
        readers = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for reader in readers:
            await self._stop(reader.consumer)


def _record(raw: Any) -> Record:
    return Record(
        raw.topic,
        raw.partition,
        raw.offset,
        raw.timestamp / 1000,
        raw.key or b"",
        raw.value or b"",
        dict(raw.headers),
    )
