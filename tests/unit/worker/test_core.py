"""The worker's core, fed by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dispatching import one_blob

from cos2p.log.messages import (
    BlobRef,
    DeviceProfile,
    Dispatched,
    Goodbye,
    Heartbeat,
    Hello,
    Plan,
    Report,
    RunFinished,
)
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import LivenessConfig, MergeConfig, RunConfig
from cos2p_worker.core import Cancel, Effect, Fetch, Leave, Send, Train, Upload, WorkerCore
from cos2p_worker.trainer import GateScores, TrainResult

TABLE = UnitTable(
    (
        Unit("stem", "core", -1, 4, 8, 1),
        Unit("block0.core", "core", 0, 2, 4, 1),
        Unit("block0.a", "neurons", 0, 3, 6, 1),
        Unit("block1.core", "core", 1, 2, 4, 1),
        Unit("block1.a", "neurons", 1, 3, 6, 1),
    )
)
HELLO = Hello(
    run_id="r",
    worker_id="w0",
    incarnation=7,
    profile=DeviceProfile(memory_bytes=1000, flops_per_s=1e6),
    sample_count=10,
    units_digest=TABLE.digest,
)
BLOB = BlobRef(
    topic="submodels",
    partition=0,
    first_offset=0,
    last_offset=0,
    chunk_count=1,
    byte_count=100,
    digest=b"\0" * 32,
    blob_id="b",
)


def plan(plan_id: str = "p1", **changes: object) -> Plan:
    body: dict[str, object] = {
        "plan_id": plan_id,
        "worker_id": "w0",
        "incarnation": 7,
        "base_version": 0,
        "trained": (0, 1, 2),
        "local_steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "seed": 1,
        "deadline_s": 5.0,
        "peak_bytes": 10,
    }
    return Plan.model_validate(body | changes)


def dispatched(order: Plan, shard: int = 0, shard_count: int = 1) -> Dispatched:
    owned = TABLE.owned_by(shard, shard_count)
    units = [u for u in owned if u in (*order.trained, *order.frozen)]
    return Dispatched(
        run_id="r",
        decisions_offset=int(order.plan_id[1:]),
        plan=order,
        shard=shard,
        shard_count=shard_count,
        **one_blob(units, BLOB),
    )


def core(shards: int = 1, hello: Hello = HELLO) -> WorkerCore:
    config = RunConfig(merge=MergeConfig(shards=shards), liveness=LivenessConfig(heartbeat_s=2.0))
    return WorkerCore(hello, config, TABLE, now=100.0)


def result(**changes: object) -> TrainResult:
    deltas = {u: np.full(int(TABLE.sizes[u]), 0.5, np.float32) for u in (0, 1, 2)}
    base = TrainResult(deltas, 4, 8, 2.0, 1.0, 900, 0.5)
    return replace(base, **changes)  # type: ignore[arg-type]


def report_of(effects: Sequence[Effect]) -> Report:
    found = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Report)]
    assert 1 == len(found)
    return found[0]


def test_a_plan_goes_from_fetch_to_report() -> None:
    worker = core()

    fetch = worker.handle(dispatched(plan()), 110.0)
    train = worker.fetched("p1", 100, 111.0)
    upload = worker.trained("p1", result(), 114.0)
    report = report_of(worker.uploaded("p1", BLOB, 116.0))

    assert [Fetch] == [type(e) for e in fetch]
    assert [Train(plan())] == train
    assert [Upload] == [type(e) for e in upload]
    assert ("done", BLOB, "p1", 7) == (
        report.status,
        report.blob,
        report.plan_id,
        report.incarnation,
    )
    assert (10.0, 1.0, 3.0, 2.0) == (
        report.idle_s,
        report.fetch_s,
        report.train_s,
        report.upload_s,
    )
    assert (100, 100, 900, 8, 4, 0.5) == (
        report.bytes_down,
        report.bytes_up,
        report.peak_bytes,
        report.sample_count,
        report.steps_done,
        report.throttle_s,
    )


def test_the_second_report_counts_from_the_first_on() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 110.0)
    worker.failed("p1", "x", 120.0)
    worker.handle(dispatched(plan("p2")), 123.0)

    report = report_of(worker.failed("p2", "y", 124.0))

    assert (3.0, 1.0, 0) == (report.idle_s, report.fetch_s, report.bytes_down)


def test_a_fetch_waits_for_every_shard_and_names_each_one_s_units() -> None:
    worker = core(shards=2)

    first = worker.handle(dispatched(plan(), 1, 2), 101.0)
    [fetch] = worker.handle(dispatched(plan(), 0, 2), 102.0)

    assert [] == first
    assert isinstance(fetch, Fetch)
    assert [0, 1, 2] == sorted(u for part in fetch.parts for u in part.units)
    assert [set(part.units) <= set(TABLE.owned_by(s, 2)) for s, part in enumerate(fetch.parts)]


def test_a_shard_that_dispatches_twice_changes_nothing() -> None:
    worker = core(shards=2)
    worker.handle(dispatched(plan(), 0, 2), 101.0)

    assert [] == worker.handle(dispatched(plan(), 0, 2), 102.0)
    assert [Fetch] == [type(e) for e in worker.handle(dispatched(plan(), 1, 2), 103.0)]
    assert [] == worker.handle(dispatched(plan(), 1, 2), 104.0)


@pytest.mark.parametrize("change", [{"worker_id": "w1"}, {"incarnation": 6}, {"incarnation": 8}])
def test_plans_of_others_and_of_other_incarnations_are_ignored(change: dict[str, Any]) -> None:
    assert [] == core().handle(dispatched(plan(**change)), 101.0)


def test_a_newer_plan_voids_the_older_without_a_report() -> None:
    worker = core()
    worker.handle(dispatched(plan("p1")), 101.0)
    worker.fetched("p1", 100, 102.0)

    effects = worker.handle(dispatched(plan("p2")), 103.0)

    assert [Cancel, Fetch] == [type(e) for e in effects]
    assert Cancel("p1") == effects[0]
    assert [] == worker.trained("p1", result(), 104.0)
    assert [] == worker.failed("p1", "stopped", 104.0)


def test_a_late_shard_of_a_voided_plan_is_ignored() -> None:
    worker = core(shards=2)
    worker.handle(dispatched(plan("p1"), 0, 2), 101.0)
    worker.handle(dispatched(plan("p2"), 0, 2), 102.0)

    assert [] == worker.handle(dispatched(plan("p1"), 1, 2), 103.0)
    [fetch] = worker.handle(dispatched(plan("p2"), 1, 2), 104.0)

    assert isinstance(fetch, Fetch)
    assert "p2" == fetch.plan.plan_id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trained": (0, 1, 5)}, "names unit 5"),
        ({"trained": ()}, "empty"),
        ({"trained": (1, 0)}, "out of order"),
        ({"trained": (0, 0)}, "out of order"),
        ({"frozen": (1,)}, "twice"),
    ],
)
def test_a_plan_that_can_t_be_is_reported(change: dict[str, Any], reason: str) -> None:
    report = report_of(core().handle(dispatched(plan(**change)), 101.0))

    assert "failed" == report.status
    assert reason in report.detail


def test_weights_in_a_foreign_topic_are_refused() -> None:
    record = dispatched(plan())
    blob = BLOB.model_copy(update={"topic": "updates"})
    record = record.model_copy(update=one_blob(record.plan.trained, blob))

    report = report_of(core().handle(record, 101.0))

    assert "not in submodels" in report.detail


def test_a_dispatch_whose_blobs_lack_a_unit_is_refused() -> None:
    record = dispatched(plan())
    record = record.model_copy(update=one_blob(record.plan.trained[1:], BLOB))

    report = report_of(core().handle(record, 101.0))

    assert "no blob of shard 0 holds unit 0" == report.detail


def test_a_blob_with_units_that_the_model_lacks_is_refused() -> None:
    record = dispatched(plan())
    record = record.model_copy(update=one_blob((*record.plan.trained, 900), BLOB))

    report = report_of(core().handle(record, 101.0))

    assert f"a blob holds unit 900; the model has {len(TABLE)}" == report.detail


def test_a_dispatch_of_another_number_of_shards_is_refused() -> None:
    assert "in a run of 1" in report_of(core().handle(dispatched(plan(), 0, 2), 101.0)).detail


def test_shards_that_disagree_on_a_plan_are_refused() -> None:
    worker = core(shards=2)
    worker.handle(dispatched(plan(), 0, 2), 101.0)

    report = report_of(worker.handle(dispatched(plan(seed=2), 1, 2), 102.0))

    assert "different plans" in report.detail


@pytest.mark.parametrize(
    ("deltas", "reason"),
    [
        ({0: np.zeros(4, np.float32), 1: np.zeros(2, np.float32)}, "other units"),
        (
            {0: np.zeros(4, np.float32), 1: np.zeros(2, np.float32), 2: np.zeros(4, np.float32)},
            "shape",
        ),
        (
            {
                0: np.zeros(4, np.float32),
                1: np.zeros(2, np.float32),
                2: np.array([0, np.nan, 1], np.float32),
            },
            "not finite",
        ),
        (
            {
                0: np.array([0, np.inf, -np.inf, 1], np.float32),
                1: np.zeros(2, np.float32),
                2: np.zeros(3, np.float32),
            },
            "not finite",
        ),
    ],
)
def test_a_delta_that_would_be_refused_is_not_sent(
    deltas: dict[int, np.ndarray[tuple[int], np.dtype[np.float32]]], reason: str
) -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)

    effects = worker.trained("p1", result(deltas=deltas), 103.0)

    assert "failed" == report_of(effects).status
    assert reason in report_of(effects).detail


def test_large_finite_deltas_are_sent() -> None:
    """Their sum overflows float32, not float64."""
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)
    deltas = {u: np.full(int(TABLE.sizes[u]), 3e38, np.float32) for u in (0, 1, 2)}

    assert [Upload] == [type(e) for e in worker.trained("p1", result(deltas=deltas), 103.0)]


def test_out_of_memory_is_reported_with_the_measured_peak() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)

    report = report_of(worker.out_of_memory("p1", 1234, "cuda", 103.0))

    assert ("out_of_memory", 1234, None) == (report.status, report.peak_bytes, report.blob)


def hello_beats(worker: WorkerCore, beats: range) -> list[int]:
    """At which beats the worker says Hello; at all others a heartbeat."""
    sent = {i: worker.tick(100.0 + 2 * i) for i in beats}
    kinds = {
        i: [type(e.message) for e in effects if isinstance(e, Send)] for i, effects in sent.items()
    }
    assert all(kind in ([Hello], [Heartbeat]) for kind in kinds.values())
    return [i for i, kind in kinds.items() if kind == [Hello]]


def test_a_worker_without_plans_says_hello_ever_more_seldom() -> None:
    """A beat takes two seconds: from some beat on each 150th, five minutes apart."""
    assert [0, 15, 45, 105, 225, 375, 525] == hello_beats(core(), range(600))


def test_a_slow_heart_says_hello_at_each_fifteenth_beat() -> None:
    worker = WorkerCore(
        HELLO, RunConfig(liveness=LivenessConfig(heartbeat_s=60.0, lost_after_s=200)), TABLE, now=0
    )
    sent = [worker.tick(60.0 * i)[0] for i in range(46)]

    assert [0, 15, 30, 45] == [i for i, e in enumerate(sent) if e == Send(HELLO)]


def test_after_a_plan_hellos_begin_to_come_often_again() -> None:
    worker = core()
    before = hello_beats(worker, range(230))
    worker.handle(dispatched(plan()), 101.0)
    worker.failed("p1", "x", 102.0)

    assert [0, 15, 45, 105, 225] == before
    assert [245, 275] == hello_beats(worker, range(230, 300))


def test_a_worker_with_plan_after_plan_need_not_say_hello_again() -> None:
    worker, sent = core(), []
    for turn in range(20):
        worker.handle(dispatched(plan(f"p{turn + 1}")), 100.0 + 20 * turn)
        sent += hello_beats(worker, range(10 * turn, 10 * turn + 10))

    assert [] == sent[1:]


def test_a_heartbeat_says_the_state_and_is_not_sent_before_it_is_due() -> None:
    worker = core()
    worker.tick(100.0)
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 101.5)

    early, [effect] = worker.tick(101.9), worker.tick(102.0, steps_done=3)

    assert [] == early
    assert isinstance(effect, Send)
    assert isinstance(effect.message, Heartbeat)
    assert ("training", "p1", 3) == (
        effect.message.state,
        effect.message.plan_id,
        effect.message.steps_done,
    )


def test_an_idle_worker_that_is_asked_to_stop_says_goodbye() -> None:
    effects = core().stop(101.0, deadline_s=10.0)

    assert [Send, Leave] == [type(e) for e in effects]
    assert isinstance(effects[0], Send)
    assert isinstance(effects[0].message, Goodbye)


def test_a_plan_far_from_its_end_is_abandoned_on_stop() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)

    effects = worker.stop(112.0, deadline_s=10.0, steps_done=1)

    assert [Cancel, Send, Send, Leave] == [type(e) for e in effects]
    assert "abandoned" == report_of(effects).status


def test_a_plan_near_its_end_is_finished_on_stop() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)

    stopping = worker.stop(105.0, deadline_s=10.0, steps_done=3)
    worker.trained("p1", result(), 106.0)
    effects = worker.uploaded("p1", BLOB, 107.0)

    assert [] == stopping
    assert [Send, Send, Leave] == [type(e) for e in effects]
    assert "done" == report_of(effects).status


def test_a_stop_that_can_wait_no_longer_abandons_the_plan() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)
    worker.stop(105.0, deadline_s=10.0, steps_done=3)

    assert "abandoned" == report_of(worker.out_of_time(112.0)).status
    assert [] == worker.out_of_time(113.0)


def test_a_stopping_worker_begins_no_plan() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)
    worker.fetched("p1", 100, 102.0)
    worker.stop(105.0, deadline_s=10.0, steps_done=3)

    assert [] == worker.handle(dispatched(plan("p2")), 106.0)
    assert "p1" == worker.plan_id
    assert "stopping" == worker.state


def test_a_finished_run_is_left_without_a_report() -> None:
    worker = core()
    worker.handle(dispatched(plan()), 101.0)

    effects = worker.handle(
        RunFinished(run_id="r", decisions_offset=1, version=3, reason="target"), 102.0
    )

    assert [Cancel("p1"), Leave("the run is finished")] == effects
    assert [] == worker.handle(dispatched(plan("p2")), 103.0)
    assert [] == worker.tick(200.0)


@pytest.mark.parametrize(
    ("label_counts", "counts", "sums"),
    [((5, 5), (3, 1), [[2.0, 0.5]]), (None, (4,), [[2.5]])],
)
def test_scores_are_told_by_label_only_where_the_device_tells_its_labels(
    label_counts: tuple[int, ...] | None, counts: tuple[int, ...], sums: list[list[float]]
) -> None:
    worker = core(hello=HELLO.model_copy(update={"label_counts": label_counts}))
    worker.handle(dispatched(plan()), 100.0)
    worker.fetched("p1", 100, 101.0)
    scores = GateScores(np.array([[2.0, 0.5]], np.float32), np.array([3, 1]))
    worker.trained("p1", result(scores=scores), 102.0)

    sent_scores = report_of(worker.uploaded("p1", BLOB, 103.0)).scores

    assert sent_scores is not None
    assert counts == sent_scores.counts
    assert sums == sent_scores.matrix().tolist()
