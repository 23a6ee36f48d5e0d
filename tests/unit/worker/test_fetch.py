"""The units of a plan, fetched into the worker's store."""

import asyncio
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dispatching import Values, with_digests, written
from numpy.typing import NDArray

from cos2p.clock import LoopClock
from cos2p.errors import DigestError
from cos2p.log.bus import Record, TopicSpec
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.messages import Plan, UnitBlob
from cos2p.log.unit_blobs import UnitsToWrite
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p_worker.core import Fetch, Part
from cos2p_worker.fetch import Fetched, fetch_units
from cos2p_worker.unit_store import UnitStore

BIG, SMALL = 300_000, 100
TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, SMALL, 1, 1),
        Unit("block0.core", "core", 0, SMALL, 1, 1),
        Unit("block0.head.0", "head", 0, BIG, 1, 1),
        Unit("block0.head.1", "head", 0, SMALL, 1, 1),
    )
)
TOPIC = "t-submodels"
HEAD = 8 * len(TABLE)
"""Bytes of a blob's digests."""
PLAN = Plan(
    plan_id="p1",
    worker_id="w0",
    incarnation=1,
    base_version=0,
    trained=(0, 1, 2, 3),
    local_steps=1,
    batch_size=1,
    learning_rate=0.1,
    seed=0,
    deadline_s=1,
    peak_bytes=1,
)


class CutBus(MemoryBus):
    """A bus that is lost after some records of weights."""

    left = 1_000_000

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        found = await super().read(topic, partition, offset, bytes_max=1, wait_s=wait_s)
        if self.left < len(found):
            raise ConnectionError("cut")
        self.left -= len(found)
        return found


def values(seed: float) -> dict[int, NDArray[np.float32]]:
    return {u: np.full(int(n), seed + u, np.float32) for u, n in enumerate(TABLE.sizes)}


class Site:
    """A bus with one partition of weights, and a worker's store."""

    def __init__(self, folder: Path, store_bytes: int = 1 << 30) -> None:
        self.bus = CutBus(LoopClock())
        self.store = UnitStore(folder, store_bytes)
        self.halt = threading.Event()
        self._blob_count = 0

    async def write(self, held: Values, units: UnitsToWrite | None = None) -> UnitBlob:
        await self.bus.create_topics([TopicSpec(TOPIC, 1, 1_000_000, bulk=True)])
        self._blob_count += 1
        name = f"b{self._blob_count}"
        return await written(self.bus, TOPIC, 0, name, units or with_digests(TABLE, held))

    async def fetch(self, *blobs: UnitBlob) -> Fetched:
        order = Fetch(PLAN, (Part(PLAN.trained, blobs),))
        return await fetch_units(self.bus, TABLE, order, self.store, self.halt)


def test_units_are_fetched_once_and_then_found(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        blob = await site.write(base)
        first = await site.fetch(blob)
        again = await site.fetch(blob)

        size = 4 * TABLE.parameter_count
        assert (size + HEAD, 0) == (first.bytes_read, first.bytes_found)
        assert (HEAD, size) == (again.bytes_read, again.bytes_found)
        assert all((again.values[u] == base[u]).all() for u in base)
        with pytest.raises(ValueError, match="read-only"):
            again.values[0][0] = 9

    asyncio.run(go())


def test_only_the_chunks_of_units_that_changed_are_read(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        old = await site.write(base)
        await site.fetch(old)
        changed = base | {0: base[0] + 1, 3: base[3] + 1}
        new = await site.write({0: changed[0], 3: changed[3]})
        found = await site.fetch(new, old)

        assert 2 * 8 + 4 * 2 * SMALL + HEAD == found.bytes_read
        assert all((found.values[u] == changed[u]).all() for u in changed)

    asyncio.run(go())


def test_a_unit_is_taken_from_the_newest_blob_that_holds_it(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        old = await site.write(base)
        changed = base | {2: base[2] + 1}
        new = await site.write({2: changed[2]})
        found = await site.fetch(new, old)

        assert (found.values[2] == changed[2]).all()

    asyncio.run(go())


def test_a_fetch_that_was_cut_goes_on_at_the_chunk_where_it_stopped(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        blob = await site.write(base)
        site.bus.left = 3
        with pytest.raises(ConnectionError):
            await site.fetch(blob)
        site.bus.left = 100
        found = await site.fetch(blob)

        assert 4 * 2 * SMALL == found.bytes_found
        assert HEAD + 4 * (TABLE.parameter_count - 2 * SMALL) - 900_000 == found.bytes_read
        assert all((found.values[u] == base[u]).all() for u in base)

    asyncio.run(go())


def test_a_fetch_that_was_killed_within_a_value_goes_on_before_it(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        blob = await site.write(base)
        site.bus.left = 3
        with pytest.raises(ConnectionError):
            await site.fetch(blob)
        [part] = tmp_path.glob("*.part")
        os.truncate(part, part.stat().st_size - 3)
        site.bus.left = 100
        found = await site.fetch(blob)

        assert HEAD + 4 * (BIG + SMALL) == found.bytes_read
        assert all((found.values[u] == base[u]).all() for u in base)

    asyncio.run(go())


def test_a_unit_that_is_damaged_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        blob = await site.write(base)
        await site.fetch(blob)
        [*_, file] = [f for f in tmp_path.iterdir() if f.stat().st_size == 4 * BIG]
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
        found = await site.fetch(blob)

        assert HEAD + 4 * BIG == found.bytes_read
        assert (found.values[2] == base[2]).all()

    asyncio.run(go())


def test_a_unit_that_is_damaged_in_the_log_is_fetched_twice_and_named(tmp_path: Path) -> None:
    async def go() -> int:
        site, base = Site(tmp_path), values(1.0)
        held = with_digests(TABLE, base)
        blob = await site.write(base, replace(held, digests={**held.digests, 3: bytes(8)}))
        before = site.bus.left
        with pytest.raises(DigestError, match=r"unit block0.head.1 .* in t-submodels\[0\]@0"):
            await site.fetch(blob)
        return before - site.bus.left

    assert 1 + 4 + 1 == asyncio.run(go())


def test_the_store_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    async def go() -> None:
        size = 4 * TABLE.parameter_count
        site = Site(tmp_path, store_bytes=2 * size)
        found = [values(float(s)) for s in range(3)]
        blobs = [await site.write(v) for v in found]
        for blob in blobs:
            await site.fetch(blob)
        oldest = await site.fetch(blobs[0])

        assert 2 * size >= sum(f.stat().st_size for f in tmp_path.iterdir())
        assert oldest.bytes_found < size

    asyncio.run(go())


def test_a_plan_larger_than_the_store_is_held_all_the_same(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path, store_bytes=1), values(1.0)
        blob = await site.write(base)
        found = await site.fetch(blob)

        assert all((found.values[u] == base[u]).all() for u in base)

    asyncio.run(go())


def test_a_fetch_that_is_halted_reads_no_further(tmp_path: Path) -> None:
    async def go() -> None:
        site, base = Site(tmp_path), values(1.0)
        blob = await site.write(base)
        site.halt.set()
        found = await site.fetch(blob)

        assert (0, {}) == (found.bytes_read, dict(found.values))

    asyncio.run(go())
