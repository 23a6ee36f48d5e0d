"""The fold: a run small enough to work every quantity out by hand."""

from typing import Any

import numpy as np
import pytest
from hand_run import CONFIG, CORE0, CORE1, HEAD0, HEAD1, HEAD2, REF, Writer

from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.run_config import RoundConfig


@pytest.fixture
def writer() -> Writer:
    return Writer().begin()


def test_a_row_says_what_the_round_was(writer: Writer) -> None:
    writer.close(1, coverage_planned=3, coverage_bound=2.5, coverage_min=2, update_count=7)

    row = writer.row()

    assert (3, 2, 2.5) == (row.coverage_planned, row.coverage_min, row.coverage_bound)
    assert (7, "count", 4.0) == (row.update_count, row.reason, row.waited_s)
    assert writer.now == row.closed_s


def test_steps_and_staleness_are_those_of_the_updates_merged(writer: Writer) -> None:
    plans = [writer.plan(f"p{i}", f"w{i}", (CORE0, HEAD0)) for i in range(4)]
    for plan, steps, late in zip(plans[:3], (2, 3, 10), (0, 2, 2), strict=True):
        writer.admit(plan, steps_done=steps, staleness=late)
    writer.close(1)

    row = writer.row()

    assert (2, 5.0, 10) == (row.steps_min, row.steps_mean, row.steps_max)
    assert ((1, 0, 2), 2) == (row.staleness, row.staleness_max)
    assert pytest.approx(4 / 3) == row.staleness_mean
    assert {0: 1, 2: 2} == dict(writer.folded().state.staleness)


def test_a_version_without_updates_has_a_row_too(writer: Writer) -> None:
    writer.publish(0)
    writer.close(1)
    writer.publish(1)

    row = writer.row()

    assert (0, 0.0, 0) == (row.steps_min, row.steps_mean, row.steps_max)
    assert ((), 0.0, 0) == (row.staleness, row.staleness_mean, row.staleness_max)
    assert (None, None, None) == (
        row.label_distance_mean,
        row.gradient_proxy,
        row.pruning_noise_mean,
    )


def test_coverage_is_counted_over_the_window_of_versions(writer: Writer) -> None:
    """Window of 2. Version 3 sees versions 2 and 3: heads 1, 2 and 0 updates, Gini (2 + 1 + 1) * 2
    / (2 * 9 * 1) = 4/9."""
    for version, units in enumerate(([HEAD2], [HEAD0, HEAD1], [HEAD1]), 1):
        for i, head in enumerate(units):
            core = CORE1 if head == HEAD2 else CORE0
            writer.admit(writer.plan(f"p{version}{i}", "w", (core, head)))
        writer.close(version)

    row = writer.row(3)

    assert 0 == row.coverage_low
    assert pytest.approx(4 / 9) == row.coverage_gini
    assert [1, 1, 0, 1, 0, 0] == row.counts.tolist()


def test_the_devices_bound_is_what_the_planner_says(writer: Writer) -> None:
    writer.close(1, devices_bound=3)

    assert 3 == writer.row().devices_bound


def test_the_label_distance_is_that_of_the_units_trained_in_the_window(writer: Writer) -> None:
    """Everybody: 8 of label 0 and 8 of label 1. Head 0 saw (1, 0) at weight 3 and (1/4, 3/4) at
    weight 1, that is (13/16, 3/16): distance 5/16; head 1 the second alone: 1/4."""
    writer.hello("a", (6, 0))
    writer.hello("b", (2, 6))
    writer.hello("c", (0, 2))
    writer.admit(writer.plan("p1", "a", (CORE0, HEAD0)), weight=3.0)
    writer.close(1)
    writer.admit(writer.plan("p2", "b", (CORE0, HEAD0, HEAD1)), weight=1.0)
    writer.close(2)

    row = writer.row(2)

    assert pytest.approx((5 / 16 + 1 / 4) / 2) == row.label_distance_mean
    assert pytest.approx(5 / 16) == row.label_distance_max
    assert 0 == row.labels_withheld


def test_devices_that_keep_their_labels_are_left_out_and_counted(writer: Writer) -> None:
    writer.hello("a", (6, 2))
    writer.hello("b", None)
    for i, worker in enumerate("abb"):
        writer.admit(writer.plan(f"p{i}", worker, (CORE0, HEAD0)))
    writer.close(1)

    row = writer.row()

    assert (0.0, 1) == (row.label_distance_max, row.labels_withheld)


def test_where_nobody_tells_labels_there_is_no_distance(writer: Writer) -> None:
    writer.hello("a", None)
    writer.admit(writer.plan("p", "a", (CORE0, HEAD0)))
    writer.close(1)

    assert (None, None) == (writer.row().label_distance_mean, writer.row().label_distance_max)


def test_the_labels_are_those_announced_last_before_the_version_closed(writer: Writer) -> None:
    """Everybody: (8, 0) and (0, 8); device a trained the unit alone."""
    writer.hello("a", (4, 4))
    writer.hello("b", (0, 8))
    writer.hello("a", (8, 0), incarnation=2)
    writer.admit(writer.plan("p", "a", (CORE0, HEAD0)))
    writer.close(1)
    writer.hello("a", (4, 4), incarnation=3)

    assert pytest.approx(1 / 2) == writer.row().label_distance_max


def test_a_device_that_came_after_the_version_closed_is_not_counted(writer: Writer) -> None:
    """The fleet may be read ahead of the decisions on it."""
    writer.hello("a", (8, 0))
    writer.admit(writer.plan("p", "a", (CORE0, HEAD0)))
    writer.close(1)
    writer.hello("b", (0, 8))

    assert 0.0 == writer.row().label_distance_max


def test_pruning_noise_is_what_each_submodel_lacked_of_its_base_version(writer: Writer) -> None:
    """Of 16, the first lacks head 1 and block 1: 3; the second, with block 1 frozen, lacks 1."""
    writer.publish(0)
    first = writer.plan("p1", "a", (CORE0, HEAD0))
    second = writer.plan("p2", "b", (CORE0, HEAD0), frozen=(CORE1, HEAD2))
    writer.admit(first)
    writer.admit(second)
    writer.close(1)
    writer.publish(1, unit_norms=np.zeros(6, "<f4").tobytes())

    row = writer.row()

    assert pytest.approx(2 / 16) == row.pruning_noise_mean
    assert pytest.approx(3 / 16) == row.pruning_noise_max


def test_the_base_of_the_stalest_update_is_still_known() -> None:
    """staleness_max 1: an update on version 0 may be merged into version 2."""
    writer = Writer(CONFIG.model_copy(update={"rounds": RoundConfig(staleness_max=1)})).begin()
    late = writer.plan("p1", "a", (CORE0, HEAD0))
    for version in range(3):
        if version == 2:
            writer.admit(late, staleness=1)
        if version:
            writer.close(version)
        writer.publish(version)

    assert pytest.approx(3 / 16) == writer.row(2).pruning_noise_max


def test_norms_of_shards_add_up_by_squares(writer: Writer) -> None:
    """|step| = 2.5 = server_lr * |D|: |D|^2 = 25; sum of the mean squares 30."""
    for shard in (1, 0):
        writer.publish(0, shard, 2)
    writer.admit(writer.plan("p1", "a", (CORE0, HEAD0)))
    writer.close(1)
    writer.publish(1, 0, 2, step_norm=1.5, model_norm=3, delta_square=10)
    assert None is writer.row().step_norm
    writer.publish(1, 1, 2, step_norm=2.0, model_norm=4, delta_square=20)

    row = writer.row()

    assert (2.5, 5.0, 30.0) == (row.step_norm, row.model_norm, row.delta_square)
    assert pytest.approx(5.0) == row.dispersion
    assert pytest.approx(3 / 16) == row.pruning_noise_mean


def test_what_a_shard_tells_twice_counts_once(writer: Writer) -> None:
    writer.close(1)
    for _ in range(2):
        writer.publish(1, 0, 2, step_norm=3)
    writer.publish(1, 1, 2, step_norm=4)
    writer.publish(1, 0, 2, step_norm=3, checkpoint=REF)

    assert 5.0 == writer.row().step_norm


def test_the_gradient_proxy_divides_by_learning_rate_and_steps(writer: Writer) -> None:
    """lr E is 0.1 * 10 at weight 1 and 0.2 * 5 * 2 (scaled to 10 steps) at weight 3: 1.75.

    |D|^2 = (0.7 / 0.5)^2."""
    writer.admit(writer.plan("p1", "a", (CORE0, HEAD0)))
    writer.admit(
        writer.plan("p2", "b", (CORE0, HEAD0), learning_rate=0.2),
        weight=3.0,
        scale=2.0,
        steps_done=5,
    )
    writer.close(1)
    writer.publish(1, step_norm=0.7)

    row = writer.row()

    assert pytest.approx((1.4 / 1.75) ** 2) == row.gradient_proxy
    assert pytest.approx(0.15) == row.learning_rate


def test_units_left_out_are_counted(writer: Writer) -> None:
    left = {"plan_id": "p1", "worker_id": "a", "unit": 2, "reason": "norm"}
    writer.close(1)
    writer.publish(1, left_out=(left, left))

    assert 2 == writer.row().left_out_count


@pytest.mark.parametrize("early", [True, False])
def test_a_verdict_finds_its_row_whichever_comes_first(writer: Writer, *, early: bool) -> None:
    verdict = {"accuracy": 0.8, "raw_accuracy": 0.7, "plain_accuracy": 0.6, "mean_accuracy": 0.9}
    verdict["scaled_accuracy"] = 0.65
    given = {"evaluator_id": "e", "version": 1, "sample_count": 9, "loss": 1.0} | verdict
    if early:
        writer.append_message(m.Evaluated, exit_accuracies=(0.5, 0.6), **given)
    writer.close(1)
    if not early:
        writer.append_message(m.Evaluated, exit_accuracies=(0.5, 0.6), **given)

    found = writer.row().verdict

    assert found is not None
    assert (0.8, 0.7, 0.9) == (
        found.accuracy,
        found.raw_accuracy,
        found.mean_accuracy,
    )
    assert 0.6 == found.plain_accuracy
    assert 0.65 == found.scaled_accuracy
    assert (0.5, 0.6) == found.exit_accuracies
    points = writer.folded().accuracy
    assert [(1, 0.8, 0.6)] == [(p.version, p.accuracy, p.plain_accuracy) for p in points]


def test_decisions_of_a_replaced_planner_leave_no_trace(writer: Writer) -> None:
    """The first planner goes on for a while after the second has begun."""
    plan = writer.plan("p1", "a", (CORE0, HEAD0))
    writer.epoch = 2
    writer.append_message(m.EpochStarted, planner_id="q")
    writer.epoch = 1
    writer.admit(plan, staleness=5)
    writer.plan("p2", "b", (CORE0, HEAD0))
    writer.close(1, update_count=9)
    writer.epoch = 2
    writer.admit(plan, staleness=1)
    writer.close(1, update_count=1)

    run = writer.folded()

    assert [(1, 1, (0, 1))] == [(r.version, r.update_count, r.staleness) for r in run.versions]
    assert ["a"] == list(run.devices)
    assert [1, 1, 1, 0, 0, 0] == run.versions[0].counts.tolist()


def test_only_the_newest_rows_are_kept_where_that_is_asked(writer: Writer) -> None:
    for version in range(1, 6):
        writer.close(version)
        writer.publish(version)

    assert [4, 5] == [r.version for r in writer.folded(rows_max=2).versions]


def test_a_device_is_told_by_seconds_bytes_peaks_and_outcomes(writer: Writer) -> None:
    writer.hello("a", None, memory=9_000)
    first = writer.plan("p1", "a", (CORE0, HEAD0), peak_bytes=5_000)
    writer.dispatched(first, 0, 2)
    writer.dispatched(first, 1, 2)
    report: dict[str, Any] = {
        "worker_id": "a",
        "incarnation": 1,
        "plan_id": "p1",
        "status": "done",
        "steps_done": 10,
        "idle_s": 3.0,
        "fetch_s": 0.5,
        "train_s": 4.0,
        "throttle_s": 1.0,
        "upload_s": 0.25,
        "peak_bytes": 6_000,
        "bytes_down": 100,
        "bytes_up": 90,
        "loss_last": 1.5,
    }
    writer.append_message(m.Report, **report)
    writer.admit(first, staleness=1)
    writer.plan("p2", "a", (CORE0, HEAD0), peak_bytes=4_000)
    writer.append_message(m.Report, **(report | {"peak_bytes": 1, "loss_last": None}))
    gone = {"plan_id": "p2", "worker_id": "a", "reason": "late"}
    writer.append_message(m.UpdateRefused, outcome=Outcome.STALE, **gone)

    device = writer.folded().devices["a"]

    assert (5_000, 6_000, 9_000) == (
        device.peak_predicted_bytes,
        device.peak_measured_bytes,
        device.memory_bytes,
    )
    assert (9.5, 6.0, 2.0) == (device.busy_s, device.idle_s, device.waiting_s)
    assert pytest.approx(9.5 / 15.5) == device.busy_share
    assert (200, 180, 20) == (device.bytes_down, device.bytes_up, device.steps)
    assert {Outcome.ACCEPTED: 1, Outcome.STALE: 1} == dict(device.outcomes)
    assert (2, 3, 1.5, 1) == (
        device.plan_count,
        device.units_held_max,
        device.loss_last,
        device.staleness_last,
    )


def test_a_row_in_json_has_all_figures_but_the_counts(writer: Writer) -> None:
    writer.close(1)

    plain = writer.row().to_json()

    assert "counts" not in plain
    assert (1, None, None) == (plain["version"], plain["step_norm"], plain["exit_accuracies"])
