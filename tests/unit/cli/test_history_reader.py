"""The reader: what it takes from the log, where it begins, and that it never writes."""

import asyncio
from typing import Any

import pytest

from cos2p.history.follow import HistoryReader, open_history
from cos2p.history.read import RunLog, letters, run_of
from cos2p.history.run import RunHistory
from cos2p.history.state import HistoryState
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord
from cos2p.log.mailbox import Letter
from cos2p.log.snapshots import Snapshot, write_snapshot
from cos2p.log.state_codec import pack
from cos2p.log.topics import CATALOGUE, FLEET


def read(logged: Any) -> HistoryReader:
    return asyncio.run(open_history(logged.bus, "t"))


def test_a_whole_run_is_folded_in_one_poll(logged: Any) -> None:
    asyncio.run(logged.whole())

    run = read(logged).history

    assert ("finished", 4, 8) == (run.phase, run.version, run.plan_count)
    assert 0.8 == run.accuracy[-1].accuracy
    assert 4 == run.state.published


def test_a_later_poll_takes_only_what_is_new(logged: Any) -> None:
    async def body() -> tuple[int, int, int]:
        await logged.create()
        reader = HistoryReader(logged.bus, "t")
        first = await reader.poll()
        await logged.append(logged.script.requested())
        return first, await reader.poll(wait_s=1.0), await reader.poll()

    assert (0, 1, 0) == asyncio.run(body())


def test_a_reader_that_waits_takes_what_comes(logged: Any) -> None:
    async def body() -> int:
        await logged.create()
        await logged.append(logged.script.requested())
        reader = await open_history(logged.bus, "t")
        waiting = asyncio.create_task(reader.poll(wait_s=30.0))
        await asyncio.sleep(0)
        await logged.append(logged.script.hello("w0"))
        return await waiting

    assert 1 == asyncio.run(body())


def test_an_unreadable_record_is_counted_and_nothing_is_written(logged: Any) -> None:
    async def ends() -> list[int]:
        found = [await logged.bus.end_offsets(t.full_name("t")) for t in CATALOGUE]
        return [e.next for parts in found for e in parts.values()]

    async def body() -> tuple[HistoryReader, bool]:
        await logged.whole()
        await logged.bus.append("t-fleet", 0, [NewRecord(b"junk")])
        before = await ends()
        reader = await open_history(logged.bus, "t")
        return reader, before == await ends()

    reader, untouched = asyncio.run(body())
    assert (1, 4) == (reader.tally.unreadable_count, reader.history.version)
    assert untouched


def test_records_of_another_run_are_counted_and_skipped(logged: Any) -> None:
    async def body() -> None:
        other = {"run_id": "other"}
        await logged.create()
        await logged.append(logged.script.hello("w8").model_copy(update=other))
        await logged.append(logged.script.requested(), *logged.script.started())
        await logged.append(logged.script.hello("w9").model_copy(update=other))

    asyncio.run(body())

    reader = read(logged)

    assert 2 == reader.tally.foreign_count
    assert {} == reader.history.devices
    assert "r1" == reader.history.run_id


def test_a_log_whose_start_has_expired_is_read_from_where_it_starts(logged: Any) -> None:
    async def body() -> RunHistory:
        await logged.whole()
        logged.bus.expire("t-fleet", 0, 3)
        return (await open_history(logged.bus, "t")).history

    run = asyncio.run(body())

    assert ("finished", 4, 8) == (run.phase, run.version, run.plan_count)
    assert "unknown" != run.state_of(run.devices["w0"], run.last_s)


class ExpiringBus:
    """A bus whose retention takes the head of `fleet` after its ends were asked for."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, topic: str, *args: Any, **kwargs: Any) -> Any:
        if topic == "t-fleet":
            self._inner.expire("t-fleet", 0, 3)
        return await self._inner.read(topic, *args, **kwargs)


def test_what_retention_takes_while_it_is_read_is_passed_over(logged: Any) -> None:
    async def body() -> list[int]:
        await logged.whole()
        return [letter.offset async for letter in letters(ExpiringBus(logged.bus), "t", FLEET)]

    assert 3 == asyncio.run(body())[0]


def test_the_order_is_the_fleet_a_decision_handled_the_decision_what_was_made_of_it(
    logged: Any,
) -> None:
    async def body() -> list[str]:
        s = logged.script
        await logged.create()
        await logged.append(s.requested(), *s.started(), s.opened(), s.hello("w0"))
        plan = s.issued("p1", "w0")
        await logged.append(plan, s.dispatched(plan.plan), s.hello("w1"), s.closed(1))
        await logged.append(s.hello("w2"))
        log = RunLog.of(logged.bus, "t", "r1")
        return [type(letter.message).__name__ async for letter in log.letters()]

    expected = "RunRequested EpochStarted RunStarted RunOpened Hello PlanIssued Dispatched"
    assert [*expected.split(), "Hello", "RoundClosed", "Hello"] == asyncio.run(body())


def test_each_letter_that_counts_is_shown_to_who_asks(logged: Any) -> None:
    seen: list[tuple[str, int]] = []

    def taken(letter: Letter, run: RunHistory) -> None:
        if isinstance(letter.message, m.RoundClosed):
            seen.append((letter.topic.name, run.version))

    async def body() -> None:
        await logged.whole()
        await HistoryReader(logged.bus, "t", taken=taken).poll()

    asyncio.run(body())
    assert [("decisions", v) for v in (1, 2, 3, 4)] == seen


def test_the_run_is_the_one_that_was_asked_for_first(logged: Any) -> None:
    async def body() -> tuple[str, str]:
        await logged.create()
        await logged.append(logged.script.hello("w0").model_copy(update={"run_id": "other"}))
        before = await run_of(logged.bus, "t")
        await logged.append(logged.script.requested())
        return before, await run_of(logged.bus, "t")

    assert ("", "r1") == asyncio.run(body())


# ------------------------------------------------------------ snapshots


def snapshot_of(run: RunHistory, number: int) -> Snapshot:
    state = pack(HistoryState, run.state)
    return Snapshot("history", number, run.run_id, run.positions, state)


async def half(logged: Any) -> None:
    """Two versions, then a snapshot."""
    s = logged.script
    await logged.create()
    await logged.append(s.requested(), *s.started(), s.opened(), s.hello("w0"))
    await logged.append(s.closed(1), s.evaluated(1, 0.5), s.closed(2))
    run = (await open_history(logged.bus, "t")).history
    await write_snapshot(logged.bus, "t", snapshot_of(run, 0))


def test_a_reader_begins_at_the_newest_snapshot(logged: Any) -> None:
    async def body() -> tuple[HistoryReader, RunHistory]:
        await half(logged)
        await logged.append(logged.script.closed(3), logged.script.hello("w1"))
        whole = RunHistory()
        await HistoryReader(logged.bus, "t", history=whole).poll()
        return await open_history(logged.bus, "t"), whole

    reader, whole = asyncio.run(body())
    assert 2 == reader.tally.record_count
    assert pack(HistoryState, whole.state) == pack(HistoryState, reader.history.state)
    assert [] == reader.notes


@pytest.mark.parametrize("change", [{"run_id": "other"}, {"state": b"junk"}])
def test_a_snapshot_that_does_not_fit_is_passed_over_with_a_note(
    logged: Any, change: dict[str, Any]
) -> None:
    async def body() -> HistoryReader:
        await half(logged)
        run = (await open_history(logged.bus, "t")).history
        snapshot = vars(snapshot_of(run, 2)) | change
        await write_snapshot(logged.bus, "t", Snapshot(**snapshot))
        reader = await open_history(logged.bus, "t")
        await reader.poll()
        return reader

    reader = asyncio.run(body())
    assert 2 == reader.history.version
    assert 1 == len(reader.notes)
    assert "snapshot 2 of the history was passed over" in reader.notes[0]


def test_a_history_of_all_rows_reads_no_snapshot(logged: Any) -> None:
    async def body() -> HistoryReader:
        await half(logged)
        return await open_history(logged.bus, "t", rows_max=None)

    reader = asyncio.run(body())
    assert reader.tally.record_count > 5
    assert [1, 2] == [row.version for row in reader.history.versions]
