"""Appending to Kafka: one idempotent producer, acks=all, and no guess about what was written.

Invariants: a record is sent again only by the producer that sent it first, under the same sequence
number, so the broker drops the repeat; a producer that gave up on a record takes no new ones and
is closed, because the fate of that record is unknown: its append raises, and whoever called must
read the log to learn what is in it. Each acknowledgement renews the patience, so that a slow link
is not taken for a dead one.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, ProducerClosed

from cos2p.log.bus import NewRecord
from cos2p.log.buses.kafka_link import STOP_S, Link, stop

REQUEST_BYTES_MAX = 64 << 20
"""aiokafka's own limit, out of the way: the bus checks each topic's."""


@dataclass
class Lease:
    """A producer and how many appends use it now."""

    producer: AIOKafkaProducer
    uses: int = 0
    broken: bool = False


class Writer:
    """The producer of a bus, and its successor after a failure."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lease: Lease | None = None
        self._opening = asyncio.Lock()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Send all, then wait for all.

        Raises:
            TimeoutError: no acknowledgement for as long as patience lasts.
            KafkaError: as the producer raises it.
        """
        lease = await self._lend()
        sent: list[asyncio.Future[Any]] = []
        try:
            for record in records:
                sent.append(await self._send(lease.producer, topic, partition, record))
            return [await self._acknowledged(future) for future in sent]
        except BaseException as error:
            for future in sent:
                future.add_done_callback(_forget)
            # A cancelled caller leaves a healthy producer, which delivers what it was given.
            lease.broken |= not isinstance(error, asyncio.CancelledError)
            raise
        finally:
            await self._take_back(lease)

    async def close(self) -> None:
        """Deliver what is on its way, within reason, and close."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await _end(lease)

    async def _send(
        self, producer: AIOKafkaProducer, topic: str, partition: int, record: NewRecord
    ) -> asyncio.Future[Any]:
        deadline = asyncio.get_running_loop().time() + self._link.patience_s
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    future: asyncio.Future[Any] = await producer.send(
                        topic,
                        value=record.value,
                        key=record.key or None,
                        partition=partition,
                        headers=list(record.headers.items()),
                    )
                    return future
            except KafkaTimeoutError:
                # No room in the queue yet: the record was not taken, so it may be offered again.
                if asyncio.get_running_loop().time() >= deadline:
                    raise

    async def _acknowledged(self, future: asyncio.Future[Any]) -> int:
        if not future.done():
            await asyncio.wait({future}, timeout=self._link.patience_s)
        if not future.done():
            raise TimeoutError("no acknowledgement")
        offset: int = future.result().offset
        if offset < 0:
            raise TimeoutError("the broker knows the record but no longer its offset")
        return offset

    async def _lend(self) -> Lease:
        async with self._opening:
            if self._lease is not None and self._lease.broken:
                self._lease = None
            if self._lease is None:
                self._lease = Lease(await self._link.open(self._make))
            self._lease.uses += 1
            return self._lease

    async def _take_back(self, lease: Lease) -> None:
        lease.uses -= 1
        if lease.broken and lease.uses == 0:
            if self._lease is lease:
                self._lease = None
            await _end(lease)

    def _make(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._link.options,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            max_request_size=REQUEST_BYTES_MAX,
        )
        # A queued record must not expire while its partition has no leader: its number would be
        # spent, and every later record refused. aiokafka has no setting for it.
        producer._message_accumulator._batch_ttl = float("inf")
        return producer


async def _end(lease: Lease) -> None:
    """Close a producer; a broken one without waiting for records that will never be delivered."""
    task = lease.producer._sender.sender_task
    if lease.broken and task is not None:
        task.cancel()
        lease.producer._message_accumulator.fail_all(ProducerClosed())
    await stop(lease.producer)
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_S)


def _forget(future: asyncio.Future[Any]) -> None:
    """Take note of a result that nobody waits for any more."""
    if not future.cancelled():
        future.exception()
