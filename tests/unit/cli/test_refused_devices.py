"""Devices that get no plans: the planner writes no record of that, the log tells all the same."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cos2p import messages as m
from cos2p.messages import Outcome
from cos2p_cli.run_reader import RunReader
from cos2p_cli.run_view import RunView


def read(logged: Any, *polls: Sequence[m.Message]) -> RunReader:
    """A reader that has polled after each of these groups of messages."""

    async def body() -> RunReader:
        await logged.create()
        reader = RunReader(logged.bus, "t", judging=True)
        for messages in polls:
            await logged.tell(*messages)
            await reader.poll()
        return reader

    return asyncio.run(body())


def view_of(logged: Any, *messages: m.Message) -> RunView:
    s = logged.script
    return read(logged, [s.requested(), *s.started(), s.opened(), s.published(0), *messages]).view


def refusal(script: Any, plan_id: str, outcome: Any) -> m.UpdateRefused:
    return m.UpdateRefused(
        run_id="r1",
        epoch=script.epoch,
        fleet_offset=0,
        at_s=0.0,
        plan_id=plan_id,
        worker_id="w0",
        outcome=outcome,
        reason="",
    )


def invalid(script: Any, *plan_ids: str) -> list[m.Message]:
    """Plans of w0 whose reports fail the planner's checks."""
    found: list[m.Message] = []
    for p in plan_ids:
        found += [script.issued(p, "w0"), script.report(p, "w0")]
        found += [refusal(script, p, Outcome.INVALID)]
    return found


def out_of_memory(script: Any, plan_id: str) -> m.Report:
    changes = {"status": "out_of_memory", "blob": None}
    report: m.Report = script.report(plan_id, "w0").model_copy(update=changes)
    return report


def left_out(script: Any, version: int, plan_id: str) -> list[m.Message]:
    """A plan whose update is merged but for a unit that failed the aggregator's checks."""
    bad = m.LeftOut(plan_id=plan_id, worker_id="w0", unit=1, reason="norm")
    return [
        script.issued(plan_id, "w0", base=version - 1),
        script.report(plan_id, "w0"),
        script.admitted(plan_id, "w0"),
        script.closed(version),
        script.published(version).model_copy(update={"left_out": (bad,)}),
    ]


def state(view: RunView, worker_id: str = "w0") -> tuple[str, str]:
    """What is shown of a device now, and why it is refused."""
    row = view.workers[worker_id]
    return row.shown_state(view.last_s, 15), row.refused


def test_a_device_that_may_be_planned_for_is_not_refused(logged: Any) -> None:
    assert ("idle", "") == state(view_of(logged, logged.script.hello("w0")))


def test_a_device_with_too_little_memory_is_refused_with_the_bytes_that_would_do(
    logged: Any,
) -> None:
    shown, reason = state(view_of(logged, logged.script.hello("w0", memory=10)))

    assert "refused" == shown
    assert reason.startswith("its memory: a budget of 10 B is below the smallest submodel; ")
    assert reason.endswith("would do")


def test_a_device_of_another_version_is_refused(logged: Any) -> None:
    hello = logged.script.hello("w0").model_copy(update={"protocol": 2})

    shown, reason = state(view_of(logged, hello))

    assert "refused" == shown
    assert "it speaks protocol 2, this planner 1" in reason


def test_a_device_whose_reports_keep_failing_checks_is_refused(logged: Any) -> None:
    s = logged.script

    view = view_of(logged, s.hello("w0"), *invalid(s, "p1", "p2", "p3"))

    assert ("refused", "3 of its updates failed checks") == state(view)


def test_a_device_below_the_limit_of_failed_checks_is_not_refused(logged: Any) -> None:
    s = logged.script

    assert ("idle", "") == state(view_of(logged, s.hello("w0"), *invalid(s, "p1", "p2")))


def test_a_device_whose_units_keep_being_left_out_is_refused(logged: Any) -> None:
    s = logged.script
    merged = [message for v in (1, 2, 3) for message in left_out(s, v, f"p{v}")]

    shown = state(view_of(logged, s.hello("w0"), *merged))

    assert ("refused", "3 of its updates failed checks") == shown


def test_a_device_that_was_refused_gets_another_chance_when_it_starts_again(logged: Any) -> None:
    s = logged.script
    struck = invalid(s, "p1", "p2", "p3")

    view = view_of(logged, s.hello("w0"), *struck, s.hello("w0", incarnation=2))

    assert ("idle", "") == state(view)


def test_a_device_that_ran_out_of_memory_at_the_smallest_plan_is_refused(logged: Any) -> None:
    s = logged.script
    plan = [s.issued("p1", "w0"), out_of_memory(s, "p1"), refusal(s, "p1", Outcome.CANCELLED)]

    shown, reason = state(view_of(logged, s.hello("w0"), *plan))

    assert "refused" == shown
    assert "below the smallest submodel" in reason


def test_a_refused_device_that_still_has_a_plan_is_shown_with_what_it_does(logged: Any) -> None:
    s = logged.script
    beat = m.Heartbeat(run_id="r1", worker_id="w0", incarnation=1, state="training")

    view = view_of(logged, s.hello("w0"), *invalid(s, "p1", "p2", "p3"), s.issued("p4", "w0"), beat)

    assert ("training", "3 of its updates failed checks") == state(view)


def test_a_report_read_before_its_plan_counts_once_the_plan_is_read(logged: Any) -> None:
    """Decisions are read before the fleet: a plan issued and reported in between is not known."""
    s = logged.script
    begun = [s.requested(), *s.started(), s.opened(), s.hello("w0")]

    reader = read(logged, [*begun, out_of_memory(s, "p1")], [s.issued("p1", "w0")])

    assert "below the smallest submodel" in reader.view.workers["w0"].refused


def test_decisions_of_a_planner_that_was_replaced_strike_nobody(logged: Any) -> None:
    s = logged.script
    struck = invalid(s, "p1", "p2", "p3")
    s.epoch = 2

    view = view_of(logged, s.hello("w0"), *struck)

    assert ("idle", "") == state(view)


@pytest.mark.parametrize("gone", ["left", "lost"])
def test_a_refused_device_that_is_gone_is_shown_as_gone(logged: Any, gone: str) -> None:
    s = logged.script
    view = view_of(logged, s.hello("w0", memory=10))
    if gone == "left":
        view.apply(m.Goodbye(run_id="r1", worker_id="w0", incarnation=1), view.last_s)

    row = view.workers["w0"]
    assert gone == row.shown_state(view.last_s + (0 if gone == "left" else 60), 15)
    assert row.refused


def test_where_decisions_contradict_each_other_nobody_is_judged_and_it_is_said(
    logged: Any,
) -> None:
    s = logged.script
    twice = [s.issued("p1", "w0"), s.admitted("p1", "w0"), s.admitted("p1", "w0")]

    view = view_of(logged, s.hello("w0", memory=10), *twice)

    assert ("idle", "") == state(view)
    assert "p1" in view.unjudged
