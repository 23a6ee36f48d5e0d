"""The planner's process body on a bus in memory: taking over, deciding, leaving."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from planner_ring import Ring, stage_of

from cos2p.errors import FencedError, RunFailedError
from cos2p.log import messages as m
from cos2p.log.bus import NewRecord
from cos2p.log.topics import specs


def test_a_run_goes_from_request_to_target(new_stage: Callable[..., Any]) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage))
        await ring.ask()
        async with ring.planner() as task:
            await ring.hello()
            for number in range(1, 4):
                issued = await ring.until(m.PlanIssued, number)
                await ring.fleet.send(ring.stage.report_of(issued.plan))
            await asyncio.wait_for(task, 10)
        await ring.until(m.RunEnded)
        return ring

    ring = asyncio.run(play())

    assert [1, 2, 3] == [d.version for d in ring.seen if isinstance(d, m.RoundClosed)]
    assert isinstance(ring.seen[0], m.EpochStarted)
    assert isinstance(ring.seen[-1], m.RunEnded)
    assert {"run_started", "version_closed", "run_ended"} <= set(ring.notes.events())


def test_a_report_is_decided_within_milliseconds(new_stage: Callable[..., Any]) -> None:
    async def play() -> list[float]:
        ring = Ring(new_stage({"rounds": {"versions": 100}}))
        await ring.ask()
        waits = []
        async with ring.planner():
            await ring.hello()
            for number in range(1, 31):
                issued = await ring.until(m.PlanIssued, number)
                began = time.perf_counter()
                await ring.fleet.send(ring.stage.report_of(issued.plan))
                await ring.until(m.PlanIssued, number + 1)
                waits.append(time.perf_counter() - began)
        return waits

    assert 0.03 > np.median(asyncio.run(play()))


def test_a_planner_killed_between_decisions_is_followed_by_one_that_goes_on(
    new_stage: Callable[..., Any],
) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage))
        await ring.ask()
        async with ring.planner():
            await ring.hello()
            first = await ring.until(m.PlanIssued)
        await ring.fleet.send(ring.stage.report_of(first.plan))
        async with ring.planner():
            second = await ring.until(m.PlanIssued, 2)
        assert ("p000002", 1) == (second.plan.plan_id, second.plan.base_version)
        return ring

    ring = asyncio.run(play())

    assert [1, 2] == [d.epoch for d in ring.seen if isinstance(d, m.EpochStarted)]
    assert 1 == sum(isinstance(d, m.RunStarted) for d in ring.seen)
    assert 1 == sum(isinstance(d, m.UpdateAdmitted) for d in ring.seen)


def test_of_two_planners_the_older_leaves(new_stage: Callable[..., Any]) -> None:
    async def play() -> None:
        ring = Ring(stage_of(new_stage))
        await ring.ask()
        async with ring.planner("a") as older:
            await ring.until(m.RunStarted)
            async with ring.planner("b") as newer:
                with pytest.raises(FencedError, match=r"planner b\..* has taken over"):
                    await asyncio.wait_for(older, 10)
                await ring.hello()
                assert 2 == (await ring.until(m.PlanIssued)).epoch
                assert not newer.done()

    asyncio.run(play())


def test_a_stalled_run_is_foretold_and_then_fails_by_name(new_stage: Callable[..., Any]) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage, liveness={"stall_after_s": 0.6}))
        await ring.ask()
        with pytest.raises(RunFailedError, match="no device has sent a Hello"):
            await asyncio.wait_for(ring.plan(), 20)
        return ring

    ring = asyncio.run(play())

    assert ring.watch.free_count
    assert any("run: no version after 0" in text for text in ring.watch.blockers)
    warnings = [fields for event, fields in ring.notes.logged if event == "run_stalled"]
    assert 1 == len(warnings)
    assert "no device has sent a Hello" in warnings[0]["detail"]


def test_a_planner_started_after_a_failed_run_says_so_again(
    new_stage: Callable[..., Any],
) -> None:
    async def play() -> None:
        ring = Ring(stage_of(new_stage, liveness={"stall_after_s": 0.1}))
        await ring.ask()
        for _ in range(2):
            with pytest.raises(RunFailedError):
                await asyncio.wait_for(ring.plan(), 20)

    asyncio.run(play())


def test_a_planner_waits_for_a_run_and_leaves_when_asked(new_stage: Callable[..., Any]) -> None:
    async def play() -> None:
        ring = Ring(stage_of(new_stage))
        await ring.bus.create_topics(specs("t", 4))
        async with ring.planner() as task:
            done, _ = await asyncio.wait((task,), timeout=0.1)
            assert not done
            ring.stop.set()
            await asyncio.wait_for(task, 5)

    asyncio.run(play())


def test_a_planner_asked_to_stop_leaves_the_run_open(new_stage: Callable[..., Any]) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage))
        await ring.ask()
        async with ring.planner() as task:
            await ring.until(m.RunStarted)
            ring.stop.set()
            await asyncio.wait_for(task, 5)
        return ring

    assert not any(isinstance(d, m.RunEnded) for d in asyncio.run(play()).seen)


def test_an_unreadable_record_on_fleet_stops_nothing(new_stage: Callable[..., Any]) -> None:
    async def play() -> None:
        ring = Ring(stage_of(new_stage))
        await ring.ask()
        async with ring.planner():
            await ring.until(m.RunStarted)
            await ring.bus.append("t-fleet", 0, [NewRecord(b"\xc1 no message")])
            await ring.hello()
            await ring.until(m.PlanIssued)

    asyncio.run(play())


def test_a_record_refused_while_a_run_is_awaited_is_told_at_once_and_buried_once(
    new_stage: Callable[..., Any],
) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage))
        ring.liar = "mallory"
        await ring.bus.create_topics(specs("t", 4))
        async with ring.planner():
            await ring.leave("mallory")
            await asyncio.wait_for(ring.watch.has_refused.wait(), 10)
            await ring.ask_late()
            await ring.hello()
            await ring.until(m.PlanIssued)
        assert [0] == await ring.buried()
        return ring

    ring = asyncio.run(play())

    assert 1 == ring.watch.refused_count
    assert 1 == ring.notes.events().count("record_refused")


def test_a_planner_that_restarts_does_not_bury_again_what_was_decided_over(
    new_stage: Callable[..., Any],
) -> None:
    async def play() -> None:
        ring = Ring(stage_of(new_stage))
        ring.liar = "mallory"
        await ring.ask()
        async with ring.planner():
            await ring.until(m.RunStarted)
            await ring.leave("mallory")
            await ring.hello()
            await ring.until(m.PlanIssued)
        before = await ring.buried()
        async with ring.planner():
            await ring.until(m.EpochStarted, 2)
            await ring.hello("w2")
            await ring.until(m.PlanIssued, 2)
        assert before == await ring.buried()
        assert 1 == len(before)

    asyncio.run(play())


def test_a_device_that_is_refused_again_and_again_is_counted_and_told_ever_more_seldom(
    new_stage: Callable[..., Any],
) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage))
        ring.liar = "mallory"
        await ring.ask()
        async with ring.planner():
            await ring.until(m.RunStarted)
            for _ in range(40):
                await ring.leave("mallory")
            await ring.hello()
            await ring.until(m.PlanIssued)
        assert 10 == len(await ring.buried())
        return ring

    ring = asyncio.run(play())

    assert 40 == ring.watch.refused_count
    numbers = [fields["number"] for event, fields in ring.notes.logged if event == "record_refused"]
    assert [*range(1, 11), 16, 32] == numbers


def test_a_planner_shows_its_watch_the_history_of_the_run_also_after_a_restart(
    new_stage: Callable[..., Any],
) -> None:
    async def play() -> Ring:
        ring = Ring(stage_of(new_stage))
        await ring.ask()
        async with ring.planner():
            await ring.hello()
            first = await ring.until(m.PlanIssued)
        await ring.fleet.send(ring.stage.report_of(first.plan))
        async with ring.planner():
            await ring.until(m.PlanIssued, 2)
            await ring.shown(lambda history: history.version == 1 and history.plan_count == 2)
        return ring

    history = asyncio.run(play()).watch.history

    assert history is not None
    assert 1 == history.state.devices["w1"].outcomes[m.Outcome.ACCEPTED]
