"""What the embedded bus adds to the contract: files, locks, full disks, other processes."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from bus_logs import JumpingClock, run_retention

from cos2p.clock import SystemClock
from cos2p.errors import (
    BusUnreachableError,
    ChunkMissingError,
    ExitCode,
    OffsetExpiredError,
    RunExistsError,
    StorageError,
)
from cos2p.log.blobs import read_blob, write_blob
from cos2p.log.bus import NewRecord, Offsets, TopicSpec
from cos2p.log.buses.run_lock import RunLock
from cos2p.log.buses.sqlite import SqliteBus

SMALL = TopicSpec("small", 1, 1_000_000)
BLOBS = TopicSpec("blobs", 1, 1_000_000, 3600.0, bulk=True)
MEGABYTE = bytes(1_000_000)


def run(
    path: Path, story: Callable[[SqliteBus], Awaitable[None]], *, segment_bytes_max: int = 256 << 20
) -> None:
    """Tell a story with a bus on `path`, its topics made."""

    async def whole() -> None:
        bus = SqliteBus(path, SystemClock(), segment_bytes_max=segment_bytes_max)
        await bus.create_topics([SMALL, BLOBS])
        try:
            await story(bus)
        finally:
            await bus.close()

    asyncio.run(whole())


def read_once(path: Path) -> None:
    async def story() -> None:
        bus = SqliteBus(path, SystemClock())
        try:
            await bus.read("small", 0, 0)
        finally:
            await bus.close()

    asyncio.run(story())


def segments(path: Path) -> list[str]:
    return sorted(p.name for p in (path / "segments").glob("*"))


# ---------------------------------------------------------------- what lies at the path


@pytest.mark.parametrize("name", ["run", "run.sqlite"])
def test_no_run_at_the_path_is_named_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(BusUnreachableError, match=f"no run at .*{name}.*cos2p init") as caught:
        read_once(tmp_path / name)

    assert ExitCode.BUS == caught.value.exit_code
    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(b"what a person saved here by mistake " * 100)
    before = path.read_bytes()

    with pytest.raises(BusUnreachableError, match=r"run\.sqlite is not a run"):
        read_once(path)
    with pytest.raises(BusUnreachableError, match=r"run\.sqlite is not a run"):
        asyncio.run(SqliteBus(path, SystemClock()).create_topics([SMALL]))
    assert before == path.read_bytes()


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.commit()
    db.close()
    before = path.read_bytes()

    with pytest.raises(BusUnreachableError, match="another program's"):
        read_once(path)
    with pytest.raises(BusUnreachableError, match="another program's"):
        asyncio.run(SqliteBus(path, SystemClock()).create_topics([SMALL]))
    assert before == path.read_bytes()


def test_an_empty_file_is_no_run_yet_but_can_become_one(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.touch()
    with pytest.raises(BusUnreachableError, match="no run at"):
        read_once(path)

    async def story(bus: SqliteBus) -> None:
        assert [0] == await bus.append("small", 0, [NewRecord(b"a")])

    run(path, story)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_path_of_the_wrong_kind_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("run" if kind == "file" else "run.sqlite")
    path.write_text("") if kind == "file" else path.mkdir()

    with pytest.raises(BusUnreachableError, match="a run is a folder, or a file whose name ends"):
        read_once(path)


def test_a_newer_format_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"

    async def nothing(bus: SqliteBus) -> None:
        pass

    run(path, nothing)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()

    with pytest.raises(BusUnreachableError, match="format 99"):
        read_once(path)


def test_a_place_where_no_folder_can_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match="file"):
        asyncio.run(SqliteBus(tmp_path / "file" / "run", SystemClock()).create_topics([SMALL]))


READ_ONLY = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from cos2p.log.bus import NewRecord
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.clock import SystemClock
from cos2p.errors import StorageError

async def story():
    bus = SqliteBus(Path(sys.argv[1]), SystemClock())
    print(bytes((await bus.read("small", 0, 0))[0].value).decode())
    try:
        await bus.append("small", 0, [NewRecord(b"b")])
    except StorageError as error:
        print(error)
    await bus.close()

if os.getuid() == 0:  # root may write everything
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
asyncio.run(story())
"""


@pytest.mark.parametrize("name", ["run", "run.sqlite"])
def test_a_read_only_run_can_be_read_and_says_why_not_written(name: str) -> None:
    """An archive on a read-only share replays."""

    async def story(bus: SqliteBus) -> None:
        await bus.append("small", 0, [NewRecord(b"kept")])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        run(path, story)
        inside = [Path(folder), *Path(folder).rglob("*")]
        for each in inside:
            each.chmod(0o555 if each.is_dir() else 0o444)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        for each in inside:
            each.chmod(0o755)

    assert "" == done.stderr
    first, second = done.stdout.splitlines()
    assert "kept" == first
    assert "read-only" in second
    assert name in second


# ---------------------------------------------------------------- locks


def test_a_lock_held_for_a_while_is_waited_for_without_blocking_the_loop(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        other = sqlite3.connect(tmp_path / "run" / "log.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        appending = asyncio.create_task(bus.append("small", 0, [NewRecord(b"a")]))
        turns = 0
        started_s = time.monotonic()
        while time.monotonic() - started_s < 0.3:
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 30
        assert not appending.done()
        assert [] == await bus.read("small", 0, 0)

        other.execute("ROLLBACK")
        other.close()
        assert [0] == await appending

    run(tmp_path / "run", story)


def test_a_lock_that_is_never_given_back_ends_in_an_error(tmp_path: Path) -> None:
    async def story() -> None:
        bus = SqliteBus(tmp_path / "run", SystemClock(), lock_patience_s=0.2)
        await bus.create_topics([SMALL])
        other = sqlite3.connect(tmp_path / "run" / "log.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match=r"locked by another process for 0\.2 s"):
            await bus.append("small", 0, [NewRecord(b"a")])
        other.execute("ROLLBACK")
        other.close()

        assert [0] == await bus.append("small", 0, [NewRecord(b"a")])
        await bus.close()

    asyncio.run(story())


def test_a_second_owner_of_a_run_is_told_who_has_it(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run") as first, RunLock(tmp_path / "run") as second:
        first.acquire("cos2p demo")
        with pytest.raises(RunExistsError, match=rf"process {os.getpid()} \(cos2p demo\)"):
            second.acquire("cos2p run")

        first.release()
        second.acquire("cos2p run")


def test_the_lock_of_a_single_file_lies_beside_it(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run.sqlite") as lock:
        lock.acquire("cos2p archive")

        assert ["run.sqlite.lock"] == [p.name for p in tmp_path.iterdir()]


def test_a_killed_owner_frees_the_run(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cos2p.log.buses.run_lock import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire('demo')\n"
        "print('held', flush=True); time.sleep(60)"
    )
    lock = RunLock(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert "held\n" == owner.stdout.readline()
        with pytest.raises(RunExistsError, match=f"process {owner.pid}"):
            lock.acquire("me")
        owner.kill()
    lock.acquire("me")
    lock.release()


# ---------------------------------------------------------------- full disks


FULL = """
import asyncio, resource, sys
from pathlib import Path
from cos2p.log.bus import NewRecord, TopicSpec
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.clock import SystemClock
from cos2p.errors import StorageError

async def story():
    path, topic = Path(sys.argv[1]), sys.argv[2]
    bus = SqliteBus(path, SystemClock())
    await bus.append(topic, 0, [NewRecord(bytes(900_000))])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, resource.RLIM_INFINITY))
    try:
        for i in range(6):
            await bus.append(topic, 0, [NewRecord(bytes(400_000)), NewRecord(bytes(400_000))])
    except StorageError as error:
        print(error)
    ends = (await bus.end_offsets(topic))[0]
    found, offset = 0, 0
    while offset < ends.next:
        for record in await bus.read(topic, 0, offset):
            found, offset = found + len(record.value), record.offset + 1
    print(ends.next, found)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(await bus.append(topic, 0, [NewRecord(b"room again")]))
    await bus.close()

asyncio.run(story())
"""


@pytest.mark.parametrize("name", ["run", "run.sqlite"])
@pytest.mark.parametrize("topic", ["small", "blobs"])
def test_a_full_disk_is_an_error_with_the_path_and_shows_no_half_append(
    tmp_path: Path, name: str, topic: str
) -> None:
    """A limit on file sizes stands in for the disk's end: the same errors from the same calls."""

    async def nothing(bus: SqliteBus) -> None:
        pass

    run(tmp_path / name, nothing)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / name), topic],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "" == done.stderr
    text, ends, after = done.stdout.splitlines()
    assert str(tmp_path) in text
    count, byte_count = (int(word) for word in ends.split())
    assert 1 == count % 2, "pairs are appended whole"
    assert 900_000 + (count - 1) * 400_000 == byte_count
    assert f"[{count}]" == after


# ---------------------------------------------------------------- segments


def test_blob_bytes_go_to_a_segment_and_small_records_do_not(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        await bus.append("small", 0, [NewRecord(b"x" * 10_000)])
        assert not (tmp_path / "run" / "segments").exists()
        await bus.append("blobs", 0, [NewRecord(MEGABYTE), NewRecord(b"tiny")])
        await bus.append("blobs", 0, [NewRecord(MEGABYTE)])

        assert ["00000001.seg"] == segments(tmp_path / "run")
        found = await bus.read("blobs", 0, 0)
        assert [MEGABYTE, b"tiny", MEGABYTE] == [bytes(r.value) for r in found]

    run(tmp_path / "run", story)
    assert 2 * len(MEGABYTE) == (tmp_path / "run/segments/00000001.seg").stat().st_size
    assert (tmp_path / "run" / "log.sqlite").stat().st_size < 200_000


def test_a_single_file_holds_everything_and_is_alone_when_closed(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        await bus.append("blobs", 0, [NewRecord(MEGABYTE)])

    run(tmp_path / "run.sqlite", story)

    assert ["run.sqlite"] == [p.name for p in tmp_path.iterdir()]
    assert (tmp_path / "run.sqlite").stat().st_size > len(MEGABYTE)


def test_each_bus_writes_a_segment_of_its_own(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        other = SqliteBus(tmp_path / "run", SystemClock())
        await asyncio.gather(
            *(b.append("blobs", 0, [NewRecord(MEGABYTE)] * 3) for b in (bus, other))
        )
        await other.close()

        assert ["00000001.seg", "00000002.seg"] == segments(tmp_path / "run")
        assert {0: Offsets(0, 6)} == await bus.end_offsets("blobs")

    run(tmp_path / "run", story)


def test_a_full_segment_is_left_for_a_new_one(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        for i in range(4):
            await bus.append("blobs", 0, [NewRecord(bytes([i]) * 1_000_000)])

        assert ["00000001.seg", "00000002.seg"] == segments(tmp_path / "run")
        found = await bus.read("blobs", 0, 0)
        assert [bytes([i]) * 1_000_000 for i in range(4)] == [bytes(r.value) for r in found]

    run(tmp_path / "run", story, segment_bytes_max=2_000_000)


def test_retention_runs_by_itself_and_frees_the_disk(tmp_path: Path) -> None:
    async def story() -> None:
        clock = JumpingClock()
        path = tmp_path / "run"
        bus = SqliteBus(path, clock, segment_bytes_max=1_000_000)
        await bus.create_topics([SMALL, BLOBS])
        await bus.append("small", 0, [NewRecord(b"for ever")])
        for _ in range(30):
            clock.ahead_s += 1000.0
            await bus.append("blobs", 0, [NewRecord(MEGABYTE)])
            assert len(segments(path)) <= 5

        ends = (await bus.end_offsets("blobs"))[0]
        assert 30 == ends.next
        assert ends.first >= 25
        assert {0: Offsets(0, 1)} == await bus.end_offsets("small")
        assert MEGABYTE == bytes((await bus.read("blobs", 0, 29))[0].value)
        await bus.close()

    asyncio.run(story())


def test_in_a_single_file_nothing_expires(tmp_path: Path) -> None:
    """An archive keeps the times of its records, and is read long after them."""

    async def story() -> None:
        clock = JumpingClock()
        bus = SqliteBus(tmp_path / "run.sqlite", clock)
        await bus.create_topics([BLOBS])
        for _ in range(3):
            await bus.append("blobs", 0, [NewRecord(b"old")])
            clock.ahead_s += 10_000.0

        assert {0: Offsets(0, 3)} == await bus.end_offsets("blobs")
        await bus.close()

    asyncio.run(story())


def test_retention_spares_the_segment_that_another_bus_is_writing(tmp_path: Path) -> None:
    async def story() -> None:
        clock, path = JumpingClock(), tmp_path / "run"
        bus, other = SqliteBus(path, clock), SqliteBus(path, clock)
        await bus.create_topics([BLOBS])
        await bus.append("blobs", 0, [NewRecord(MEGABYTE)])
        clock.ahead_s += 10_000
        await run_retention(other)
        assert ["00000001.seg"] == segments(path)

        await bus.append("blobs", 0, [NewRecord(b"y" * 10_000)])
        found = await other.read("blobs", 0, 1)
        assert [b"y" * 10_000] == [bytes(r.value) for r in found]

        await bus.close()
        clock.ahead_s += 10_000
        await run_retention(other)
        assert [] == segments(path)
        await other.close()

    asyncio.run(story())


@pytest.mark.parametrize("harm", ["remove", "cut"])
def test_a_segment_harmed_by_hand_is_a_typed_error(tmp_path: Path, harm: str) -> None:
    async def story(bus: SqliteBus) -> None:
        ref = await write_blob(bus, "blobs", 0, "b", [MEGABYTE * 2])
        path = tmp_path / "run" / "segments" / "00000001.seg"
        path.unlink() if harm == "remove" else os.truncate(path, 1_500_000)

        with pytest.raises(OffsetExpiredError, match=r"00000001\.seg"):
            await bus.read("blobs", 0, 0)
        with pytest.raises(ChunkMissingError, match=r"00000001\.seg"):
            async for _ in read_blob(bus, ref):
                pass

    run(tmp_path / "run", story)


# ---------------------------------------------------------------- processes, cancellation, growth


WRITER = """
import asyncio, sys
from pathlib import Path
from cos2p.log.bus import NewRecord
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.clock import SystemClock

async def story():
    bus = SqliteBus(Path(sys.argv[1]), SystemClock())
    name, count = sys.argv[2].encode(), int(sys.argv[3])
    for i in range(count):
        head = name + b" %d " % i
        await bus.append("small", 0, [NewRecord(head)])
        await bus.append("blobs", 0, [NewRecord(head + bytes(300_000)), NewRecord(head)])
        print(i, flush=True)
    await bus.close()

asyncio.run(story())
"""


def writer(path: Path, name: str, count: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_share_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run"

    async def story(bus: SqliteBus) -> None:
        started = [writer(path, name, 30) for name in ("a", "b", "c")]
        seen: list[bytes] = []
        while len(seen) < 90:
            records = await bus.read("small", 0, len(seen), wait_s=20)
            assert records
            seen += [bytes(r.value) for r in records]
        for process in started:
            with process:
                assert 0 == process.wait(20)

        for name in (b"a", b"b", b"c"):
            assert [name + b" %d " % i for i in range(30)] == [
                v for v in seen if v.startswith(name)
            ]
        assert {0: Offsets(0, 180)} == await bus.end_offsets("blobs")

    run(path, story)


def test_a_killed_writer_leaves_whole_appends_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "run"

    async def story(bus: SqliteBus) -> None:
        for round_number in range(3):
            with writer(path, f"w{round_number}", 10_000) as process:
                assert process.stdout is not None
                for _ in range(5 + 7 * round_number):
                    process.stdout.readline()
                process.send_signal(signal.SIGKILL)
                last = [line for line in process.stdout if line.endswith("\n")][-1:]
            acknowledged = int(last[0]) + 1 if last else 5 + 7 * round_number

            ends = (await bus.end_offsets("blobs"))[0]
            assert 0 == ends.next % 2, "pairs are appended whole"
            heads: list[bytes] = []
            offset = 0
            while offset < ends.next:
                for record in await bus.read("blobs", 0, offset):
                    assert len(record.value) > 300_000 or record.offset % 2
                    heads.append(bytes(record.value)[:40].rstrip(b"\0"))
                    offset = record.offset + 1
            mine = [h for h in heads if h.startswith(b"w%d " % round_number)]
            assert len(mine) >= 2 * acknowledged
            assert [b"w%d %d " % (round_number, i // 2) for i in range(len(mine))] == mine
        await bus.append("small", 0, [NewRecord(b"still writable")])

    run(path, story)


@pytest.mark.parametrize("name", ["run", "run.sqlite"])
def test_a_cancelled_append_is_whole_or_absent(tmp_path: Path, name: str) -> None:
    async def story(bus: SqliteBus) -> None:
        for turns in range(12):
            before = (await bus.end_offsets("blobs"))[0].next
            task = asyncio.create_task(bus.append("blobs", 0, [NewRecord(MEGABYTE)] * 3))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

            assert (await bus.end_offsets("blobs"))[0].next - before in (0, 3)
            assert task.cancelled() or [before, before + 1, before + 2] == task.result()
        await bus.append("blobs", 0, [NewRecord(MEGABYTE)])

    run(tmp_path / name, story)


def test_the_write_ahead_log_does_not_grow_with_the_run(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        largest = 0
        for _ in range(6000):
            await bus.append("small", 0, [NewRecord(b"x" * 5000)])
            largest = max(largest, (tmp_path / "run/log.sqlite-wal").stat().st_size)

        assert largest < 32 << 20
        assert {0: Offsets(0, 6000)} == await bus.end_offsets("small")

    run(tmp_path / "run", story)


def test_a_long_read_and_write_leave_the_event_loop_free(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        longest_s = 0.0

        async def watch() -> None:
            nonlocal longest_s
            while True:
                started_s = time.monotonic()
                await asyncio.sleep(0.001)
                longest_s = max(longest_s, time.monotonic() - started_s)

        watching = asyncio.create_task(watch())
        started_s = time.monotonic()
        ref = await write_blob(bus, "blobs", 0, "b", [bytes(64 << 20)])
        async for _ in read_blob(bus, ref):
            pass
        took_s = time.monotonic() - started_s
        watching.cancel()
        assert longest_s < max(0.25, took_s / 3)

    run(tmp_path / "run", story)


def test_a_closed_bus_opens_again_when_used(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        await bus.append("blobs", 0, [NewRecord(MEGABYTE)])
        await bus.close()

        assert [1] == await bus.append("blobs", 0, [NewRecord(MEGABYTE)])

    run(tmp_path / "run", story)


def test_a_person_can_look_at_the_log_with_any_sqlite_tool(tmp_path: Path) -> None:
    async def story(bus: SqliteBus) -> None:
        await bus.append("small", 0, [NewRecord(b"a")])
        await bus.append("blobs", 0, [NewRecord(MEGABYTE)])

    run(tmp_path / "run", story)
    db = sqlite3.connect(tmp_path / "run" / "log.sqlite")
    rows = db.execute(
        "SELECT topic, partition, offset, byte_count, segment FROM log ORDER BY topic"
    ).fetchall()
    db.close()

    assert [("blobs", 0, 0, 1_000_000, 1), ("small", 0, 0, 1, None)] == rows
