"""A planner that starts from a snapshot, from a bad one, and from none."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from planner_ring import Ring, stage_of

from cos2p.clock import SystemClock
from cos2p.errors import DivergedError
from cos2p.log import codec
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord, Offsets
from cos2p.log.buses.memory import MemoryBus
from cos2p.log.mailbox import Mailbox, Outbox
from cos2p.log.snapshots import Snapshot, snapshots_of
from cos2p.log.state_codec import pack
from cos2p.log.topics import DECISIONS, FLEET, SNAPSHOTS
from cos2p_planner.fold import PlannerState
from cos2p_planner.snapshot_check import Comparison, compare_snapshots

New = Callable[..., Any]
TOPIC = SNAPSHOTS.full_name("t")


def ring_of(new_stage: New) -> Ring:
    return Ring(stage_of(new_stage, rounds={"versions": 50}), snapshot_records=1)


async def work(ring: Ring, versions: int) -> None:
    """One life of a planner, in which some versions are made and a snapshot follows the last."""
    async with ring.planner():
        await ring.until(m.EpochStarted, ring.count(m.EpochStarted) + 1)
        for _ in range(versions):
            plan = (await ring.until(m.PlanIssued, ring.count(m.RoundClosed) + 1)).plan
            await ring.fleet.send(ring.stage.report_of(plan))
            await ring.until(m.RoundClosed, ring.count(m.RoundClosed) + 1)
        await ring.until(m.PlanIssued, ring.count(m.RoundClosed) + 1)
        await caught_up(ring)


async def caught_up(ring: Ring) -> None:
    """Until the newest snapshot has read all decisions."""
    end = (await ring.bus.end_offsets("t-decisions"))[0].next
    async with asyncio.timeout(20):
        while not (found := await written(ring)) or found[0].positions["decisions"].offset < end:
            offset = (await ring.bus.end_offsets(TOPIC))[0].next
            await ring.bus.read(TOPIC, 0, offset, wait_s=0.05)


async def written(ring: Ring) -> list[Snapshot]:
    return await snapshots_of(ring.bus, "t", "planner", lambda number, reason: None)


def starts(ring: Ring) -> list[dict[str, Any]]:
    """What each planner said when it had taken over."""
    return [fields for event, fields in ring.notes.logged if event == "epoch_started"]


def play(new_stage: New, body: Callable[[Ring], Any]) -> Ring:
    async def whole() -> Ring:
        ring = ring_of(new_stage)
        await ring.ask()
        await ring.hello()
        await work(ring, 5)
        await body(ring)
        return ring

    return asyncio.run(whole())


def test_a_restart_reads_the_records_behind_the_snapshot_only(new_stage: New) -> None:
    ring = play(new_stage, lambda ring: work(ring, 1))

    first, second = starts(ring)
    assert first["snapshot"] is None
    assert 5 == second["version"]
    assert 1 == second["records"]  # its own EpochStarted


class LateBus(MemoryBus):
    """Records that come after the end of their topic was asked for, and before it is read."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.late: list[m.Message] = []
        self.epochs = 0

    async def append(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[int]:
        kinds = [record.headers.get(codec.NAME_HEADER) for record in records]
        self.epochs += kinds.count(b"EpochStarted")
        return await super().append(topic, partition, records)

    async def end_offsets(self, topic: str) -> dict[int, Offsets]:
        if topic != "t-fleet" or not self.late or self.epochs < 2:
            return await super().end_offsets(topic)
        (in_time, *late), self.late = self.late, []
        await self.append(topic, 0, [codec.encode(in_time)])
        ends = await super().end_offsets(topic)
        await self.append(topic, 0, [codec.encode(message) for message in late])
        return ends


def test_what_comes_while_a_planner_takes_over_is_answered(new_stage: New) -> None:
    async def body() -> None:
        ring = ring_of(new_stage)
        ring.bus = bus = LateBus()
        ring.fleet = Outbox(bus, "t", FLEET)
        ring.decisions = Mailbox(bus, "t", DECISIONS, reader="test", run_id="run-1")
        await ring.ask()
        await ring.hello()
        async with ring.planner():
            first = (await ring.until(m.PlanIssued)).plan
        gone = m.Goodbye(run_id="run-1", worker_id="w9", incarnation=1)
        bus.late = [gone, ring.stage.report_of(first)]
        async with ring.planner():
            await ring.until(m.UpdateAdmitted)

    asyncio.run(body())


def test_the_snapshots_of_a_run_equal_the_fold_of_its_log(new_stage: New) -> None:
    async def body(ring: Ring) -> None:
        await work(ring, 3)
        found = await written(ring)

        compared = await compare_snapshots(ring.bus, "t", found)

        assert [Comparison(s.of, s.number, True) for s in reversed(found)] == compared
        assert found

    play(new_stage, body)


def test_a_snapshot_that_is_not_the_fold_of_the_log_is_named(new_stage: New) -> None:
    async def body(ring: Ring) -> None:
        newest = (await written(ring))[0]
        state = pack(PlannerState, PlannerState())
        wrong = Snapshot("planner", 99, newest.run_id, newest.positions, state)

        with pytest.raises(DivergedError, match="snapshot 99 of the planner of run run-1 differs"):
            await compare_snapshots(ring.bus, "t", [wrong])

    play(new_stage, body)


def test_without_snapshots_the_log_is_folded_from_its_start(new_stage: New) -> None:
    async def body(ring: Ring) -> None:
        end = (await ring.bus.end_offsets(TOPIC))[0].next
        ring.bus.expire(TOPIC, 0, end)
        await work(ring, 1)

    ring = play(new_stage, body)

    assert starts(ring)[-1]["snapshot"] is None
    assert 5 == starts(ring)[-1]["version"]
    assert 20 < starts(ring)[-1]["records"]


def test_a_newest_snapshot_that_was_altered_is_passed_over_with_one_line(new_stage: New) -> None:
    async def body(ring: Ring) -> None:
        for record in await ring.bus.read(TOPIC, 0, 0):
            part = codec.decode(record)
            assert isinstance(part, m.SnapshotPart)
            if part.number == (await written(ring))[0].number:
                altered = part.model_copy(update={"body": part.body[:-1] + b"?"})
                await ring.bus.append(TOPIC, 0, [codec.encode(altered)])
        await work(ring, 1)

    ring = play(new_stage, body)

    skipped = [fields for event, fields in ring.notes.logged if event == "snapshot_skipped"]
    assert ["its bytes do not match its digest"] == [fields["reason"] for fields in skipped]
    assert 5 == starts(ring)[-1]["version"]


def test_a_state_that_this_program_can_t_read_is_passed_over(new_stage: New) -> None:
    async def body(ring: Ring) -> None:
        newest = (await written(ring))[0]
        for number in (newest.number + 1, newest.number + 2):
            for of in ("history", "planner"):
                await ring.write(Snapshot(of, number, "run-1", newest.positions, b"\x80"))
        await work(ring, 1)

    ring = play(new_stage, body)

    assert "snapshot_skipped" in ring.notes.events()
    assert starts(ring)[-1]["snapshot"] is None
    assert 5 == starts(ring)[-1]["version"]


def test_a_planner_that_was_replaced_writes_no_snapshot_of_what_no_longer_counts(
    new_stage: New,
) -> None:
    """Its last decisions are void: a snapshot that holds them would be wrong for ever."""

    async def body(ring: Ring) -> None:
        async with ring.planner("a"), ring.planner("b"):
            await ring.until(m.EpochStarted, 3)
            plan = [d.plan for d in ring.seen if isinstance(d, m.PlanIssued)][-1]
            await ring.fleet.send(ring.stage.report_of(plan))
            await ring.until(m.RoundClosed, 6)
            await caught_up(ring)
        compared = await compare_snapshots(ring.bus, "t", await written(ring))
        assert all(c.compared for c in compared)

    play(new_stage, body)


def test_a_log_that_is_shorter_than_its_snapshot_is_folded_from_its_start(new_stage: New) -> None:
    """As after a restore of an older copy of the topics."""

    async def body(ring: Ring) -> None:
        copy = ring_of(new_stage)
        await copy.ask()
        for record in await ring.bus.read("t-fleet", 0, 1):
            await copy.bus.append("t-fleet", 0, [NewRecord(record.value, headers=record.headers)])
        for record in (await ring.bus.read("t-decisions", 0, 0))[:4]:
            new = NewRecord(record.value, headers=record.headers)
            await copy.bus.append("t-decisions", 0, [new])
        for snapshot in reversed(await written(ring)):
            await copy.write(snapshot)
        async with copy.planner():
            await copy.until(m.EpochStarted, 2)
        assert starts(copy)[-1]["snapshot"] is None
        skipped = [f for event, f in copy.notes.logged if event == "snapshot_skipped"]
        assert "it is ahead of" in skipped[0]["reason"]

    play(new_stage, body)
