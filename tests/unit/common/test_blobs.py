"""Blobs: whatever is wrong with the chunks of one is a typed error, never silence."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cos2p.clock import SystemClock
from cos2p.errors import (
    BlobError,
    ChunkForeignError,
    ChunkMissingError,
    DigestError,
    ExitCode,
    RecordTooLargeError,
)
from cos2p.log.blobs import BLOB_HEADER, CHUNK_HEADER, read_blob, write_blob
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.messages import BlobRef

TOPIC = "blobs"
DATA = bytes(range(256)) * 40
CHUNK = 1000


async def fresh_bus() -> MemoryBus:
    bus = MemoryBus(SystemClock())
    await bus.create_topics([TopicSpec(TOPIC, 2, 100_000, bulk=True)])
    return bus


async def whole(bus: MemoryBus, ref: BlobRef, *, verify: bool = True) -> bytes:
    chunks = read_blob(bus, ref, verify=verify, wait_s=0.01)
    return b"".join([bytes(chunk) async for chunk in chunks])


def chunk(index: int | bytes, value: bytes, blob_id: str = "b") -> NewRecord:
    text = index if isinstance(index, bytes) else str(index).encode()
    return NewRecord(value, b"", {BLOB_HEADER: blob_id.encode(), CHUNK_HEADER: text})


async def rewritten(records: Sequence[NewRecord], **changed: object) -> tuple[MemoryBus, BlobRef]:
    """A log that holds `records` where a reference to DATA in eleven chunks says the blob is."""
    bus = await fresh_bus()
    ref = await write_blob(await fresh_bus(), TOPIC, 0, "b", [DATA], chunk_bytes=CHUNK)
    await bus.append(TOPIC, 0, records)
    return bus, ref.model_copy(update=changed)


def chunks(count: int = 11) -> list[NewRecord]:
    return [chunk(i, DATA[i * CHUNK : (i + 1) * CHUNK]) for i in range(count)]


def test_a_reference_tells_where_and_what() -> None:
    async def story() -> None:
        bus = await fresh_bus()
        await bus.append(TOPIC, 1, [NewRecord(b"before")])
        ref = await write_blob(bus, TOPIC, 1, "b", [DATA], chunk_bytes=CHUNK)

        assert (TOPIC, 1, 1, 11, 11, len(DATA), "b") == (
            ref.topic,
            ref.partition,
            ref.first_offset,
            ref.last_offset,
            ref.chunk_count,
            ref.byte_count,
            ref.blob_id,
        )
        assert DATA == await whole(bus, ref)

    asyncio.run(story())


@pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
def test_an_empty_blob_is_a_blob(parts: list[bytes]) -> None:
    async def story() -> None:
        bus = await fresh_bus()
        ref = await write_blob(bus, TOPIC, 0, "b", parts)

        assert (1, 0) == (ref.chunk_count, ref.byte_count)
        assert b"" == await whole(bus, ref)

    asyncio.run(story())


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.binary(max_size=700), max_size=12), chunk_bytes=st.integers(1, 900))
def test_any_parts_come_back_in_full_chunks_and_a_rest(
    parts: list[bytes], chunk_bytes: int
) -> None:
    async def story() -> None:
        bus = await fresh_bus()
        ref = await write_blob(bus, TOPIC, 0, "b", parts, chunk_bytes=chunk_bytes)
        sizes = [len(c) async for c in read_blob(bus, ref)]

        assert b"".join(parts) == await whole(bus, ref)
        assert all(size == chunk_bytes for size in sizes[:-1])
        assert ref.chunk_count == len(sizes) == max(1, -(-sum(map(len, parts)) // chunk_bytes))

    asyncio.run(story())


def test_large_parts_are_not_copied() -> None:
    async def story() -> None:
        seen: list[object] = []

        class Watching(MemoryBus):
            async def append(
                self, topic: str, partition: int, records: Sequence[NewRecord]
            ) -> list[int]:
                for record in records:
                    assert isinstance(record.value, memoryview)
                    seen.append(record.value.obj)
                return await super().append(topic, partition, records)

        bus = Watching(SystemClock())
        await bus.create_topics([TopicSpec(TOPIC, 1, 100_000)])
        parts = [DATA[:3000], DATA[:2000]]
        await write_blob(bus, TOPIC, 0, "b", parts, chunk_bytes=CHUNK)

        assert [id(parts[0])] * 3 + [id(parts[1])] * 2 == [id(part) for part in seen]

    asyncio.run(story())


def test_others_chunks_and_records_in_between_are_passed_over() -> None:
    async def story() -> None:
        mixed: list[NewRecord] = []
        for record in chunks():
            mixed += [record, chunk(0, b"of another blob", "other"), NewRecord(b"no chunk at all")]
        bus, ref = await rewritten(mixed, last_offset=len(mixed) - 1)

        assert DATA == await whole(bus, ref)

    asyncio.run(story())


def test_a_blob_in_the_making_is_waited_for() -> None:
    async def story() -> None:
        bus, ref = await rewritten(chunks(5))

        async def read() -> bytes:
            return b"".join([bytes(c) async for c in read_blob(bus, ref, wait_s=10)])

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.02)
        await bus.append(TOPIC, 0, chunks()[5:])

        assert DATA == await reading

    asyncio.run(story())


def without(index: int) -> list[NewRecord]:
    return [record for i, record in enumerate(chunks()) if i != index]


def flipped() -> list[NewRecord]:
    records = chunks()
    return [*records[:4], chunk(4, bytes(CHUNK)), *records[5:]]


MISSING = {
    "nothing there": ([], {}),
    "the first chunk": (without(0), {}),
    "a chunk in the middle": (without(6), {}),
    "the last chunk": (without(10), {}),
    "all but the first": (chunks(1), {}),
    "the last offset, cut from the reference": (chunks(), {"last_offset": 9}),
    "an empty range": (chunks(), {"first_offset": 5, "last_offset": 4}),
    "bytes": ([*chunks(10), chunk(10, b"short")], {}),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_a_missing_chunk(case: str) -> None:
    async def story() -> None:
        records, changed = MISSING[case]
        bus, ref = await rewritten(records, **changed)
        with pytest.raises(ChunkMissingError, match="blob 'b' in blobs") as caught:
            await whole(bus, ref, verify=False)

        assert ExitCode.DATA == caught.value.exit_code

    asyncio.run(story())


FOREIGN = {
    "a repeated chunk": [*chunks(5), *chunks()[4:]],
    "an older index": [*chunks(5), chunk(2, b"x")],
    "no index": [*chunks(5), chunk(b"", b"x")],
    "an index that is not a number": [*chunks(5), chunk(b"\xff\x00", b"x")],
    "a negative index": [*chunks(5), chunk(b"-1", b"x")],
    "an index of a thousand digits": [*chunks(5), chunk(b"9" * 1000, b"x")],
    "more bytes than promised": [*chunks(10), chunk(10, bytes(50_000))],
    "one byte more than promised": [*chunks(10), chunk(10, DATA[10 * CHUNK :] + b"x")],
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_claims_to_be_a_chunk_and_is_none_is_a_foreign_chunk(case: str) -> None:
    async def story() -> None:
        bus, ref = await rewritten(FOREIGN[case])
        with pytest.raises(ChunkForeignError, match="blob 'b' in blobs"):
            await whole(bus, ref, verify=False)

    asyncio.run(story())


def test_other_bytes_are_a_digest_error_unless_units_are_checked_one_by_one() -> None:
    async def story() -> None:
        bus, ref = await rewritten(flipped())
        with pytest.raises(DigestError, match="blob 'b' in blobs"):
            await whole(bus, ref)

        assert len(DATA) == len(await whole(bus, ref, verify=False))

    asyncio.run(story())


def test_a_wrong_digest_in_the_reference_is_a_digest_error() -> None:
    async def story() -> None:
        bus, ref = await rewritten(chunks(), digest=bytes(32))
        with pytest.raises(DigestError):
            await whole(bus, ref)

    asyncio.run(story())


def test_another_blobs_id_in_the_reference_finds_nothing() -> None:
    async def story() -> None:
        bus, ref = await rewritten(chunks(), blob_id="c")
        with pytest.raises(ChunkMissingError, match="0 of 11 chunks"):
            await whole(bus, ref)

    asyncio.run(story())


def test_an_expired_blob_says_so() -> None:
    async def story() -> None:
        bus, ref = await rewritten(chunks())
        bus.expire(TOPIC, 0, 3)
        with pytest.raises(ChunkMissingError, match=r"has left the log.*starts at 3"):
            await whole(bus, ref)

    asyncio.run(story())


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.integers(0, 10), max_size=14),
    garbage=st.dictionaries(
        st.sampled_from([BLOB_HEADER, CHUNK_HEADER, "x"]), st.binary(max_size=30), max_size=3
    ),
)
def test_any_log_gives_the_blob_or_a_blob_error(
    order: list[int], garbage: dict[str, bytes]
) -> None:
    async def story() -> None:
        records = [chunks()[i] for i in order] + [NewRecord(b"g", b"", garbage)]
        bus, ref = await rewritten(records)
        try:
            assert DATA == await whole(bus, ref)
            assert list(range(11)) == order[:11]
        except BlobError:
            assert list(range(11)) != order[:11]

    asyncio.run(story())


def test_a_chunk_over_the_topics_limit_writes_nothing() -> None:
    async def story() -> None:
        bus = await fresh_bus()
        with pytest.raises(RecordTooLargeError):
            await write_blob(bus, TOPIC, 0, "b", [bytes(300_000)], chunk_bytes=200_000)

        assert 0 == (await bus.end_offsets(TOPIC))[0].next

    asyncio.run(story())
