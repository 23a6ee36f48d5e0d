"""Blobs through the Kafka bus against aiokafka alone: same broker, same bytes, turn by turn."""

import asyncio
import os
import statistics
import time
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rows import Row

from cos2p.log.blobs import read_blob, write_blob
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.kafka import KafkaBus
from cos2p.log.messages import BlobRef
from cos2p.settings import BusSettings

RECORD_BYTES = 1 << 20
RECORDS = 96
TURNS = 5
PINGS = 200
RATIO_MIN = 0.8
PAYLOAD = os.urandom(RECORD_BYTES) * RECORDS


def rows(bootstrap: str) -> list[Row]:
    """Rates of writing and reading, and the time from append to a waiting reader."""
    return asyncio.run(_rows(bootstrap))


async def _rows(bootstrap: str) -> list[Row]:
    bus = KafkaBus(bootstrap, BusSettings())
    prefix = f"bench-{uuid.uuid4().hex[:8]}"
    raw, blobs, pings = (f"{prefix}-{name}" for name in ("raw", "blobs", "pings"))
    await bus.create_topics(
        [
            TopicSpec(raw, 1, RECORD_BYTES, 3600, bulk=True),
            TopicSpec(blobs, 1, 1_000_000, 3600, bulk=True),
            TopicSpec(pings, 1, 1_000_000, 3600),
        ]
    )
    writes: list[tuple[float, float]] = []
    reads: list[tuple[float, float]] = []
    try:
        for _ in range(TURNS):
            raw_write_s, first = await _raw_write(bootstrap, raw)
            blob_write_s, ref = await _blob_write(bus, blobs)
            writes.append((raw_write_s, blob_write_s))
            reads.append((await _raw_read(bootstrap, raw, first), await _blob_read(bus, ref)))
        lags_s = await _lags(bus, KafkaBus(bootstrap, BusSettings()), pings)
    finally:
        await bus.close()
    return [
        *_compared("write", writes),
        *_compared("read", reads),
        Row(
            "Kafka: append until a waiting reader has it, p50",
            1000 * statistics.median(lags_s),
            "ms",
            note=f"{PINGS} records of 200 B, 20 ms apart; p99 "
            f"{1000 * statistics.quantiles(lags_s, n=100)[98]:.1f} ms",
        ),
    ]


def _compared(verb: str, turns: list[tuple[float, float]]) -> list[Row]:
    """Rate of aiokafka and of blobs, and the median of their ratio within each turn."""
    megabytes = len(PAYLOAD) / 1e6
    ratio = statistics.median(raw_s / blob_s for raw_s, blob_s in turns)
    raw, blob = (megabytes / statistics.median(column) for column in zip(*turns, strict=True))
    how = f"median of {TURNS} turns of {RECORDS} MiB"
    met = ratio >= RATIO_MIN
    return [
        Row(f"Kafka: aiokafka alone, {verb} of 1 MiB records", raw, "MB/s", note=how),
        Row(f"Kafka: blob {verb}", blob, "MB/s", note=how),
        Row(f"Kafka: blob {verb} / aiokafka alone", ratio, "", f">= {RATIO_MIN}", met, how),
    ]


async def _raw_write(bootstrap: str, topic: str) -> tuple[float, int]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        max_request_size=2 * RECORD_BYTES,
    )
    await producer.start()
    await producer.partitions_for(topic)
    start = time.perf_counter()
    sent = [
        await producer.send(topic, PAYLOAD[at : at + RECORD_BYTES], partition=0)
        for at in range(0, len(PAYLOAD), RECORD_BYTES)
    ]
    offsets = [(await future).offset for future in sent]
    seconds = time.perf_counter() - start
    await producer.stop()
    return seconds, offsets[0]


async def _raw_read(bootstrap: str, topic: str, first: int) -> float:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="none", max_partition_fetch_bytes=4 << 20
    )
    await consumer.start()
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, first)
    found = 0
    start = time.perf_counter()
    while found < len(PAYLOAD):
        batches = await consumer.getmany(place, timeout_ms=5000)
        found += sum(len(record.value) for batch in batches.values() for record in batch)
    seconds = time.perf_counter() - start
    await consumer.stop()
    return seconds


async def _blob_write(bus: KafkaBus, topic: str) -> tuple[float, BlobRef]:
    start = time.perf_counter()
    ref = await write_blob(bus, topic, 0, uuid.uuid4().hex, [PAYLOAD])
    return time.perf_counter() - start, ref


async def _blob_read(bus: KafkaBus, ref: BlobRef) -> float:
    start = time.perf_counter()
    found = 0
    async for part in read_blob(bus, ref):
        found += len(part)
    assert found == len(PAYLOAD)
    return time.perf_counter() - start


async def _lags(bus: KafkaBus, reader: KafkaBus, topic: str) -> list[float]:
    [offset] = await bus.append(topic, 0, [NewRecord(b"warm")])
    await reader.read(topic, 0, offset)
    lags: list[float] = []
    for _ in range(PINGS):
        offset += 1
        waiting = asyncio.create_task(reader.read(topic, 0, offset, wait_s=10))
        await asyncio.sleep(0.02)
        start = time.perf_counter()
        await asyncio.gather(bus.append(topic, 0, [NewRecord(bytes(200))]), waiting)
        lags.append(time.perf_counter() - start)
    await reader.close()
    return lags
