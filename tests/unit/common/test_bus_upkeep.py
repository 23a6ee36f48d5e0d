"""What keeps the embedded bus small: compaction, retention while it runs, segments that expire."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3
from bus_logs import JumpingClock, run_retention

from cos2p.errors import OffsetExpiredError
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.segments import SegmentFolder
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.buses.sqlite_log import EXPIRED_PER_CALL

HOUR_S = 3600.0
FOR_EVER = TopicSpec("for-ever", 1, 1_000_000, None, bulk=True)
HOURS = TopicSpec("hours", 1, 1_000_000, 4 * HOUR_S, bulk=True)
SMALL = TopicSpec("small", 1, 1_000_000, 4 * HOUR_S)
BEATS = TopicSpec("beats", 1, 1_000_000, 24 * HOUR_S, compacted=True)
STATES = TopicSpec("states", 1, 1_000_000, compacted=True)
CHUNK = NewRecord(b"c" * 100_000)


class Stage:
    """A run's folder, its clock, and buses on it."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock = path, JumpingClock()

    async def bus(self) -> SqliteBus:
        bus = SqliteBus(self.path, self.clock)
        await bus.create_topics([FOR_EVER, HOURS, SMALL, BEATS, STATES])
        return bus

    def pass_hours(self, count: float) -> None:
        self.clock.ahead_s += count * HOUR_S

    def segments(self) -> list[str]:
        return sorted(p.name for p in (self.path / "segments").glob("*"))

    def rows(self, topic: str) -> int:
        """Rows in the file, whatever a reader would see."""
        with closing(sqlite3.connect(self.path / "log.sqlite")) as db:
            return int(
                db.execute("SELECT count(*) FROM log WHERE topic = ?", (topic,)).fetchone()[0]
            )

    def file_bytes(self) -> int:
        return sum(p.stat().st_size for p in self.path.glob("log.sqlite*"))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "run")


def beats(count: int, workers: int, byte_count: int = 200) -> list[NewRecord]:
    return [NewRecord(b"x" * byte_count, b"worker-%d" % (i % workers)) for i in range(count)]


# ---------------------------------------------------------------- compaction


def test_the_file_holds_one_row_of_each_key(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        await bus.append("beats", 0, beats(1000, 16))
        await bus.append("beats", 0, beats(1, 1))

        assert 16 == stage.rows("beats")
        assert {0: Offsets(0, 1001)} == await bus.end_offsets("beats")
        await bus.close()

    asyncio.run(story())


def test_the_file_does_not_grow_with_heartbeats(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        await bus.append("beats", 0, beats(16, 16))
        await bus.close()
        before = stage.file_bytes()
        for beat in beats(4000, 16):
            await bus.append("beats", 0, [beat])
        await bus.close()

        assert stage.file_bytes() < before + 50_000

    asyncio.run(story())


def test_the_file_does_not_grow_with_snapshots(stage: Stage) -> None:
    """Large values free many pages: they are the next to be written."""

    async def story() -> None:
        bus = await stage.bus()
        for i in range(40):
            await bus.append("states", 0, [NewRecord(b"s" * 900_000, b"%d" % (i % 4))])
        await bus.close()

        assert stage.file_bytes() < 6 * 900_000

    asyncio.run(story())


def test_many_writers_of_little_keep_the_write_ahead_log_small(stage: Stage) -> None:
    async def story() -> None:
        buses = [await stage.bus() for _ in range(16)]
        largest = 0
        for i in range(200):
            for bus in buses:
                await bus.append("beats", 0, beats(1, 1))
            if i % 10 == 0:
                largest = max(largest, stage.file_bytes())
        for bus in buses:
            await bus.close()

        assert largest < 16 << 20

    asyncio.run(story())


def test_two_processes_compact_each_others_records(stage: Stage) -> None:
    async def story() -> None:
        first, second = await stage.bus(), await stage.bus()
        for i in range(10):
            await (first, second)[i % 2].append("beats", 0, [NewRecord(b"%d" % i, b"a")])

        assert [(9, b"9")] == [(r.offset, r.value) for r in await first.read("beats", 0, 0)]
        await first.close()
        await second.close()

    asyncio.run(story())


def test_a_blob_in_a_compacted_topic_stays_in_its_row(tmp_path: Path) -> None:
    async def story() -> None:
        bus = SqliteBus(tmp_path / "run", JumpingClock())
        await bus.create_topics([TopicSpec("t", 1, 1_000_000, bulk=True, compacted=True)])
        await bus.append("t", 0, [NewRecord(b"v" * 100_000, b"k")])

        assert not (tmp_path / "run" / "segments").exists()
        await bus.close()

    asyncio.run(story())


# ---------------------------------------------------------------- retention while the run goes on


def test_small_records_expire_without_a_segment_ever_filling(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        await bus.append("small", 0, [NewRecord(b"old")])
        await bus.append("beats", 0, beats(1, 1))
        stage.pass_hours(25)
        await bus.append("for-ever", 0, [NewRecord(b"any")])

        assert {0: Offsets(1, 1)} == await bus.end_offsets("small")
        assert {0: Offsets(1, 1)} == await bus.end_offsets("beats")
        await bus.close()

    asyncio.run(story())


def test_a_day_of_a_small_run_keeps_the_blobs_of_hours_only(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        for _ in range(24 * 4):
            await bus.append("hours", 0, [CHUNK])
            await bus.append("for-ever", 0, [CHUNK])
            stage.pass_hours(0.25)

        kept = sum(p.stat().st_size for p in (stage.path / "segments").glob("*"))
        assert kept < (24 * 4 + 6 * 4) * len(CHUNK.value)
        assert {0: Offsets(0, 96)} == await bus.end_offsets("for-ever")
        assert 96 == sum([1 async for _ in all_of(bus, "for-ever")])
        await bus.close()

    asyncio.run(story())


async def all_of(bus: SqliteBus, topic: str) -> AsyncIterator[Record]:
    ends = (await bus.end_offsets(topic))[0]
    offset = ends.first
    while offset < ends.next:
        for record in await bus.read(topic, 0, offset):
            offset = record.offset + 1
            yield record


def test_each_topic_has_segments_of_its_own(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        for _ in range(3):
            await bus.append("hours", 0, [CHUNK])
            await bus.append("for-ever", 0, [CHUNK])
        assert ["00000001.seg", "00000002.seg"] == stage.segments()

        stage.pass_hours(5)
        await bus.append("for-ever", 0, [CHUNK])
        assert ["00000002.seg"] == stage.segments()
        await bus.close()

    asyncio.run(story())


def test_a_segment_is_left_after_a_quarter_of_its_topics_retention(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        for _ in range(4):
            await bus.append("hours", 0, [CHUNK])
            await bus.append("for-ever", 0, [CHUNK])
            stage.pass_hours(0.51)

        assert 3 == len(stage.segments()), "one for ever, and one of each hour"
        await bus.close()

    asyncio.run(story())


def test_a_clock_that_was_set_back_does_not_stop_retention(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        stage.pass_hours(1000)
        await bus.append("for-ever", 0, [CHUNK])
        stage.pass_hours(-1000)
        await bus.append("hours", 0, [CHUNK])
        stage.pass_hours(5)
        await bus.append("small", 0, [NewRecord(b"any")])

        assert {0: Offsets(1, 1)} == await bus.end_offsets("hours")
        assert ["00000001.seg"] == stage.segments()
        await bus.close()

    asyncio.run(story())


def test_a_bus_that_only_reads_lets_go_of_its_old_segment(stage: Stage) -> None:
    async def story() -> None:
        bus, other = await stage.bus(), await stage.bus()
        await bus.append("hours", 0, [CHUNK])
        stage.pass_hours(5)
        await bus.read("small", 0, 0)
        await other.append("small", 0, [NewRecord(b"any")])

        assert [] == stage.segments()
        await bus.close()
        await other.close()

    asyncio.run(story())


def test_retention_looks_again_only_after_a_while(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        await bus.append("small", 0, [NewRecord(b"old")])
        stage.pass_hours(4 - 0.01)
        await bus.append("beats", 0, beats(1, 1))
        stage.pass_hours(0.015)
        await bus.append("beats", 0, beats(1, 1))
        assert {0: Offsets(0, 1)} == await bus.end_offsets("small")

        stage.pass_hours(0.015)
        await bus.append("beats", 0, beats(1, 1))
        assert {0: Offsets(1, 1)} == await bus.end_offsets("small")
        await bus.close()

    asyncio.run(story())


def test_a_long_backlog_goes_in_pieces(stage: Stage) -> None:
    """No append waits for all of it, and no other process for the lock."""

    async def story() -> None:
        bus = await stage.bus()
        await bus.append("small", 0, [NewRecord(b"old")] * (2 * EXPIRED_PER_CALL + 10))
        stage.pass_hours(5)
        for left in (EXPIRED_PER_CALL + 10, 10, 0):
            await bus.append("for-ever", 0, [NewRecord(b"any")])
            assert left == stage.rows("small")
        await bus.close()

    asyncio.run(story())


def test_nothing_expires_by_itself_in_a_single_file(tmp_path: Path) -> None:
    async def story() -> None:
        clock = JumpingClock()
        bus = SqliteBus(tmp_path / "run.sqlite", clock)
        await bus.create_topics([SMALL, HOURS])
        await bus.append("hours", 0, [CHUNK])
        clock.ahead_s += 10 * HOUR_S
        await bus.append("small", 0, [NewRecord(b"any")])

        assert {0: Offsets(0, 1)} == await bus.end_offsets("hours")
        await bus.close()

    asyncio.run(story())


def test_a_reader_in_the_middle_is_given_an_error_and_never_other_bytes(stage: Stage) -> None:
    async def story() -> None:
        bus, reader = await stage.bus(), await stage.bus()
        await bus.append("hours", 0, [NewRecord(bytes([i]) * 100_000) for i in range(4)])
        first = await reader.read("hours", 0, 0, bytes_max=150_000)
        stage.pass_hours(5)
        await bus.append("hours", 0, [NewRecord(b"new" * 50_000)])
        assert ["00000002.seg"] == stage.segments()

        assert [b"\0" * 100_000] == [bytes(r.value) for r in first]
        with pytest.raises(OffsetExpiredError, match="starts at 4, not at 1"):
            await reader.read("hours", 0, 1)
        assert b"new" * 50_000 == bytes((await reader.read("hours", 0, 4))[0].value)
        await bus.close()
        await reader.close()

    asyncio.run(story())


# ---------------------------------------------------------------- removal, races, kills


def test_a_segment_that_got_a_row_after_the_look_stays(tmp_path: Path) -> None:
    """Its writer may add the row and let go of the file between the look and the lock."""
    folder = SegmentFolder(tmp_path, 1000)
    folder.rotate(HOURS, 1, 0.0)
    folder.seal()

    assert [] == folder.remove([1], lambda: [])
    assert (tmp_path / "00000001.seg").exists()
    assert [1] == folder.remove([1], lambda: [1])
    assert not (tmp_path / "00000001.seg").exists()


def test_a_segment_in_use_stays(tmp_path: Path) -> None:
    folder = SegmentFolder(tmp_path, 1000)
    folder.rotate(HOURS, 1, 0.0)
    folder.current("hours").reserve(10)
    folder.seal()

    assert [] == folder.remove([1], lambda: [1])


def test_what_a_kill_left_between_rows_and_file_goes_later(stage: Stage) -> None:
    async def story() -> None:
        bus = await stage.bus()
        await bus.append("hours", 0, [CHUNK])
        await bus.close()
        with closing(sqlite3.connect(stage.path / "log.sqlite")) as db:
            db.execute("DELETE FROM records")
            db.commit()
        later = await stage.bus()
        await later.append("for-ever", 0, [NewRecord(b"any")])

        assert [] == stage.segments()
        await later.close()

    asyncio.run(story())


WRITER = """
import asyncio, os, random, sys, time
from pathlib import Path
from blake3 import blake3
from cos2p.log.bus import NewRecord
from cos2p.log.buses.sqlite import SqliteBus

class Fast:
    def now(self):
        return time.time() * 10_000

async def story():
    bus = SqliteBus(Path(sys.argv[1]), Fast(), segment_bytes_max=200_000)
    while True:
        values = [os.urandom(random.randrange(10, 50_000)) for _ in range(3)]
        await bus.append("hours", 0, [
            NewRecord(v, b"", {"digest": blake3(v).digest()}) for v in values
        ])
        print("written", flush=True)

asyncio.run(story())
"""


class FastClock(JumpingClock):
    def now(self) -> float:
        return time.time() * 10_000


@pytest.mark.processes
@pytest.mark.slow
def test_kills_while_segments_are_dropped_cost_no_byte(tmp_path: Path) -> None:
    """Hours pass in a second: three writers rotate, expire and are killed while we read."""
    path = tmp_path / "run"

    async def story() -> None:
        bus = SqliteBus(path, FastClock())
        await bus.create_topics([HOURS])
        offset = seen = 0
        for _ in range(6):
            writers = [start_writer(path) for _ in range(3)]
            for writer in writers:
                assert writer.stdout is not None
                assert "written\n" == writer.stdout.readline()
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                oldest = (await bus.end_offsets("hours"))[0].first
                seen += len(await sound(bus, oldest))  # these are about to go
                found = await sound(bus, offset)
                offset = found[-1].offset + 1 if found else oldest
            end_all(writers)
        assert seen > 100
        ends = (await bus.end_offsets("hours"))[0]
        assert ends.first > 0
        assert 0 == ends.next % 3, "appends are whole"
        await asyncio.sleep(2)
        await run_retention(bus)
        assert [] == list((path / "segments").glob("*")), "all has expired, and nothing is left"
        await bus.close()

    asyncio.run(story())


async def sound(bus: SqliteBus, offset: int) -> list[Record]:
    """Read on from an offset, and see that every byte is right; nothing where it has expired."""
    try:
        records = await bus.read("hours", 0, offset, bytes_max=500_000)
    except OffsetExpiredError:
        assert (await bus.end_offsets("hours"))[0].first > offset
        return []
    assert list(range(offset, offset + len(records))) == [r.offset for r in records]
    for record in records:
        assert blake3(record.value).digest() == record.headers["digest"]
    return records


def start_writer(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )


def end_all(writers: "Sequence[subprocess.Popen[str]]") -> None:
    for writer in writers:
        with writer:
            writer.send_signal(signal.SIGKILL)
