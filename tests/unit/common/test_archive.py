"""An archive of a log that goes on meanwhile: retention, compaction, appends."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from bus_logs import JumpingClock, run_retention

from cos2p.errors import OffsetExpiredError, StorageError
from cos2p.log import archive
from cos2p.log.bus import Bus, NewRecord, Offsets, Record
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.buses.passing import PassingBus
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.topics import DECISIONS, FLEET, HEARTBEATS, MODELS, SNAPSHOTS, SUBMODELS, specs

HOUR_S = 3600.0
BLOBS = SUBMODELS.full_name("site")
BEATS = HEARTBEATS.full_name("site")
STATES = SNAPSHOTS.full_name("site")
BIG = archive.READ_BYTES // 5
"""A read moves five such."""


class Meanwhile(PassingBus):
    """Does something before a read, once: what other processes do while we copy."""

    def __init__(
        self, inner: Bus, topic: str, offset: int, act: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(inner)
        self._at, self._act, self._done = (topic, offset), act, False

    async def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        bytes_max: int = 4 << 20,
        wait_s: float = 0,
    ) -> list[Record]:
        if topic == self._at[0] and offset >= self._at[1] and not self._done:
            self._done = True
            await self._act()
        return await super().read(topic, partition, offset, bytes_max=bytes_max, wait_s=wait_s)


class Stage:
    """A run in a folder, and its archive."""

    def __init__(self, folder: Path) -> None:
        self.clock = JumpingClock()
        self.bus = SqliteBus(folder / "run", self.clock)
        self.out = folder / "run.sqlite"

    async def open(self) -> "Stage":
        await self.bus.create_topics(specs("site", 1))
        return self

    async def copy(self, bus: Bus | None = None) -> dict[str, archive.Copied]:
        source = bus or self.bus
        extent = await archive.extent_of(source, "site")
        copied = await archive.copy(source, "site", extent, self.out)
        return {c.topic: c for c in copied}

    async def expire(self) -> None:
        """What is older than an hour goes from the submodels."""
        self.clock.ahead_s += 5.5 * HOUR_S
        await run_retention(self.bus)

    async def archived(self, topic: str) -> tuple[Offsets, list[Record]]:
        """Ends of a topic in the file, and all that a reader finds there."""
        bus = SqliteBus(self.out, self.clock)
        ends = (await bus.end_offsets(topic))[0]
        found: list[Record] = []
        offset = ends.first
        while offset < ends.next:
            found += await bus.read(topic, 0, offset)
            offset = found[-1].offset + 1
        await bus.close()
        return ends, found


def story(tmp_path: Path, body: Callable[[Stage], Awaitable[None]]) -> None:
    async def whole() -> None:
        stage = await Stage(tmp_path).open()
        try:
            await body(stage)
        finally:
            await stage.bus.close()

    asyncio.run(whole())


def test_what_expires_before_its_copy_is_left_out_and_said(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        await stage.bus.append(BLOBS, 0, [NewRecord(b"old" * 100)] * 5)
        stage.clock.ahead_s += HOUR_S
        await stage.bus.append(BLOBS, 0, [NewRecord(b"new" * 100)] * 3)
        copied = await stage.copy(Meanwhile(stage.bus, BLOBS, 0, stage.expire))

        assert archive.Copied(BLOBS, 0, 5, 3, 900) == copied[BLOBS]
        ends, found = await stage.archived(BLOBS)
        assert Offsets(5, 8) == ends
        assert [b"new" * 100] * 3 == [r.value for r in found]

    story(tmp_path, body)


def test_what_expires_in_the_middle_leaves_no_gap(tmp_path: Path) -> None:
    """The records before it are dropped from the file again: a partition has one beginning."""

    async def body(stage: Stage) -> None:
        values = [bytes([i]) * BIG for i in range(16)]
        await stage.bus.append(BLOBS, 0, [NewRecord(v) for v in values[:12]])
        stage.clock.ahead_s += HOUR_S
        await stage.bus.append(BLOBS, 0, [NewRecord(v) for v in values[12:]])
        copied = await stage.copy(Meanwhile(stage.bus, BLOBS, 5, stage.expire))

        assert archive.Copied(BLOBS, 0, 12, 4, 4 * BIG) == copied[BLOBS]
        ends, found = await stage.archived(BLOBS)
        assert Offsets(12, 16) == ends
        assert values[12:] == [r.value for r in found]

    story(tmp_path, body)


def test_what_expires_behind_the_copy_stays_in_it(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        await stage.bus.append(BLOBS, 0, [NewRecord(b"o" * BIG)] * 5)
        stage.clock.ahead_s += HOUR_S
        await stage.bus.append(BLOBS, 0, [NewRecord(b"n" * BIG)] * 5)
        copied = await stage.copy(Meanwhile(stage.bus, BLOBS, 5, stage.expire))

        assert (0, 10) == (copied[BLOBS].first_offset, copied[BLOBS].record_count)

    story(tmp_path, body)


def test_a_topic_that_expires_whole_keeps_its_place(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        async def expire() -> None:
            await stage.expire()
            await stage.bus.append(BLOBS, 0, [NewRecord(b"after the extent")])
            await stage.expire()

        await stage.bus.append(BLOBS, 0, [NewRecord(b"old" * 100)] * 5)
        stage.clock.ahead_s += HOUR_S
        copied = await stage.copy(Meanwhile(stage.bus, BLOBS, 0, expire))

        assert archive.Copied(BLOBS, 0, 5, 0, 0) == copied[BLOBS]
        assert (Offsets(5, 5), []) == await stage.archived(BLOBS)

    story(tmp_path, body)


def test_a_compacted_topic_keeps_offsets_and_gaps(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        for i in range(6):
            await stage.bus.append(BEATS, 0, [NewRecord(b"%d" % i, b"w%d" % (i % 2))])
        await stage.bus.append(BEATS, 0, [NewRecord(b"one", b"w9")])
        await stage.bus.append(BEATS, 0, [NewRecord(b"more", b"w0")])
        copied = await stage.copy()

        assert archive.Copied(BEATS, 0, 0, 3, 8) == copied[BEATS]
        ends, found = await stage.archived(BEATS)
        assert Offsets(0, 8) == ends
        assert [(5, b"w1", b"5"), (6, b"w9", b"one"), (7, b"w0", b"more")] == [
            (r.offset, r.key, r.value) for r in found
        ]

    story(tmp_path, body)


def test_a_record_replaced_during_the_copy_is_left_out(tmp_path: Path) -> None:
    """A snapshot is written into its slot while we copy: the other slot is whole."""

    async def body(stage: Stage) -> None:
        async def write() -> None:
            await stage.bus.append(STATES, 0, [NewRecord(b"third", b"slot 0")])

        await stage.bus.append(STATES, 0, [NewRecord(b"first", b"slot 0")])
        await stage.bus.append(STATES, 0, [NewRecord(b"second", b"slot 1")])
        await stage.copy(Meanwhile(stage.bus, STATES, 0, write))

        ends, found = await stage.archived(STATES)
        assert Offsets(0, 2) == ends
        assert [b"second"] == [r.value for r in found]

    story(tmp_path, body)


def test_a_topic_of_which_all_was_replaced_is_empty(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        async def beat() -> None:
            await stage.bus.append(BEATS, 0, [NewRecord(b"new", b"w")])

        await stage.bus.append(BEATS, 0, [NewRecord(b"old", b"w")])
        copied = await stage.copy(Meanwhile(stage.bus, BEATS, 0, beat))

        assert 0 == copied[BEATS].record_count
        assert [] == (await stage.archived(BEATS))[1]

    story(tmp_path, body)


def test_a_log_that_was_not_compacted_yet_is_compacted_in_the_file(tmp_path: Path) -> None:
    """Kafka compacts late: nothing of that is worth keeping."""

    async def body(stage: Stage) -> None:
        bus = MemoryBus(stage.clock)
        await bus.create_topics([replace(spec, compacted=False) for spec in specs("site", 1)])
        await bus.append(BEATS, 0, [NewRecord(b"%d" % i, b"w%d" % (i % 2)) for i in range(50)])
        copied = await stage.copy(bus)

        assert 2 == copied[BEATS].record_count
        assert [48, 49] == [r.offset for r in (await stage.archived(BEATS))[1]]

    story(tmp_path, body)


def test_a_segment_removed_by_hand_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        await stage.bus.append(BLOBS, 0, [NewRecord(b"x" * BIG)])
        (tmp_path / "run" / "segments" / "00000001.seg").unlink()
        with pytest.raises(OffsetExpiredError, match=r"00000001\.seg"):
            await stage.copy()

        assert ["run"] == [p.name for p in tmp_path.iterdir()]

    story(tmp_path, body)


def test_an_extent_holds_what_its_records_refer_to(tmp_path: Path) -> None:
    """Between two questions for ends, each role may write a record about the one before it."""

    class Busy(PassingBus):
        async def end_offsets(self, topic: str) -> dict[int, Offsets]:
            for each in (SUBMODELS, FLEET, DECISIONS, MODELS):
                await self.append(each.full_name("site"), 0, [NewRecord(b"x", b"k")])
            return await super().end_offsets(topic)

    async def body(stage: Stage) -> None:
        extent = await archive.extent_of(Busy(stage.bus), "site")
        ends = [extent[t.full_name("site")][0].next for t in (MODELS, DECISIONS, FLEET, SUBMODELS)]

        assert sorted(ends) == ends

    story(tmp_path, body)


def test_an_unfinished_file_is_not_left_behind(tmp_path: Path) -> None:
    async def body(stage: Stage) -> None:
        async def fail() -> None:
            raise ConnectionError

        await stage.bus.append(BLOBS, 0, [NewRecord(b"x")])
        with suppress(ConnectionError, StorageError):
            await stage.copy(Meanwhile(stage.bus, BLOBS, 0, fail))

        assert ["run"] == [p.name for p in tmp_path.iterdir()]

    story(tmp_path, body)
