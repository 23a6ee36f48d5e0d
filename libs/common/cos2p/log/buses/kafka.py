"""The bus on Apache Kafka.

The `kafka*` modules here are the only ones that import its client.

Invariants:
Readers keep their own positions: there are no consumer groups and no commits.
A topic is never made by accident.
Before any other request names a topic, a request with auto-creation off asks brokers for it.
Whatever Kafka refuses is raised as one line with host and cause.
A lost connection is retried for `kafka_timeout_s`.
Then the call raises `BusUnreachableError`, and the bus can be used again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from cos2p.errors import BusError, OffsetExpiredError, RecordTooLargeError, StorageError
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses import limits
from cos2p.log.buses.kafka_access import access_from
from cos2p.log.buses.kafka_link import BACKOFF_S, NOT_ALLOWED, Link, stop
from cos2p.log.buses.kafka_reader import FETCH_OPTIONS, Reader, ReaderPool
from cos2p.log.buses.kafka_topics import ENVELOPE_BYTES_MAX, Catalogue
from cos2p.log.buses.kafka_writer import Writer
from cos2p.log.topics import RECORD_BYTES_MAX
from cos2p.settings import BusSettings

T = TypeVar("T")
LOOK_AGAIN_S = 0.5
"""How long one fetch may wait once the log is known to hold the record."""


class KafkaBus:
    """One process's access to the log on Kafka.

    It connects at first use. One instance serves one event loop.
    """

    def __init__(self, bootstrap: str, settings: BusSettings) -> None:
        """See `access_from`; the bus connects later."""
        access = access_from(bootstrap, settings)
        self._address = access.address
        self._link = Link(access, settings.kafka_timeout_s)
        self._catalogue = Catalogue(self._link, settings.replication or -1)
        self._writer = Writer(self._link)
        self._readers = ReaderPool(self._open_consumer)
        self._metadata_consumer: AIOKafkaConsumer | None = None
        self._metadata_lock = asyncio.Lock()
        self._specs: dict[str, TopicSpec] = {}

    async def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See `Bus.create_topics`."""
        await self._catalogue.create(specs)
        self._specs.update({spec.name: spec for spec in specs})

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """See `Bus.append`.

        After a `BusUnreachableError`, all, a prefix or none of the records are in the log. This
        process does not send them again.
        """
        self._check(topic, records)
        self._link.renew()
        await self._catalogue.require(topic, partition)
        try:
            return await self._writer.append(topic, partition, records)
        except kafka.UnknownError as error:
            # aiokafka has no error for the code INVALID_RECORD and raises this one.
            if all(record.key for record in records):
                await self._refuse(error, topic, partition)
            raise BusError(
                f"{self._address}: the broker refuses a record for {topic}, which has no key: "
                "is the topic's cleanup.policy compact? Then each record needs one"
            ) from error
        except (kafka.KafkaError, OSError, TimeoutError) as error:
            await self._refuse(error, topic, partition)

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
        self._link.renew()
        await self._catalogue.require(topic, partition)
        reader = await self._readers.lend(topic, partition, offset)
        healthy = False
        try:
            found = await self._read(reader, offset, bytes_max, wait_s)
            healthy = True
            return found
        finally:
            await (self._readers.take_back(reader) if healthy else self._readers.drop(reader))

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        """See `Bus.end_offsets`."""
        self._link.renew()
        count = await self._catalogue.require(topic, 0)
        return await self._ends(topic, range(count))

    async def close(self) -> None:
        """See `Bus.close`."""
        await self._writer.close()
        await self._readers.close()
        await self._start_afresh()

    def _check(self, topic: str, records: Sequence[NewRecord]) -> None:
        # Where this process does not know a topic's limit, it takes that of a default broker.
        limits.check(self._specs.get(topic, TopicSpec(topic, 1, RECORD_BYTES_MAX)), records)
        for record in records:
            overhead_bytes = len(record.key) + sum(
                len(k) + len(v) for k, v in record.headers.items()
            )
            if overhead_bytes > ENVELOPE_BYTES_MAX // 2:
                raise RecordTooLargeError(
                    f"key and headers of {overhead_bytes} bytes are over the limit of "
                    f"{ENVELOPE_BYTES_MAX // 2}"
                )

    async def _read(
        self, reader: Reader, offset: int, bytes_max: int, wait_s: float
    ) -> list[Record]:
        now = asyncio.get_running_loop().time
        until = now() + wait_s
        give_up = until + self._link.patience_s
        patience_s = wait_s
        while True:
            found = await self._fetch(reader, offset, bytes_max, patience_s)
            if found:
                return found
            topic, partition = reader.place
            ends = (await self._ends(topic, (partition,)))[partition]
            if offset < ends.first:
                raise OffsetExpiredError(
                    f"{topic}[{partition}] starts at {ends.first}, not at {offset}"
                )
            if offset < ends.next:
                if now() >= give_up:
                    raise await self._link.unreachable(None)
                patience_s = LOOK_AGAIN_S
                continue
            if now() >= until:
                return []
            if offset > ends.next:
                # Kafka refuses a fetch beyond the end instead of waiting, so wait here.
                await self._link.rest(min(BACKOFF_S, max(0.0, until - now())))
            patience_s = max(0.0, until - now())

    async def _fetch(
        self, reader: Reader, offset: int, bytes_max: int, wait_s: float
    ) -> list[Record]:
        topic, partition = reader.place
        try:
            return await reader.fetch(offset, bytes_max, wait_s)
        except kafka.OffsetOutOfRangeError:
            reader.pause()
            return []
        except kafka.CorruptRecordException as error:
            raise StorageError(
                f"{self._address}: {topic}[{partition}] holds a damaged record at or after "
                f"{offset}: {error}"
            ) from error
        except kafka.KafkaError as error:
            await self._refuse(error, topic, partition)

    async def _ends(self, topic: str, partitions: Sequence[int]) -> dict[int, Offsets]:
        places = [TopicPartition(topic, partition) for partition in partitions]

        async def query() -> dict[int, Offsets]:
            metadata_consumer = await self._open_metadata_consumer()
            first, after = await asyncio.gather(
                metadata_consumer.beginning_offsets(places), metadata_consumer.end_offsets(places)
            )
            return {at.partition: Offsets(first[at], after[at]) for at in places}

        return await self._patiently(query, topic, partitions[0])

    async def _patiently(self, query: Callable[[], Awaitable[T]], topic: str, partition: int) -> T:
        now = asyncio.get_running_loop().time
        deadline = now() + self._link.patience_s
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await query()
            except (kafka.KafkaError, OSError, TimeoutError) as error:
                retriable = getattr(error, "retriable", True)
                if not retriable or now() + BACKOFF_S > deadline:
                    await self._refuse(error, topic, partition)
            await self._link.rest()

    async def _open_metadata_consumer(self) -> AIOKafkaConsumer:
        """Open the consumer that asks only for offsets: a long poll would delay its answers."""
        async with self._metadata_lock:
            if self._metadata_consumer is None:
                self._metadata_consumer = await self._open_consumer()
            return self._metadata_consumer

    async def _open_consumer(self) -> AIOKafkaConsumer:
        return await self._link.open(
            lambda: AIOKafkaConsumer(**self._link.options, **FETCH_OPTIONS)
        )

    async def _refuse(self, error: BaseException, topic: str, partition: int) -> NoReturn:
        """Raise an error that a person can act on."""
        if isinstance(error, NOT_ALLOWED):
            raise BusError(f"{self._address}: not allowed: no ACL for topic {topic}") from error
        if isinstance(error, (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)):
            raise RecordTooLargeError(
                f"{self._address}: the broker's limit for a record of {topic} is below what was "
                "sent; raise the topic's max.message.bytes"
            ) from error
        unreachable = await self._link.unreachable(error)
        if await self._link.cause() is None:
            # The cluster answers, so check whether the topic still exists.
            self._catalogue.forget(topic)
            await self._catalogue.require(topic, partition)
        await self._start_afresh()
        raise unreachable from error

    async def _start_afresh(self) -> None:
        """Close clients that may know only addresses of former brokers."""
        metadata_consumer, self._metadata_consumer = self._metadata_consumer, None
        if metadata_consumer is not None:
            await stop(metadata_consumer)
        await self._catalogue.close()
