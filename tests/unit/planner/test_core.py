"""The planner's core: the life of plans, versions and the run."""

from collections.abc import Callable
from typing import Any

import pytest
from dispatching import one_blob

from cos2p.errors import SettingsError
from cos2p.log import messages as m
from cos2p.log.messages import Outcome
from cos2p.model.cost import Calibration

New = Callable[..., Any]
Only = Callable[..., Any]


def test_a_request_starts_the_run_and_carries_all_that_a_replay_needs(stage: Any) -> None:
    [started] = stage.decided(m.RunStarted)

    assert (stage.config, "tests:task") == (started.config, started.task)
    assert stage.table.digest == started.units.table().digest


def test_a_second_request_is_ignored_with_a_notice(stage: Any) -> None:
    decided = stage.request()

    assert [] == decided
    assert ["run_request_ignored"] == [event for event, _ in stage.core.fleet.notices]


def test_a_request_whose_version_0_has_a_wrong_size_fails_the_run(
    new_stage: New, the_only: Only
) -> None:
    stage = new_stage()
    fresh = type(stage)()
    request = stage.fleet_log[0][1]
    short = request.model_copy(
        update={"checkpoint": request.checkpoint.model_copy(update={"byte_count": 5})}
    )

    ended = the_only(fresh.deliver(short), m.RunEnded)

    assert "failed" == ended.reason
    assert "5 bytes" in ended.detail


def test_a_hello_is_answered_with_a_plan_that_fits(stage: Any, the_only: Only) -> None:
    plan = the_only(stage.hello("w1", 0.4), m.PlanIssued).plan

    assert ("p000001", "w1", 0, 10) == (
        plan.plan_id,
        plan.worker_id,
        plan.base_version,
        plan.local_steps,
    )
    assert plan.peak_bytes == stage.costs.peak_bytes(plan.trained)
    assert plan.peak_bytes <= stage.costs.memory_for_fraction(0.4)


def test_plans_wait_for_min_workers(new_stage: New) -> None:
    stage = new_stage({"liveness": {"min_workers": 2}})

    assert [] == stage.hello("w1")
    assert 2 == len([d for d in stage.hello("w2") if isinstance(d, m.PlanIssued)])


def test_a_device_that_is_too_small_counts_as_there(new_stage: New) -> None:
    stage = new_stage({"liveness": {"min_workers": 2}})
    stage.hello("w1", fraction=0.0)

    assert ["w2"] == [d.plan.worker_id for d in stage.hello("w2") if isinstance(d, m.PlanIssued)]


def test_a_good_report_is_admitted_with_weight_and_answered_with_the_next_plan(
    new_stage: New, the_only: Only
) -> None:
    stage = new_stage({"rounds": {"update_fraction": 1.0}})
    stage.hello("w1")
    stage.hello("w2")

    decided = stage.report(stage.plan_of("w1"), sample_count=64)

    admitted = the_only(decided, m.UpdateAdmitted)
    assert (8.0, 1.0, 0) == (admitted.weight, admitted.scale, admitted.staleness)
    assert 0 == the_only(decided, m.PlanIssued).plan.base_version


def test_enough_updates_close_a_version_and_the_next_plan_starts_from_it(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1")

    decided = stage.report(stage.plan_of("w1"))

    closed = the_only(decided, m.RoundClosed)
    assert (1, "count", 1) == (closed.version, closed.reason, closed.update_count)
    assert 1 == the_only(decided, m.PlanIssued).plan.base_version


def test_a_late_update_weighs_less(new_stage: New, the_only: Only) -> None:
    stage = new_stage({"rounds": {"update_fraction": 0.1}})
    stage.hello("w1")
    stage.hello("w2")
    late = stage.plan_of("w2")
    for _ in range(3):
        stage.report(stage.plan_of("w1"))

    admitted = the_only(stage.report(late), m.UpdateAdmitted)

    assert 3 == admitted.staleness
    assert pytest.approx(100**0.5 / 2) == admitted.weight


def test_a_report_older_than_the_limit_is_refused_as_stale(new_stage: New, the_only: Only) -> None:
    stage = new_stage({"rounds": {"update_fraction": 0.1, "staleness_max": 1}})
    stage.hello("w1")
    stage.hello("w2")
    late = stage.plan_of("w2")
    for _ in range(2):
        stage.report(stage.plan_of("w1"))

    decided = stage.report(late)

    refused = the_only(decided, m.UpdateRefused)
    assert (Outcome.STALE, late.plan_id) == (refused.outcome, refused.plan_id)
    assert "2 versions old" in refused.reason
    assert 2 == the_only(decided, m.PlanIssued).plan.base_version


def test_a_plan_too_old_to_count_is_given_up_when_it_is_long_overdue(new_stage: New) -> None:
    stage = new_stage({"rounds": {"update_fraction": 0.1, "staleness_max": 1}})
    stage.hello("w1")
    stage.hello("w2")
    hung = stage.plan_of("w2")
    for _ in range(2):
        stage.report(stage.plan_of("w1"))
    patience = max(15.0, 4 * stage.core.fleet.get("w2").expected_s)

    stage.pass_time(patience - 1, "w1", "w2")
    assert [] == stage.outcomes()[hung.plan_id]

    stage.pass_time(3, "w1", "w2")
    assert [Outcome.EXPIRED] == stage.outcomes()[hung.plan_id]


def test_a_slow_devices_plan_is_overdue_after_four_times_what_it_usually_takes(
    new_stage: New,
) -> None:
    stage = new_stage({"rounds": {"update_fraction": 0.1, "staleness_max": 1}})
    stage.hello("w1")
    stage.hello("w2", flops_per_s=1e8)
    hung = stage.plan_of("w2")
    for _ in range(2):
        stage.report(stage.plan_of("w1"))
    overdue_s = 4 * stage.core.fleet.get("w2").expected_s
    assert 20 < overdue_s < 100

    stage.pass_time(overdue_s - 0.5, "w1", "w2")
    assert [] == stage.outcomes()[hung.plan_id]

    stage.pass_time(1, "w1", "w2")
    assert [Outcome.EXPIRED] == stage.outcomes()[hung.plan_id]


def test_a_plan_whose_update_would_still_count_is_waited_for(new_stage: New) -> None:
    stage = new_stage({"rounds": {"update_fraction": 0.1, "staleness_max": 2}})
    stage.hello("w1")
    stage.hello("w2")
    slow = stage.plan_of("w2")
    for _ in range(2):
        stage.report(stage.plan_of("w1"))

    stage.pass_time(60, "w1", "w2")

    assert [] == stage.outcomes()[slow.plan_id]


def test_the_deadline_closes_a_version_with_what_is_there(new_stage: New, the_only: Only) -> None:
    stage = new_stage({"rounds": {"update_fraction": 1.0}})
    stage.hello("w1")
    stage.hello("w2")
    stage.report(stage.plan_of("w1"))

    decided = stage.pass_time(14, "w1", "w2")

    closed = the_only(decided, m.RoundClosed)
    assert ("deadline", 1) == (closed.reason, closed.update_count)


def test_no_update_closes_no_version(new_stage: New) -> None:
    stage = new_stage()
    stage.hello("w1")

    stage.pass_time(60, "w1")

    assert [] == stage.decided(m.RoundClosed)


def test_a_repeated_report_is_refused_as_a_duplicate_and_ends_nothing(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1")
    plan = stage.plan_of("w1")
    stage.report(plan)

    refused = the_only(stage.report(plan), m.UpdateRefused)

    assert Outcome.DUPLICATE == refused.outcome
    assert [Outcome.ACCEPTED] == stage.outcomes()[plan.plan_id]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"blob": {"byte_count": 7}}, "7 bytes"),
        ({"blob": {"topic": "other"}}, "is in other"),
        ({"blob": {"partition": 99}}, "[99]"),
        ({"blob": {"blob_id": "p000001.9"}}, "named"),
        ({"blob": {"chunk_count": 3}}, "chunks"),
        ({"steps_done": 0}, "0 steps"),
        ({"steps_done": 9}, "9 steps"),
        ({"steps_done": 11}, "11 steps"),
        ({"sample_count": 101}, "101 samples"),
        ({"sample_count": 0}, "no samples"),
        ({"incarnation": 0}, "old incarnation 0"),
        ({"incarnation": 2}, "unknown incarnation 2"),
    ],
)
def test_a_report_that_contradicts_its_plan_is_invalid(
    stage: Any, the_only: Only, changes: dict[str, Any], reason: str
) -> None:
    stage.hello("w1")

    refused = the_only(stage.report(stage.plan_of("w1"), **changes), m.UpdateRefused)

    assert Outcome.INVALID == refused.outcome
    assert reason in refused.reason


def test_a_report_without_a_delta_is_invalid(stage: Any, the_only: Only) -> None:
    stage.hello("w1")
    report = stage.report_of(stage.plan_of("w1")).model_copy(update={"blob": None})

    assert Outcome.INVALID == the_only(stage.deliver(report), m.UpdateRefused).outcome


def test_nobody_can_end_another_workers_plan(stage: Any, the_only: Only) -> None:
    stage.hello("w1")
    stage.hello("w2")
    plan = stage.plan_of("w1")

    refused = the_only(stage.report(plan, worker_id="w2"), m.UpdateRefused)

    assert Outcome.DUPLICATE == refused.outcome
    assert "the plan is w1's" == refused.reason
    assert plan.plan_id in stage.core.ledger.open


def test_a_plan_that_a_duplicate_report_names_can_still_bring_its_update(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1")
    stage.hello("w2")
    plan = stage.plan_of("w1")
    stage.report(plan, worker_id="w2")

    assert plan.plan_id == the_only(stage.report(plan), m.UpdateAdmitted).plan_id


def test_a_report_of_a_plan_never_issued_is_refused_by_name(stage: Any, the_only: Only) -> None:
    stage.hello("w1")
    report = stage.report_of(stage.plan_of("w1"), plan_id="p999999")

    assert "no plan of this name is open" == the_only(stage.deliver(report), m.UpdateRefused).reason


def test_a_restarted_worker_loses_its_plan_and_gets_a_new_one(stage: Any, the_only: Only) -> None:
    stage.hello("w1")
    old = stage.plan_of("w1")

    decided = stage.hello("w1", incarnation=2)

    assert Outcome.CANCELLED == the_only(decided, m.PlanCancelled).outcome
    assert 2 == the_only(decided, m.PlanIssued).plan.incarnation
    refused = the_only(stage.report(old), m.UpdateRefused)
    assert Outcome.DUPLICATE == refused.outcome
    assert "old incarnation 1" in refused.reason


def test_a_repeated_hello_changes_no_plan(stage: Any) -> None:
    stage.hello("w1")

    assert [] == stage.hello("w1")


def test_a_silent_device_loses_its_plan_and_gets_none_until_it_is_heard(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1")
    stage.hello("w2")

    decided = stage.pass_time(16, "w2")

    cancelled = the_only(decided, m.PlanCancelled)
    assert ("w1", Outcome.EXPIRED) == (cancelled.worker_id, cancelled.outcome)
    assert "w1" not in stage.core.ledger.open_of
    assert "w1" == the_only(stage.beat("w1"), m.PlanIssued).plan.worker_id


def test_a_planner_that_was_suspended_blames_nobody(stage: Any) -> None:
    stage.hello("w1")

    assert [] == stage.tick(60)


def test_a_planner_that_misses_over_half_of_the_patience_forgives_exactly_what_it_missed(
    stage: Any,
) -> None:
    """`lost_after_s` is 15 s."""
    stage.hello("w1")
    stage.tick(7.75)

    assert [] == stage.tick(7.5) + stage.tick(7.5)
    assert [m.PlanCancelled] == [type(d) for d in stage.tick(0.25)]


def test_a_planner_that_misses_half_of_the_patience_forgives_nothing(stage: Any) -> None:
    stage.hello("w1")

    assert [] == stage.tick(7.5) + stage.tick(7.5)
    assert [m.PlanCancelled] == [type(d) for d in stage.tick(0.25)]


def test_a_restarted_planner_forgives_exactly_the_time_in_which_nobody_listened(
    stage: Any,
) -> None:
    stage.hello("w1")
    stage.now += 100

    assert [] == stage.restart() + stage.tick(7.5) + stage.tick(7.5)
    assert [m.PlanCancelled] == [type(d) for d in stage.tick(0.25)]


def test_a_worker_that_stays_idle_after_its_weights_were_there_has_lost_its_plan(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1")
    plan = stage.plan_of("w1")
    where = one_blob(plan.trained, stage.blob("t-submodels", 0, "b", 1))
    stage.models(
        m.Dispatched(run_id="run-1", decisions_offset=1, plan=plan, shard=0, shard_count=1, **where)
    )
    decided = []
    for _ in range(17):
        decided += stage.beat("w1", state="idle")
        decided += stage.tick(1)

    cancelled = the_only(decided, m.PlanCancelled)
    assert Outcome.EXPIRED == cancelled.outcome
    assert "idle" in cancelled.reason


def test_goodbye_cancels_the_plan_and_only_a_new_start_brings_the_device_back(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1")

    decided = stage.goodbye("w1")

    assert Outcome.CANCELLED == the_only(decided, m.PlanCancelled).outcome
    assert [] == stage.beat("w1") + stage.tick(1)
    assert 2 == the_only(stage.hello("w1", incarnation=2), m.PlanIssued).plan.incarnation


def test_out_of_memory_ends_the_plan_and_the_next_one_is_smaller(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1", 0.6)
    plan = stage.plan_of("w1")

    decided = stage.report(plan, status="out_of_memory", detail="needed 9 bytes more")

    refused = the_only(decided, m.UpdateRefused)
    assert (Outcome.CANCELLED, "out of memory: needed 9 bytes more") == (
        refused.outcome,
        refused.reason,
    )
    assert the_only(decided, m.PlanIssued).plan.peak_bytes <= 0.8 * plan.peak_bytes


def test_a_device_that_was_restarted_once_in_the_midst_of_a_plan_gets_one_as_large(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1", 0.6)
    plan = stage.plan_of("w1")

    decided = stage.hello("w1", 0.6, incarnation=2)

    assert plan.peak_bytes == the_only(decided, m.PlanIssued).plan.peak_bytes


def test_a_device_that_dies_of_two_plans_in_a_row_gets_a_smaller_one(
    stage: Any, the_only: Only
) -> None:
    """A memory limit kills without a word: nobody reports it."""
    stage.hello("w1", 0.6)
    stage.hello("w1", 0.6, incarnation=2)
    plan = stage.plan_of("w1")

    decided = stage.hello("w1", 0.6, incarnation=3)

    assert the_only(decided, m.PlanIssued).plan.peak_bytes <= 0.8 * plan.peak_bytes
    assert "device_died_at_work" in {event for event, _ in stage.core.fleet.notices}


def test_a_device_that_comes_back_after_its_plan_has_expired_has_died_of_it_too(
    stage: Any, the_only: Only
) -> None:
    """A kubelet or an engine that waits longer between restarts than `lost_after_s`."""
    stage.hello("other")
    stage.hello("w1", 0.6)
    plan = stage.plan_of("w1")
    for incarnation in (2, 3):
        stage.pass_time(16, "other")
        decided = stage.hello("w1", 0.6, incarnation=incarnation)

    assert the_only(decided, m.PlanIssued).plan.peak_bytes <= 0.8 * plan.peak_bytes


def test_a_device_that_was_only_silent_has_not_died(stage: Any) -> None:
    stage.hello("other")
    stage.hello("w1", 0.6)
    budget = stage.core.fleet.get("w1").budget_bytes
    for _ in range(3):
        stage.pass_time(16, "other")
        stage.beat("w1")

    assert budget == stage.core.fleet.get("w1").budget_bytes


def test_an_update_between_two_deaths_shows_that_the_plans_were_not_too_large(
    stage: Any, the_only: Only
) -> None:
    stage.hello("w1", 0.6)
    stage.hello("w1", 0.6, incarnation=2)
    plan = stage.plan_of("w1")
    stage.report(plan)

    decided = stage.hello("w1", 0.6, incarnation=3)

    assert the_only(decided, m.PlanIssued).plan.peak_bytes > 0.8 * plan.peak_bytes


def test_what_killed_a_device_is_forgotten_once_it_was_given_more_memory(stage: Any) -> None:
    for incarnation in (1, 2, 3):
        stage.hello("w1", 0.4, incarnation=incarnation)
    small = stage.core.fleet.get("w1").budget_bytes

    stage.hello("w1", 0.8, incarnation=4)

    assert stage.core.fleet.get("w1").budget_bytes > 2 * small


def calibrated(stage: Any) -> tuple[int, Any]:
    """Memory of w1, and how its first report bent the forecasts."""
    stage.hello("w1", 0.6)
    plan = stage.plan_of("w1")
    stage.report(plan, train_s=50.0, peak_bytes=2 * plan.peak_bytes)
    device = stage.core.fleet.get("w1")
    assert device.calibration.seconds_factor != 1.0
    assert device.calibration.memory_factor > 1.0
    return device.profile.memory_bytes, device.calibration


@pytest.mark.parametrize("share", [0.96, 1.0, 1.04])
def test_what_a_device_has_shown_outlives_a_start_with_nearly_the_same_memory(
    stage: Any, share: float
) -> None:
    """What a container leaves to training is never the same to the byte."""
    memory, shown = calibrated(stage)

    stage.hello("w1", memory_bytes=int(share * memory) + 1, incarnation=2)

    assert shown == stage.core.fleet.get("w1").calibration


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_what_a_device_has_shown_is_forgotten_with_another_size_of_memory(
    stage: Any, share: float
) -> None:
    memory, _ = calibrated(stage)

    stage.hello("w1", memory_bytes=int(share * memory), incarnation=2)

    assert Calibration() == stage.core.fleet.get("w1").calibration


def test_small_changes_of_memory_add_up_to_another_size(stage: Any) -> None:
    memory, shown = calibrated(stage)
    kept = []
    for incarnation, share in enumerate((1.03, 1.06, 1.09), 2):
        stage.hello("w1", memory_bytes=int(share * memory), incarnation=incarnation)
        kept.append(shown == stage.core.fleet.get("w1").calibration)

    assert [True, False, False] == kept


def test_what_did_not_fit_is_not_tried_again_with_a_few_bytes_more(stage: Any) -> None:
    stage.hello("w1", 0.6)
    plan = stage.plan_of("w1")
    stage.report(plan, status="out_of_memory")
    memory = stage.core.fleet.get("w1").profile.memory_bytes

    stage.hello("w1", memory_bytes=memory + 1, incarnation=2)

    assert stage.core.fleet.get("w1").budget_bytes <= 0.8 * plan.peak_bytes


def test_a_device_without_memory_for_any_submodel_is_refused_with_the_number_that_would_do(
    stage: Any,
) -> None:
    decided = stage.hello("w1", memory_bytes=1000)

    [excluded] = stage.decided(m.DeviceExcluded)
    assert [excluded] == decided
    assert str(stage.costs.smallest_bytes) in excluded.reason


def test_a_device_with_another_model_is_refused_by_name(stage: Any) -> None:
    decided = stage.hello("w1", units_digest=bytes(32))

    [excluded] = stage.decided(m.DeviceExcluded)
    assert [excluded] == decided
    assert "w1" == excluded.worker_id
    assert "model differs" in excluded.reason


def test_a_device_of_another_version_is_refused_by_name(stage: Any) -> None:
    decided = stage.hello("w1", protocol=2)

    [excluded] = stage.decided(m.DeviceExcluded)
    assert [excluded] == decided
    assert "w1" == excluded.worker_id
    assert "it uses protocol 2, this planner 1" in excluded.reason


def test_a_device_that_fails_at_once_is_asked_again_later_and_later(stage: Any) -> None:
    stage.hello("w1")
    waits = []
    for _ in range(3):
        stage.report(stage.plan_of("w1"), status="failed", detail="no data")
        began = stage.now
        while "w1" not in stage.core.ledger.open_of:
            stage.beat("w1")
            stage.tick(0.25)
        waits.append(stage.now - began)

    assert [0.5, 1.0, 2.0] == waits


def test_a_device_whose_updates_keep_failing_checks_gets_no_more_plans(stage: Any) -> None:
    stage.hello("w1")
    for version in range(3):
        plan = stage.plan_of("w1")
        stage.report(plan)
        bad = m.LeftOut(plan_id=plan.plan_id, worker_id="w1", unit=0, reason="not_finite")
        stage.publish(version + 1, bad, bad)
    stage.report(stage.plan_of("w1"))

    assert "w1" not in stage.core.ledger.open_of
    [excluded] = stage.decided(m.DeviceExcluded)
    assert "w1" == excluded.worker_id
    assert "3 of its updates failed checks" in excluded.reason


def failing(stage: Any) -> None:
    """Three updates of w1 fail checks."""
    for version in range(3):
        plan = stage.plan_of("w1")
        stage.report(plan)
        bad = m.LeftOut(plan_id=plan.plan_id, worker_id="w1", unit=0, reason="not_finite")
        stage.publish(version + 1, bad)
    stage.report(stage.plan_of("w1"))


def test_failed_checks_outlive_a_restart_of_the_device_and_of_the_planner(stage: Any) -> None:
    stage.hello("w1")
    failing(stage)
    stage.hello("w1", incarnation=2)
    stage.restart()
    stage.hello("w1", incarnation=3)

    assert "w1" not in stage.core.ledger.open_of
    assert 1 == len(stage.decided(m.DeviceExcluded))


def test_an_operator_can_admit_a_device_again(stage: Any) -> None:
    stage.hello("w1")
    failing(stage)
    stage.beat("w1")

    made = stage.deliver(m.AdmitRequested(run_id="run-1", worker_id="w1"))

    assert ["DeviceAdmitted", "PlanIssued"] == [type(d).__name__ for d in made]


def test_a_device_that_comes_back_with_enough_memory_is_admitted(stage: Any) -> None:
    stage.hello("w1", memory_bytes=10)
    [excluded] = stage.decided(m.DeviceExcluded)

    made = stage.hello("w1", incarnation=2)

    assert "memory" in excluded.reason
    assert ["DeviceAdmitted", "PlanIssued"] == [type(d).__name__ for d in made]


def test_an_exclusion_is_decided_once_however_often_the_device_says_hello(stage: Any) -> None:
    for _ in range(5):
        stage.hello("w1", memory_bytes=10)

    assert 1 == len(stage.decided(m.DeviceExcluded))


def test_the_target_ends_the_run_and_every_plan(new_stage: New, the_only: Only) -> None:
    stage = new_stage({"rounds": {"versions": 2, "update_fraction": 0.1}})
    stage.hello("w1")
    stage.hello("w2")
    stage.report(stage.plan_of("w1"))

    decided = stage.report(stage.plan_of("w1"))

    ended = the_only(decided, m.RunEnded)
    assert ("target", 2) == (ended.reason, ended.version)
    assert ended is decided[-1]
    assert all(1 == len(o) for o in stage.outcomes().values())
    assert [] == stage.hello("w3") + stage.tick(500)


def test_a_stop_ends_the_run_and_every_plan(stage: Any, the_only: Only) -> None:
    stage.hello("w1")

    decided = stage.deliver(m.StopRequested(run_id="run-1", reason="enough"))

    ended = the_only(decided, m.RunEnded)
    assert ("stopped", "enough") == (ended.reason, ended.detail)
    assert {"p000001": [Outcome.CANCELLED]} == stage.outcomes()


def test_a_run_without_devices_ends_and_says_so(stage: Any, the_only: Only) -> None:
    ended = the_only(stage.pass_time(130), m.RunEnded)

    assert "stalled" == ended.reason
    assert "no device has sent a Hello" in ended.detail
    assert "no aggregator: version 0 was not published" in ended.detail


def test_a_stalled_run_names_whom_it_waits_for(new_stage: New, the_only: Only) -> None:
    stage = new_stage({"rounds": {"update_fraction": 1.0}})
    stage.publish(0)
    stage.hello("w1")
    stage.hello("w2", memory_bytes=10)

    decided = stage.pass_time(20, "w2") + stage.pass_time(130, "w2", step_s=5.0)

    detail = the_only(decided, m.RunEnded).detail
    assert "w1 (silent" in detail
    assert "w2 (its memory: a budget of 10 B is below the smallest submodel" in detail
    assert "aggregator" not in detail


def test_a_run_whose_aggregator_is_gone_says_so(stage: Any, the_only: Only) -> None:
    stage.publish(0)
    stage.hello("w1")
    stage.report(stage.plan_of("w1"))

    detail = the_only(stage.pass_time(130, "w1"), m.RunEnded).detail

    assert "no aggregator: version 1 was closed but not published" in detail
    assert "weights were never dispatched" in detail


def test_the_stall_is_foretold(stage: Any) -> None:
    stage.pass_time(60)

    assert stage.core.waits_long(stage.now)
    assert "no device has sent a Hello" in stage.core.waiting_for(stage.now)


def test_units_are_held_for_the_plans_that_the_run_says(new_stage: New) -> None:
    stage = new_stage({"plans": {"hold_plans": 3}, "rounds": {"update_fraction": 0.1}})
    stage.hello("w1", 0.4)
    held = []
    for _ in range(9):
        plan = stage.plan_of("w1")
        held.append(plan.trained)
        stage.report(plan)

    assert held[0] == held[1] == held[2] != held[3]
    assert held[3] == held[4] == held[5] != held[6]


def test_plan_seeds_follow_from_the_runs_seed_and_differ(new_stage: New) -> None:
    seeds = []
    for run_seed in (1, 1, 2):
        stage = new_stage({"seed": run_seed})
        stage.hello("w1")
        stage.report(stage.plan_of("w1"))
        seeds.append([d.plan.seed for d in stage.decided(m.PlanIssued)])

    assert seeds[0] == seeds[1]
    assert 4 == len({*seeds[0], *seeds[2]})


def test_an_unknown_policy_is_refused_before_anything_is_decided(new_stage: New) -> None:
    with pytest.raises(SettingsError, match="no policy is named 'fedavg': take one of co-s2p"):
        new_stage({"policy": "fedavg"}).hello("w")


def test_the_plan_names_the_learning_rate_of_its_version(new_stage: New) -> None:
    stage = new_stage(
        {
            "rounds": {"update_fraction": 0.1, "versions": 2},
            "local": {"learning_rate": 0.01, "learning_rate_final": 0.2},
        }
    )
    stage.hello("w")
    first = stage.plan_of("w").learning_rate
    stage.report(stage.plan_of("w"))

    assert pytest.approx([0.01, 0.006]) == [first, stage.plan_of("w").learning_rate]


def test_a_slow_device_gets_fewer_steps_once_the_runs_pace_is_known(new_stage: New) -> None:
    stage = new_stage({"rounds": {"update_fraction": 0.1, "staleness_max": 2}})
    stage.hello("fast")
    for _ in range(4):
        stage.tick(0.5)
        stage.report(stage.plan_of("fast"))

    stage.hello("slow", flops_per_s=1e7)

    assert stage.config.local.steps_min == stage.plan_of("slow").local_steps
    assert stage.config.local.steps == stage.plan_of("fast").local_steps


def test_the_coverage_of_a_version_counts_the_windows_updates(new_stage: New) -> None:
    stage = new_stage({"rounds": {"update_fraction": 1.0, "coverage_window": 2}})
    for worker in ("w1", "w2"):
        stage.hello(worker, 1.0)
    for _ in range(3):
        for worker in ("w1", "w2"):
            stage.report(stage.plan_of(worker))

    closed = stage.decided(m.RoundClosed)
    assert [2, 4, 4] == [c.coverage_min for c in closed]
    assert [2.0, 4.0, 4.0] == pytest.approx([c.coverage_bound for c in closed])
