"""Blobs: payloads larger than a record, as chunks in the log and a small reference to them.

This is the claim-check pattern, with the log itself as the store.

Invariants:
The chunks of a blob are in one partition, in order.
Only other blobs' chunks may lie between them.
A reader holds the records of one bus read at a time.
A missing, truncated, repeated or foreign chunk raises a typed error.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from blake3 import blake3

from cos2p.errors import (
    ChunkForeignError,
    ChunkMissingError,
    DigestError,
    OffsetExpiredError,
)
from cos2p.log.bus import Bus, NewRecord, Record
from cos2p.log.messages import BlobRef
from cos2p.log.topics import CHUNK_BYTES_MAX
from cos2p.model.payload import Buffer

BLOB_HEADER = "cos2p-blob"
CHUNK_HEADER = "cos2p-chunk"
READ_BYTES_MAX = 2 << 20
APPEND_BYTES = 4 * CHUNK_BYTES_MAX
"""Bytes given to the bus at once: enough to keep it busy, few enough to bound memory."""


async def write_blob(
    bus: Bus,
    topic: str,
    partition: int,
    blob_id: str,
    parts: Iterable[Buffer],
    *,
    chunk_bytes: int = CHUNK_BYTES_MAX,
) -> BlobRef:
    """Append `parts` as chunks of `chunk_bytes`: see `write_chunks`."""
    return await write_chunks(bus, topic, partition, blob_id, _chunks(parts, chunk_bytes))


async def write_chunks(
    bus: Bus,
    topic: str,
    partition: int,
    blob_id: str,
    chunks: Iterable[Buffer],
    *,
    digest: bytes | None = None,
) -> BlobRef:
    """Append the chunks of one blob and return the reference to it.

    Large chunks are not copied: their bytes must not change before this returns.

    Args:
        bus: bus that holds the topic.
        topic: full name of the topic.
        partition: partition for all chunks.
        blob_id: the blob's id, which its chunks carry.
        chunks: the blob's bytes, in order.
        digest: the digest that the reference has; None takes that of all bytes.

    Raises:
        Cos2pError: whatever the bus's append raises. No record refers to the chunks written by
            then.
    """
    hasher = blake3()
    offsets: list[int] = []
    byte_count = sent_bytes = 0
    group: list[NewRecord] = []
    async with _Turns(bus, topic, partition, offsets) as turns:
        for index, chunk in enumerate(chunks):
            if digest is None:
                hasher.update(chunk)
            byte_count += len(chunk)
            group.append(_record(blob_id, index, chunk))
            if byte_count - sent_bytes >= APPEND_BYTES:
                await turns.append(group)
                group, sent_bytes = [], byte_count
        if group or not byte_count:
            await turns.append(group or [_record(blob_id, 0, b"")])
    return BlobRef(
        topic=topic,
        partition=partition,
        first_offset=offsets[0],
        last_offset=offsets[-1],
        chunk_count=len(offsets),
        byte_count=byte_count,
        digest=digest or hasher.digest(),
        blob_id=blob_id,
    )


def _record(blob_id: str, index: int, chunk: Buffer) -> NewRecord:
    headers = {BLOB_HEADER: blob_id.encode(), CHUNK_HEADER: str(index).encode()}
    return NewRecord(chunk, blob_id.encode(), headers)


class _Turns:
    """Appends one group while the next is hashed; exits when all are acknowledged."""

    def __init__(self, bus: Bus, topic: str, partition: int, offsets: list[int]) -> None:
        self._bus, self._place, self._offsets = bus, (topic, partition), offsets
        self._under_way: asyncio.Task[list[int]] | None = None

    async def append(self, group: list[NewRecord]) -> None:
        """Wait until the previous group is in the log, then start to append this one."""
        await self._settle()
        self._under_way = asyncio.create_task(self._bus.append(*self._place, group))
        await asyncio.sleep(0)  # lets the task start now, not when the next group is ready

    async def __aenter__(self) -> "_Turns":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self._settle()
        elif self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait([self._under_way])

    async def _settle(self) -> None:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            self._offsets += await under_way


async def read_blob(
    bus: Bus, ref: BlobRef, *, verify: bool = True, wait_s: float = 10.0
) -> AsyncGenerator[memoryview, None]:
    """Stream a blob's chunks in order.

    With `verify`, the whole digest is checked at the end (off if units are checked one by one).
    `wait_s` is how long to wait for a chunk that is acknowledged but not readable yet.

    Raises:
        ChunkMissingError: a gap, an expired offset, or fewer bytes than promised.
        ChunkForeignError: a chunk of this blob with a wrong or repeated index, or too many bytes.
        DigestError: the bytes read are not the bytes written.
    """
    hasher = blake3()
    count = byte_count = 0
    whole = range(ref.chunk_count)
    async for record in _read_run(bus, ref, whole, ref.byte_count, wait_s):
        count += 1
        byte_count += len(record.value)
        if byte_count > ref.byte_count:
            raise ChunkForeignError(f"{_name(ref)} has more bytes than its reference declares")
        if verify:
            hasher.update(record.value)
        yield memoryview(record.value)
    if count != ref.chunk_count or byte_count != ref.byte_count:
        raise ChunkMissingError(
            f"{_name(ref)}: {count} of {ref.chunk_count} chunks, "
            f"{byte_count} of {ref.byte_count} bytes found"
        )
    if verify and hasher.digest() != ref.digest:
        raise DigestError(f"{_name(ref)} has another digest than its reference declares")


async def read_chunks(
    bus: Bus, ref: BlobRef, needed: Mapping[int, int], *, wait_s: float = 10.0
) -> AsyncGenerator[tuple[int, memoryview], None]:
    """Stream some chunks of a blob, with their numbers. The blob's digest is not checked.

    Args:
        bus: bus that holds the blob.
        ref: the blob's reference.
        needed: the bytes of each chunk to read, by its number, ascending.
        wait_s: how long to wait for a chunk that is acknowledged but not readable yet.

    Raises:
        ChunkMissingError: a gap, or an expired offset.
        ChunkForeignError: a chunk of this blob with a wrong or repeated index.
    """
    shift = 0
    # Chunks that follow each other are read together: their distance to their place is equal.
    for _, numbered in groupby(enumerate(needed), lambda each: each[1] - each[0]):
        run = [index for _, index in numbered]
        size, index = sum(needed[i] for i in run), run[0]
        async for record in _read_run(bus, ref, run, size, wait_s, shift=shift):
            yield index, memoryview(record.value)
            # Other writers' records up to here: the next run begins at least as far behind.
            shift = record.offset - ref.first_offset - index
            index += 1
        if index <= run[-1]:
            raise ChunkMissingError(f"{_name(ref)}: chunk {index} is missing")


async def _read_run(
    bus: Bus, ref: BlobRef, run: Sequence[int], size: int, wait_s: float, *, shift: int = 0
) -> AsyncGenerator[Record, None]:
    """Stream chunks that follow each other, at least one, of `size` bytes together."""
    expected, byte_count = run[0], 0
    # Only other writers' records can lie in between, so the first chunk is here or further on.
    offset = ref.first_offset + expected + shift
    while offset <= ref.last_offset and expected <= run[-1]:
        try:
            # Read no more than is missing: records behind the run would be read in vain.
            bytes_max = min(READ_BYTES_MAX, max(1, size - byte_count))
            records = await bus.read(
                ref.topic, ref.partition, offset, bytes_max=bytes_max, wait_s=wait_s
            )
        except OffsetExpiredError as error:
            raise ChunkMissingError(f"{_name(ref)} has left the log: {error}") from error
        await asyncio.sleep(0)  # lets a bus that fetches ahead start before the hashing
        if not records:
            raise ChunkMissingError(f"{_name(ref)}: nothing at offset {offset} after {wait_s:g} s")
        for record in records:
            offset = record.offset + 1
            if record.offset > ref.last_offset or expected > run[-1]:
                break
            if record.headers.get(BLOB_HEADER) != ref.blob_id.encode():
                continue
            text = bytes(record.headers.get(CHUNK_HEADER, b""))
            index = int(text) if text.isdigit() and len(text) < 20 else -1
            if expected == run[0] and 0 <= index < expected:
                continue  # it lies before a run that was sought too early, among others' records
            if index > expected:
                raise ChunkMissingError(f"{_name(ref)}: chunk {expected} is missing")
            if text != str(expected).encode():
                raise ChunkForeignError(
                    f"{_name(ref)}: chunk {text[:20]!r} where {expected} was due"
                )
            expected += 1
            byte_count += len(record.value)
            yield record


def _name(ref: BlobRef) -> str:
    return f"blob {ref.blob_id!r} in {ref.topic}[{ref.partition}]@{ref.first_offset}"


def _chunks(parts: Iterable[Buffer], chunk_bytes: int) -> Iterator[Buffer]:
    """Regroup buffers into chunks of `chunk_bytes`; copies only if a chunk spans buffers."""
    pending = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view):
            if not pending and len(view) >= chunk_bytes:
                yield view[:chunk_bytes]
                view = view[chunk_bytes:]
                continue
            take = min(chunk_bytes - len(pending), len(view))
            pending += view[:take]
            view = view[take:]
            if len(pending) == chunk_bytes:
                yield bytes(pending)
                pending = bytearray()
    if pending:
        yield bytes(pending)
