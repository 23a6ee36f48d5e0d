"""Blobs through the embedded bus against plain files on the same disk, turn by turn."""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rows import Row

from cos2p.clock import SystemClock
from cos2p.log.blobs import APPEND_BYTES, read_blob, write_blob
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.topics import CHUNK_BYTES_MAX

T = TypeVar("T")
BLOB_BYTES = 72 * CHUNK_BYTES_MAX
TURNS = 9
APPENDS = 2000
PINGS = 100
IDLE_S = 2.0
SPECS = [
    TopicSpec("blobs", 1, 1_000_000, 3600.0, bulk=True),
    TopicSpec("plain", 1, 1_000_000, 3600.0, bulk=True),
    TopicSpec("small", 1, 1_000_000),
]
PAYLOAD = memoryview(os.urandom(BLOB_BYTES))
CHUNKS_PER_APPEND = APPEND_BYTES // CHUNK_BYTES_MAX
CHUNKS = [PAYLOAD[i : i + CHUNK_BYTES_MAX] for i in range(0, BLOB_BYTES, CHUNK_BYTES_MAX)]


@dataclass
class Turn:
    """Seconds that one blob took each way."""

    file_write: float
    bus_write: float
    blob_write: float
    file_read: float
    blob_read: float


def rows() -> list[Row]:
    """Rates of writing and reading blobs, and what a small record costs."""
    turns, archive = [], []
    for _ in range(TURNS):
        turns.append(_in_folder("run", _turn))
        archive.append(_in_folder("run.sqlite", _turn))
    return [*_rates(turns, archive), *_in_folder("run", _small)]


def _rates(turns: list[Turn], archive: list[Turn]) -> list[Row]:
    how = f"median of {TURNS} turns of {BLOB_BYTES / 1e6:.0f} MB, page cache, blake3 included"
    write, read = _rate(turns, "blob_write"), _rate(turns, "blob_read")
    apart = statistics.median(t.bus_write / t.blob_write for t in turns)
    return [
        Row("disk: plain file write", _rate(turns, "file_write"), "MB/s", note="no fsync"),
        Row("disk: plain file read", _rate(turns, "file_read"), "MB/s", note="page cache"),
        Row("SQLite: blob write", write, "MB/s", ">= 400", write >= 400, how),
        Row("SQLite: blob read", read, "MB/s", ">= 1000", read >= 1000, how),
        Row(
            "SQLite: blob write / the bus's own append",
            apart,
            "",
            note="what hashing and cutting leave of the rate of append alone",
        ),
        Row(
            "SQLite: blob write / plain file write",
            statistics.median(t.file_write / t.blob_write for t in turns),
            "",
        ),
        Row("archive file: blob write", _rate(archive, "blob_write"), "MB/s"),
        Row("archive file: blob read", _rate(archive, "blob_read"), "MB/s"),
    ]


def _rate(turns: list[Turn], what: str) -> float:
    median_s: float = statistics.median(getattr(turn, what) for turn in turns)
    return BLOB_BYTES / 1e6 / median_s


def _in_folder(name: str, story: Callable[[Path, SqliteBus], Awaitable[T]]) -> T:
    async def whole(folder: Path) -> T:
        bus = SqliteBus(folder / name, SystemClock())
        await bus.create_topics(SPECS)
        try:
            return await story(folder, bus)
        finally:
            await bus.close()

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(whole(Path(folder)))


async def _turn(folder: Path, bus: SqliteBus) -> Turn:
    started_s = time.perf_counter()
    ref = await write_blob(bus, "blobs", 0, "blob", [PAYLOAD])
    blob_write = time.perf_counter() - started_s
    file_write = _timed(lambda: _write_file(folder / "raw"))
    started_s = time.perf_counter()
    for i in range(0, len(CHUNKS), CHUNKS_PER_APPEND):
        group = [NewRecord(chunk) for chunk in CHUNKS[i : i + CHUNKS_PER_APPEND]]
        await bus.append("plain", 0, group)
    bus_write = time.perf_counter() - started_s
    file_read = _timed(lambda: _read_file(folder / "raw"))
    started_s = time.perf_counter()
    async for _ in read_blob(bus, ref):
        pass
    return Turn(file_write, bus_write, blob_write, file_read, time.perf_counter() - started_s)


async def _small(folder: Path, bus: SqliteBus) -> list[Row]:
    appends_s = []
    for _ in range(APPENDS):
        started_s = time.perf_counter()
        await bus.append("small", 0, [NewRecord(b"x" * 200)])
        appends_s.append(time.perf_counter() - started_s)
    # A bus of its own, as another process has: nothing wakes it but what it finds in the file.
    reader = SqliteBus(folder / "run", SystemClock())
    lags_s = []
    for i in range(PINGS):
        waiting = asyncio.create_task(reader.read("small", 0, APPENDS + i, wait_s=10))
        await asyncio.sleep(0.02)
        started_s = time.perf_counter()
        await bus.append("small", 0, [NewRecord(b"x" * 200)])
        await waiting
        lags_s.append(time.perf_counter() - started_s)
    cpu_s = time.process_time()
    await reader.read("small", 0, APPENDS + PINGS, wait_s=IDLE_S)
    cpu_s = time.process_time() - cpu_s
    await reader.close()
    return [
        _quantiles("SQLite: append of a 200 B record, p50", "us", 1e6, appends_s),
        _quantiles("SQLite: append until a waiting reader has it, p50", "ms", 1e3, lags_s),
        Row("SQLite: CPU of one idle waiting reader", 100 * cpu_s / IDLE_S, "%"),
    ]


def _quantiles(what: str, unit: str, factor: float, seconds: list[float]) -> Row:
    p99 = factor * statistics.quantiles(seconds, n=100)[98]
    note = f"{len(seconds)} records; p99 {p99:.3g} {unit}"
    return Row(what, factor * statistics.median(seconds), unit, note=note)


def _timed(call: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def _write_file(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for i in range(0, len(CHUNKS), CHUNKS_PER_APPEND):
            os.writev(file.fileno(), CHUNKS[i : i + CHUNKS_PER_APPEND])


def _read_file(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(CHUNKS_PER_APPEND * CHUNK_BYTES_MAX):
            pass
