"""The fold of a run: what it says, that order and snapshots change nothing, that it stays small."""

from typing import Any

import numpy as np
import pytest
from fed import Fed
from hand_run import CORE0, HEAD0, HEAD1, Writer
from random_run import RandomRun

from cos2p.history.curve import POINTS_MAX
from cos2p.history.device import natural
from cos2p.history.run import RunHistory
from cos2p.history.state import HistoryState
from cos2p.log import messages as m
from cos2p.log.mailbox import Letter
from cos2p.log.messages import Outcome
from cos2p.log.snapshots import tail_of
from cos2p.log.state_codec import pack, unpack
from cos2p.log.topics import FLEET
from cos2p.run_config import RoundConfig, RunConfig


@pytest.fixture
def writer() -> Writer:
    return Writer().begin()


def packed(run: RunHistory) -> bytes:
    return pack(HistoryState, run.state)


# ------------------------------------------------------------ orders and snapshots


@pytest.mark.parametrize("seed", range(40))
def test_whatever_order_respects_causes_gives_the_same_bytes(seed: int) -> None:
    log = RandomRun(seed)
    whole = RunHistory(rows_max=5)
    for entry in log.canonical():
        entry.give(whole)

    for other in range(4):
        run = RunHistory(rows_max=5)
        for entry in log.shuffled(other):
            entry.give(run)

        assert packed(whole) == packed(run)
        assert whole.positions == run.positions


@pytest.mark.parametrize("seed", range(20))
def test_a_history_goes_on_from_a_snapshot_taken_anywhere(seed: int) -> None:
    log = RandomRun(seed).shuffled(seed)
    whole = RunHistory(rows_max=5)
    for entry in log:
        entry.give(whole)

    for cut in range(0, len(log), 7):
        run = RunHistory(rows_max=5)
        for entry in log[:cut]:
            entry.give(run)
        state = unpack(HistoryState, packed(run))
        run = RunHistory.from_state(state, run.positions, rows_max=5)
        for entry in log[max(0, cut - 5) :]:  # what it has is passed over
            entry.give(run)

        assert packed(whole) == packed(run)
        assert whole.positions == run.positions


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_nobody_would_see_need_not_be_made(seed: int) -> None:
    log = RandomRun(seed).canonical()
    whole = RunHistory(rows_max=2)
    for entry in log:
        entry.give(whole)

    run = RunHistory(rows_max=2)
    run.rows_from = whole.version - 1
    for entry in log:
        entry.give(run)

    assert packed(whole) == packed(run)


def test_heartbeats_leave_no_trace_in_the_state(writer: Writer) -> None:
    writer.hello("a", None)
    before = packed(writer.folded())
    writer.append_message(m.Heartbeat, worker_id="a", incarnation=1, state="training")
    writer.append_message(m.Heartbeat, worker_id="b", incarnation=1, state="training")

    run = writer.folded()

    assert before == packed(run)
    assert "training" == run.state_of(run.devices["a"], writer.now)


def test_a_position_knows_its_last_record_again(writer: Writer) -> None:
    run = RunHistory()
    run.take(Letter(FLEET, 4, 1.0, writer.log[0][1], b"value"))

    assert (5, tail_of(b"value")) == (run.positions["fleet"].offset, run.positions["fleet"].tail)


def long_run(versions: int) -> Fed:
    """Two devices; each version has an update of each, a refusal and a verdict."""
    writer = Writer(RunConfig(rounds=RoundConfig(versions=10**6))).begin()
    for worker in ("a", "b"):
        writer.hello(worker, (1, 2))
    for version in range(1, versions + 1):
        for worker in ("a", "b"):
            plan = writer.plan(
                f"p{version}{worker}", worker, (CORE0, HEAD0), base_version=version - 1
            )
            writer.dispatched(plan)
            writer.admit(plan)
        writer.plan(f"p{version}c", "a", (CORE0, HEAD1))
        gone = {"plan_id": f"p{version}c", "worker_id": "a", "reason": "silent"}
        writer.append_message(m.PlanCancelled, outcome="expired", **gone)
        writer.close(version)
        writer.publish(version, decisions_offset=len(writer.log))
        writer.append_message(
            m.Evaluated, evaluator_id="e", version=version, sample_count=9, loss=1.0
        )
    return writer.folded()


def test_the_state_does_not_grow_with_the_versions() -> None:
    """Numbers take a byte or two more, and the curve of verdicts has its bound."""
    short, long = (len(packed(long_run(n))) for n in (POINTS_MAX + 100, 2 * POINTS_MAX))

    assert long < 1.02 * short


def test_no_plan_is_kept_that_has_ended_and_that_every_shard_has_passed() -> None:
    assert {} == long_run(20).state.plans


# ------------------------------------------------------------ the curve


def test_a_curve_is_thinned_evenly_and_keeps_the_newest_verdict(writer: Writer) -> None:
    count = 3 * POINTS_MAX
    for version in range(1, count + 1):
        writer.append_message(
            m.Evaluated, evaluator_id="e", version=version, sample_count=9, loss=1.0
        )

    versions = [p.version for p in writer.folded().accuracy]

    assert count == versions[-1]
    assert POINTS_MAX / 2 < len(versions) <= POINTS_MAX
    assert {4} == set(np.diff(versions[:-1]).tolist())


def test_a_history_that_keeps_all_keeps_the_whole_curve(writer: Writer) -> None:
    for version in range(1, POINTS_MAX + 10):
        writer.append_message(
            m.Evaluated, evaluator_id="e", version=version, sample_count=9, loss=1.0
        )

    assert POINTS_MAX + 9 == len(writer.folded(rows_max=None).accuracy)


def test_verdicts_are_in_the_order_of_versions(writer: Writer) -> None:
    for version in (2, 1, 3, 2):
        writer.append_message(
            m.Evaluated, evaluator_id="e", version=version, sample_count=9, loss=1.0
        )

    assert [1, 2, 3] == [p.version for p in writer.folded().accuracy]


# ------------------------------------------------------------ the run


def test_a_run_goes_from_requested_to_running_to_finished(writer: Writer) -> None:
    run, phases = Fed(), []
    writer.append_message(m.RunEnded, version=4, reason="target")
    writer.append_message(m.RunFinished, decisions_offset=3, version=4, reason="target")
    for at_s, message in writer.log:
        run.apply(message, at_s)
        phases.append(run.phase)

    assert ["requested", "requested", "running", "ending", "finished"] == phases


def test_a_later_request_changes_nothing_of_a_run(writer: Writer) -> None:
    other = writer.log[0][1].model_copy(update={"task": "c:d"})
    writer.log.append((99.0, other))

    assert "a:b" == writer.folded().task


def test_the_eta_follows_the_pace_of_the_versions() -> None:
    writer = Writer(RunConfig(rounds=RoundConfig(versions=4))).begin()
    writer.close(1)
    closed_s = writer.now + 10
    writer.now += 9
    writer.close(2)
    run = writer.folded()

    assert 20.0 == run.eta_s(closed_s)
    assert 15.0 == run.eta_s(closed_s + 5)


def test_coverage_counts_merged_updates_per_unit_and_version(writer: Writer) -> None:
    for version, head in enumerate((HEAD0, HEAD1), 1):
        writer.admit(writer.plan(f"p{version}", "a", (CORE0, head)))
        writer.close(version)

    expected = np.array([[1, 1], [1, 1], [1, 0], [0, 1], [0, 0], [0, 0]])
    assert np.array_equal(expected, writer.folded().coverage())


def test_a_newer_plan_is_not_ended_by_the_refusal_of_an_older_one(writer: Writer) -> None:
    writer.plan("p2", "a", (CORE0, HEAD0))
    gone = {"plan_id": "p1", "worker_id": "a", "reason": "twice"}
    writer.append_message(m.UpdateRefused, outcome=Outcome.DUPLICATE, **gone)
    run = writer.folded()

    assert ("p2", 1) == (run.devices["a"].plan_id, run.plans_open)


def test_a_refused_duplicate_ends_no_open_plan(writer: Writer) -> None:
    """Any device may name any plan in a report."""
    plan = writer.plan("p1", "a", (CORE0, HEAD0))
    for worker in ("a", "b"):
        ids = {"plan_id": "p1", "worker_id": worker, "reason": "not now"}
        writer.append_message(m.UpdateRefused, outcome=Outcome.DUPLICATE, **ids)
    run = writer.folded()
    assert ("p1", 1) == (run.devices["a"].plan_id, run.plans_open)

    writer.admit(plan)
    writer.close(1)

    assert writer.folded().coverage().any()


def test_bytes_are_those_of_records_and_of_the_blobs_that_they_name(writer: Writer) -> None:
    """The request's blob is version 0's; each record of the test is one byte long."""
    run = writer.folded()

    assert {"decisions": 2, "fleet": 1, "t": 1} == run.state.byte_counts


def test_spans_of_a_report_lie_back_to_back_before_it(writer: Writer) -> None:
    spent: dict[str, Any] = {"upload_s": 0.5, "train_s": 2.0, "fetch_s": 0.5, "idle_s": 1.0}
    writer.now = 109.0
    writer.append_message(
        m.Report, worker_id="a", incarnation=1, plan_id="p", status="done", **spent
    )

    assert [
        ("upload", 109.5, 110),
        ("train", 107.5, 109.5),
        ("fetch", 107.0, 107.5),
        ("idle", 106.0, 107.0),
    ] == [(s.activity, s.start_s, s.end_s) for s in writer.folded(rows_max=None).state.spans]
    assert [] == writer.folded().state.spans


# ------------------------------------------------------------ devices now


def test_devices_are_listed_in_the_order_of_their_numbers(writer: Writer) -> None:
    for worker in ("worker-10", "worker-9", "b2-1", "worker"):
        writer.hello(worker, None)

    assert ["b2-1", "worker", "worker-9", "worker-10"] == list(writer.folded().devices)
    assert natural("2") < natural("10")


def test_a_silent_device_is_lost_until_its_heartbeat_is_read(writer: Writer) -> None:
    writer.hello("a", None)
    lost_s = writer.now + 11
    before = writer.folded()
    writer.now += 9
    writer.append_message(m.Heartbeat, worker_id="a", incarnation=1, state="idle")
    after = writer.folded()

    assert "lost" == before.state_of(before.devices["a"], lost_s)
    assert "idle" == after.state_of(after.devices["a"], lost_s)


def test_a_heartbeat_from_before_the_report_says_nothing_of_now(writer: Writer) -> None:
    writer.hello("a", None)
    writer.append_message(m.Heartbeat, worker_id="a", incarnation=1, state="uploading")
    writer.append_message(m.Report, worker_id="a", incarnation=1, plan_id="p", status="done")
    run = writer.folded()

    assert "idle" == run.state_of(run.devices["a"], writer.now)


def test_no_device_is_lost_after_the_end(writer: Writer) -> None:
    writer.hello("a", None)
    writer.append_message(m.RunEnded, version=0, reason="stopped")
    run = writer.folded()

    assert "idle" == run.state_of(run.devices["a"], writer.now + 1000)


def test_a_device_that_left_and_came_back_is_there_again(writer: Writer) -> None:
    writer.hello("a", None)
    writer.append_message(m.Goodbye, worker_id="a", incarnation=1)
    left = writer.folded()
    writer.hello("a", None, incarnation=2)
    back = writer.folded()

    assert "left" == left.state_of(left.devices["a"], writer.now)
    assert ("idle", 2) == (
        back.state_of(back.devices["a"], writer.now),
        back.devices["a"].starts,
    )


def test_an_excluded_device_is_shown_as_such_once_it_has_no_plan(writer: Writer) -> None:
    writer.hello("a", None)
    plan = writer.plan("p1", "a", (CORE0, HEAD0))
    writer.append_message(m.DeviceExcluded, worker_id="a", reason="it has no samples")
    busy = writer.folded()
    writer.admit(plan)
    idle = writer.folded()
    writer.append_message(m.DeviceAdmitted, worker_id="a")
    admitted = writer.folded()

    shown = [run.state_of(run.devices["a"], writer.now) for run in (busy, idle, admitted)]
    assert ["planned", "excluded", "idle"] == shown
    assert ("it has no samples", None) == (
        idle.devices["a"].excluded,
        admitted.devices["a"].excluded,
    )


def test_a_devices_share_is_that_of_the_updates_merged(writer: Writer) -> None:
    for i, worker in enumerate("aab"):
        writer.admit(writer.plan(f"p{i}", worker, (CORE0, HEAD0)))
    run = writer.folded()

    shares = [device.merged_share(run.state.staleness) for device in run.devices.values()]
    assert [pytest.approx(2 / 3), pytest.approx(1 / 3)] == shares
