"""Appends to Kafka with one idempotent producer and acks=all.

Invariants:
Only the producer that sent a record first sends it again.
The repeat has the same sequence number, so the broker drops it.
A producer that gave up on a record takes no new ones and is closed.
It is not known whether that record is in the log, so its append raises.
The caller must read the log to find out.
Each acknowledgement restarts the timeout, so that a slow link does not count as a dead one.
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
"""Limit of aiokafka itself, set high because the bus checks each topic's limit."""


@dataclass
class Lease:
    """A producer, and how many appends use it now."""

    producer: AIOKafkaProducer
    uses: int = 0
    broken: bool = False


class Writer:
    """The producer of a bus, which is replaced after a failure."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lease: Lease | None = None
        self._opening = asyncio.Lock()

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        """Send all records, wait for all acknowledgements, and return the offsets.

        Raises:
            TimeoutError: there was no acknowledgement for the link's `patience_s`.
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
            # A cancelled call leaves the producer healthy: it still delivers its records.
            lease.broken |= not isinstance(error, asyncio.CancelledError)
            raise
        finally:
            await self._take_back(lease)

    async def close(self) -> None:
        """Close the producer, with limited time for records in flight."""
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
                # The queue was full and did not take the record, so it may be offered again.
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
        # A queued record must not expire while its partition has no leader. Its sequence number
        # would be used up, and the broker would refuse every later record. aiokafka has no
        # setting for it.
        producer._message_accumulator._batch_ttl = float("inf")
        return producer


async def _end(lease: Lease) -> None:
    """Close a producer; do not wait for records of a broken one, which never arrive."""
    task = lease.producer._sender.sender_task
    if lease.broken and task is not None:
        task.cancel()
        lease.producer._message_accumulator.fail_all(ProducerClosed())
    await stop(lease.producer)
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=STOP_S)


def _forget(future: asyncio.Future[Any]) -> None:
    """Retrieve a result that no caller awaits, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()
