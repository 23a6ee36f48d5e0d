"""The fold: what messages make of the view."""

from typing import Any

import numpy as np

from cos2p import messages as m
from cos2p.messages import Outcome
from cos2p_cli.run_view import RunView


def folded(*timed: tuple[float, m.Message]) -> RunView:
    view = RunView()
    for at_s, message in timed:
        view.apply(message, at_s)
    return view


def begun(script: Any) -> list[tuple[float, m.Message]]:
    return [(100.0, x) for x in (script.requested(), *script.started(), script.hello("w0"))]


def test_a_run_goes_from_requested_to_running_to_finished(script: Any) -> None:
    view = RunView()
    phases = [view.phase]
    for message in (script.requested(), *script.started(), script.ended(), script.finished()):
        view.apply(message, 1.0)
        phases.append(view.phase)

    assert ["empty", "requested", "requested", "running", "ending", "finished"] == phases


def test_an_admitted_update_ends_its_plan_and_counts_its_staleness(script: Any) -> None:
    view = folded(
        *begun(script),
        (101, script.issued("p1", "w0")),
        (105, script.report("p1", "w0")),
        (106, script.admitted("p1", "w0", staleness=2)),
    )

    row = view.workers["w0"]
    assert row.plan is None
    assert {Outcome.ACCEPTED: 1} == dict(row.tally.outcomes)
    assert {2: 1} == dict(view.staleness)
    assert (7_000, 6_500) == (row.tally.peak_predicted, row.tally.peak_measured)
    assert (3.0, 1.0) == (row.tally.busy_s, row.tally.idle_s)


def test_a_newer_plan_is_not_ended_by_the_refusal_of_an_older_one(script: Any) -> None:
    refused = m.UpdateRefused(
        run_id="r1",
        epoch=1,
        fleet_offset=0,
        at_s=0.0,
        plan_id="p1",
        worker_id="w0",
        outcome=Outcome.DUPLICATE,
        reason="twice",
    )
    view = folded(*begun(script), (101, script.issued("p2", "w0")), (102, refused))

    plan = view.workers["w0"].plan
    assert plan is not None
    assert "p2" == plan.plan_id


def test_coverage_counts_merged_updates_per_unit_and_version(script: Any) -> None:
    view = folded(
        *begun(script),
        (101, script.issued("p1", "w0", trained=(0, 1, 2))),
        (102, script.issued("p2", "w1", trained=(0, 4, 5))),
        (103, script.admitted("p1", "w0")),
        (104, script.closed(1)),
        (105, script.admitted("p2", "w1")),
        (106, script.closed(2)),
    )

    expected = np.array([[1, 1], [1, 0], [1, 0], [0, 0], [0, 1], [0, 1], [0, 0]])
    assert np.array_equal(expected, view.coverage())


def test_a_fenced_planner_leaves_no_trace(script: Any) -> None:
    old = script.closed(9)
    script.epoch = 2
    view = folded(*[(1.0, x) for x in script.started()], (2.0, old))

    assert 0 == view.version


def test_the_eta_follows_the_pace_of_the_versions(script: Any) -> None:
    view = folded(*begun(script), (110, script.closed(1)), (120, script.closed(2)))

    assert 20.0 == view.eta_s(120.0)
    assert 15.0 == view.eta_s(125.0)


def test_a_silent_device_is_shown_as_lost(script: Any) -> None:
    view = folded(*begun(script))

    row = view.workers["w0"]
    assert "idle" == row.shown_state(110, 15)
    assert "lost" == row.shown_state(116, 15)


def test_a_device_that_started_again_is_counted(script: Any) -> None:
    view = folded(
        *begun(script), (101, script.hello("w0")), (102, script.hello("w0", incarnation=2))
    )

    assert 2 == view.workers["w0"].start_count


def test_accuracy_is_kept_in_the_order_of_versions(script: Any) -> None:
    view = folded(*begun(script), (101, script.evaluated(2, 0.8)), (102, script.evaluated(1, 0.5)))

    assert [1, 2] == [p.version for p in view.accuracy]


def test_spans_of_a_report_lie_back_to_back_before_it(script: Any) -> None:
    view = folded(*begun(script), (110, script.report("p1", "w0")))

    assert [
        ("upload", 109.5, 110),
        ("train", 107.5, 109.5),
        ("fetch", 107.0, 107.5),
        ("idle", 106.0, 107.0),
    ] == [(s.activity, s.start_s, s.end_s) for s in view.spans]
