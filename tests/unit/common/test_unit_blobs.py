"""Blobs of units: any part of one is read as it was written, among other writers' records."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from dispatching import Values, with_digests, written
from hypothesis import given
from hypothesis import strategies as st

from cos2p.clock import LoopClock
from cos2p.errors import BlobError, ChunkForeignError, ChunkMissingError, DigestError
from cos2p.log.bus import TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.messages import UnitBlob
from cos2p.log.unit_blobs import SHARED_BYTES, chunks_of, read_digests, read_units
from cos2p.model.unit_wire import pack_units, unpack_units
from cos2p.model.units import STEM, Unit, UnitTable, unit_digest

TOPIC = "t-submodels"
sizes_of_units = st.lists(st.integers(1, 6_000) | st.just(400_000), min_size=1, max_size=12)


def table(sizes: list[int]) -> UnitTable:
    return UnitTable(tuple(Unit(f"u{i}", "core", STEM, n, 1, 1) for i, n in enumerate(sizes)))


def values_of(sizes: list[int]) -> Values:
    return {i: np.arange(n, dtype=np.float32) + i for i, n in enumerate(sizes)}


async def bus() -> MemoryBus:
    made = MemoryBus(LoopClock())
    await made.create_topics([TopicSpec(TOPIC, 1, 1_000_000, bulk=True)])
    return made


async def read(log: MemoryBus, units: UnitTable, blob: UnitBlob, wanted: dict[int, int]) -> Values:
    found = {unit: np.zeros(0, np.float32) for unit in wanted}
    async for _, pieces in read_units(log, units, blob, wanted):
        for piece, values in pieces.items():
            found[piece.unit] = np.append(found[piece.unit], values)
    return found


@given(sizes_of_units, st.data())
def test_any_units_are_read_as_they_were_written_beside_another_writer(
    sizes: list[int], data: st.DataObject
) -> None:
    wanted = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    units, values = table(sizes), values_of(sizes)

    async def go() -> Values:
        log = await bus()
        held = with_digests(units, values)
        blobs = await asyncio.gather(*(written(log, TOPIC, 0, name, held) for name in "ab"))
        return await read(log, units, blobs[1], dict.fromkeys(sorted(wanted), 0))

    found = asyncio.run(go())

    assert wanted == set(found)
    assert all((values[unit] == found[unit]).all() for unit in wanted)


@given(sizes_of_units)
def test_each_value_is_in_one_chunk_and_large_units_share_none(sizes: list[int]) -> None:
    units = table(sizes)

    chunks = chunks_of(units, range(len(sizes)))

    pieces = [piece for chunk in chunks for piece in chunk]
    ends = dict.fromkeys(range(len(sizes)), 0)
    for piece in pieces:
        assert ends[piece.unit] == piece.start < piece.stop
        ends[piece.unit] = piece.stop
    assert dict(enumerate(sizes)) == ends
    assert all(
        len(chunk) == 1 for chunk in chunks for p in chunk if 4 * sizes[p.unit] >= SHARED_BYTES
    )


@given(st.sets(st.integers(0, 300)))
def test_a_set_of_units_is_packed_and_unpacked(units: set[int]) -> None:
    assert tuple(sorted(units)) == unpack_units(pack_units(units))


def test_the_first_chunk_holds_the_digests_of_the_units() -> None:
    async def go() -> None:
        log, values = await bus(), values_of([3, 5])
        blob = await written(log, TOPIC, 0, "b", with_digests(table([3, 5]), values))

        expected = {unit: unit_digest(v) for unit, v in values.items()}
        assert expected == await read_digests(log, blob)

    asyncio.run(go())


def test_digests_of_another_blob_are_refused() -> None:
    async def go() -> None:
        log = await bus()
        blob = await written(log, TOPIC, 0, "b", with_digests(table([3]), values_of([3])))
        other = blob.model_copy(update={"blob": blob.blob.model_copy(update={"digest": bytes(32)})})
        with pytest.raises(DigestError, match="blob 'b' has other units than its reference"):
            await read_digests(log, other)

    asyncio.run(go())


def test_a_blob_that_left_the_log_is_missing() -> None:
    async def go() -> None:
        log, units = await bus(), table([3])
        blob = await written(log, TOPIC, 0, "b", with_digests(units, values_of([3])))
        log.expire(TOPIC, 0, blob.blob.last_offset + 1)
        with pytest.raises(ChunkMissingError, match="has left the log"):
            await read_digests(log, blob)
        with pytest.raises(ChunkMissingError, match="has left the log"):
            await read(log, units, blob, {0: 0})

    asyncio.run(go())


def test_a_blob_with_other_chunks_than_its_units_is_refused() -> None:
    async def go() -> None:
        log, units = await bus(), table([3, 400_000])
        blob = await written(log, TOPIC, 0, "b", with_digests(units, values_of([3, 400_000])))
        fewer = blob.model_copy(update={"units": pack_units([0])})
        with pytest.raises(BlobError, match="has 4 chunks, its units 2"):
            await read(log, units, fewer, {0: 0})

    asyncio.run(go())


def test_a_chunk_with_other_bytes_than_its_units_is_refused() -> None:
    async def go() -> None:
        log, units = await bus(), table([3, 4])
        held = with_digests(units, values_of([3, 4]))
        blob = await written(log, TOPIC, 0, "b", replace(held, table=table([3, 4])))
        with pytest.raises(ChunkForeignError, match="chunk 1 of blob 'b' has 28 bytes"):
            await read(log, table([3, 5]), blob, {0: 0})

    asyncio.run(go())
