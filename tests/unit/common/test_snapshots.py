"""Snapshots in the log: which one counts, and why another does not."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from cos2p.clock import SystemClock
from cos2p.log import codec
from cos2p.log.bus import NewRecord
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.snapshots import (
    Position,
    Snapshot,
    fitting_snapshots,
    next_number,
    parts_of,
    snapshots_of,
    tail_of,
    write_snapshot,
)
from cos2p.log.topics import SNAPSHOTS, specs

T = TypeVar("T")
TOPIC = SNAPSHOTS.full_name("t")
LARGE = bytes(range(256)) * 8000
"""A state of three parts."""


class Log:
    """A bus with three records of `decisions`, and what was said of skipped snapshots."""

    def __init__(self) -> None:
        self.bus = MemoryBus(SystemClock())
        self.skipped: dict[int, str] = {}

    async def prepare(self) -> None:
        await self.bus.create_topics(specs("t", 1))
        await self.bus.append("t-decisions", 0, [NewRecord(b"one"), NewRecord(b"two")])
        await self.bus.append("t-decisions", 0, [NewRecord(b"three")])

    async def write(self, number: int, state: bytes = b"state", **changes: object) -> Snapshot:
        made = replace(snapshot(number, state), **changes)  # type: ignore[arg-type]
        await write_snapshot(self.bus, "t", made)
        return made

    async def append_parts(self, made: Snapshot, *parts: int) -> None:
        """Some parts of a snapshot, as if its writer had died or another had interfered."""
        found = parts_of(made)
        await self.bus.append(TOPIC, 0, [codec.encode(found[i]) for i in parts])

    async def newest(self) -> Snapshot | None:
        return await anext(fitting_snapshots(self.bus, "t", "planner", "r", self.note), None)

    def note(self, number: int, reason: str) -> None:
        self.skipped[number] = reason


def snapshot(number: int, state: bytes = b"state") -> Snapshot:
    positions = {"decisions": Position(3, tail_of(b"three"))}
    return Snapshot("planner", number, "r", positions, state)


def on_a_log(body: Callable[[Log], Awaitable[T]]) -> T:
    async def play() -> T:
        log = Log()
        await log.prepare()
        return await body(log)

    return asyncio.run(play())


def test_the_newest_snapshot_is_found_with_its_state_and_positions() -> None:
    async def body(log: Log) -> None:
        await log.write(0, b"older")
        newest = await log.write(1, LARGE)

        assert newest == await log.newest()
        assert {} == log.skipped

    on_a_log(body)


def test_without_a_snapshot_there_is_none_and_the_next_has_number_0() -> None:
    async def body(log: Log) -> tuple[Snapshot | None, int]:
        return await log.newest(), await next_number(log.bus, "t")

    assert (None, 0) == on_a_log(body)


def test_a_log_without_the_topic_has_no_snapshot() -> None:
    async def body() -> list[Snapshot]:
        return await snapshots_of(MemoryBus(SystemClock()), "t", "planner", lambda n, reason: None)

    assert [] == asyncio.run(body())


def test_the_next_number_is_above_those_that_do_not_count() -> None:
    async def body(log: Log) -> int:
        await log.write(7, run_id="other")
        return await next_number(log.bus, "t")

    assert 8 == on_a_log(body)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_writer_that_dies_between_two_parts_leaves_the_snapshot_before_it(written: int) -> None:
    async def body(log: Log) -> None:
        before = await log.write(0, LARGE)
        await log.append_parts(snapshot(1, LARGE[::-1]), *range(written))

        assert before == await log.newest()
        assert ([1] if written else []) == list(log.skipped)

    on_a_log(body)


def test_a_snapshot_with_an_altered_byte_is_skipped() -> None:
    async def body(log: Log) -> None:
        before = await log.write(0)
        part = parts_of(snapshot(1))[0]
        body = bytearray(part.body)
        body[-1] ^= 1
        altered = part.model_copy(update={"body": bytes(body)})
        await log.bus.append(TOPIC, 0, [codec.encode(altered)])

        assert before == await log.newest()
        assert "its bytes do not match its digest" == log.skipped[1]

    on_a_log(body)


def test_a_snapshot_of_another_protocol_is_skipped() -> None:
    async def body(log: Log) -> None:
        before = await log.write(0)
        later = parts_of(snapshot(1))[0].model_copy(update={"protocol": 99})
        await log.bus.append(TOPIC, 0, [codec.encode(later)])

        assert before == await log.newest()
        assert "it is of protocol 99, this program's is 1" == log.skipped[1]

    on_a_log(body)


def test_a_snapshot_of_another_run_is_skipped() -> None:
    async def body(log: Log) -> None:
        await log.write(0, run_id="other")

        assert await log.newest() is None
        assert "it belongs to run other" == log.skipped[0]

    on_a_log(body)


def test_a_snapshot_ahead_of_a_truncated_log_is_skipped() -> None:
    async def body(log: Log) -> None:
        before = await log.write(0)
        await log.write(1, positions={"decisions": Position(9, b"")})

        assert before == await log.newest()
        assert "it is ahead of t-decisions: at 9, the log ends at 3" == log.skipped[1]

    on_a_log(body)


def test_a_snapshot_of_a_log_that_was_written_again_from_an_older_copy_is_skipped() -> None:
    async def body(log: Log) -> None:
        await log.write(0, positions={"decisions": Position(3, tail_of(b"another third record"))})

        assert await log.newest() is None
        assert "record 2 of t-decisions is not the one" in log.skipped[0]

    on_a_log(body)


def test_a_position_whose_record_has_expired_contradicts_nothing() -> None:
    async def body(log: Log) -> None:
        written = await log.write(0)
        log.bus.expire("t-decisions", 0, 3)

        assert written == await log.newest()

    on_a_log(body)


def test_two_writers_of_one_number_spoil_that_snapshot_at_most() -> None:
    """An older planner has not yet seen that it was replaced."""

    async def body(log: Log) -> None:
        before = await log.write(0, LARGE)
        ours, theirs = snapshot(1, LARGE[::-1]), snapshot(1, LARGE[1:] + b"x")
        await log.append_parts(ours, 0)
        await log.append_parts(theirs, 0, 1)
        await log.append_parts(ours, 1, 2)

        assert await log.newest() in (before, ours)

    on_a_log(body)


def test_garbage_in_the_topic_is_passed_over() -> None:
    async def body(log: Log) -> None:
        written = await log.write(0)
        await log.bus.append(TOPIC, 0, [NewRecord(b"\xc1", b"key")])

        assert written == await log.newest()

    on_a_log(body)
