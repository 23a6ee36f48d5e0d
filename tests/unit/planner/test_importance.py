"""Importance: the fold of reported scores, worked by hand, and what of it a restart repeats."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from cos2p.log import messages as m
from cos2p.model.unit_wire import UnitScores
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import RunConfig
from cos2p_planner.state.device import BEFORE_PLANS, Device
from cos2p_planner.state.importance import Importance
from cos2p_planner.state.ledger import PlanFacts, packed

New = Callable[..., Any]
RUN = "run-1"
TABLE = UnitTable(
    (
        Unit("embed", "core", -1, 10, 10, 10),
        Unit("b0.core", "core", 0, 4, 4, 4),
        Unit("b0.head0", "head", 0, 16, 9, 9),
        Unit("b0.head1", "head", 0, 16, 9, 9),
        Unit("b0.neurons0", "neurons", 0, 4, 9, 9),
        Unit("b0.neurons1", "neurons", 0, 4, 9, 9),
    )
)
ALL = (0, 1, 2, 3, 4, 5)


def importance(kind: str = "gate", own_share: float = 0.5) -> Importance:
    config = RunConfig.model_validate({"plans": {"importance": kind}})
    return Importance(TABLE, config, own_share=own_share)


def device(worker: str, label_counts: tuple[int, ...] | None) -> Device:
    profile = m.DeviceProfile(memory_bytes=1, flops_per_s=1)
    return Device(worker, 1, profile, 100, label_counts, bytes(32), 1, BEFORE_PLANS)


def facts(trained: Sequence[int] = ALL, version: int = 0, worker: str = "w1") -> PlanFacts:
    return PlanFacts("p1", worker, 1, version, 0.0, 10, 0, 0, packed(trained, len(TABLE)))


def scores(sums: ArrayLike, counts: Sequence[int]) -> UnitScores:
    return UnitScores.of(np.array(sums, np.float32), np.array(counts), by_label=True)


def report(scored: UnitScores | None, worker: str = "w1") -> m.Report:
    return m.Report(
        run_id=RUN, worker_id=worker, incarnation=1, plan_id="p1", status="done", scores=scored
    )


# Heads 0 and 1, then neurons 0 and 1, by two labels. Four samples of label 0, one of label 1.
SUMS = ((16, 9), (4, 1), (4, 4), (4, 0))
COUNTS = (4, 1)
# Roots of means: label 0: 2, 1, 1, 1; label 1: 3, 1, 2, 0. Over their group's mean:
LABEL_0 = (4 / 3, 2 / 3, 1, 1)
LABEL_1 = (6 / 4, 2 / 4, 2, 0)


def test_a_label_s_scores_are_roots_of_means_over_the_mean_of_their_kind_and_block() -> None:
    scored = importance(own_share=0.0)

    assert "" == scored.learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (50, 50)))

    only_0 = scored.value(device("w2", (10**12, 0)))
    only_1 = scored.value(device("w3", (0, 10**12)))
    assert pytest.approx((1, 1, *LABEL_0)) == only_0
    assert pytest.approx((1, 1, *LABEL_1)) == only_1


def test_units_may_be_compared_with_their_kind_in_all_blocks() -> None:
    table = UnitTable(
        (
            Unit("embed", "core", -1, 10, 10, 10),
            Unit("b0.core", "core", 0, 4, 4, 4),
            Unit("b0.head0", "head", 0, 16, 9, 9),
            Unit("b1.core", "core", 1, 4, 4, 4),
            Unit("b1.head0", "head", 1, 16, 9, 9),
        )
    )
    plans = {"importance": "gate", "importance_scope": "model"}
    scored = Importance(table, RunConfig.model_validate({"plans": plans}), own_share=0.0)
    plan = PlanFacts("p1", "w1", 1, 0, 0.0, 10, 0, 0, packed(range(5), 5))

    assert "" == scored.learn(
        report(scores(((36, 36), (4, 4)), (1, 1))), plan, device("w1", (5, 5))
    )

    # Roots 6 and 2 over their mean, 4: in a block of its own each would be 1.
    assert pytest.approx((1, 1, 1.5, 1, 0.5)) == scored.value(device("w2", (5, 5)))


def test_a_device_s_smoothed_histogram_mixes_the_labels() -> None:
    scored = importance(own_share=0.0)
    scored.learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (50, 50)))

    value = scored.value(device("w2", (5, 1)))  # (5 + 1) / 8 and (1 + 1) / 8

    expected = [0.75 * a + 0.25 * b for a, b in zip(LABEL_0, LABEL_1, strict=True)]
    assert pytest.approx(expected) == value[2:]


def test_own_scores_are_over_all_of_a_device_s_samples_and_mixed_by_own_share() -> None:
    scored = importance(own_share=0.25)
    scored.learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (4, 2)))

    value = scored.value(device("w1", (4, 2)))

    roots = np.sqrt(np.array([25, 5, 8, 4]) / 5)
    own = roots / np.repeat((roots[:2].mean(), roots[2:].mean()), 2)
    fleet = 5 / 8 * np.array(LABEL_0) + 3 / 8 * np.array(LABEL_1)
    assert pytest.approx(0.25 * own + 0.75 * fleet) == value[2:]


def test_devices_weigh_by_their_samples() -> None:
    scored = importance(own_share=0.0)
    scored.learn(report(scores(((1,) * 2, (3,) * 2) * 2, (1, 1))), facts(), device("w1", (9, 9)))
    scored.learn(
        report(scores(((27,) * 2, (9,) * 2) * 2, (3, 3)), "w2"), facts(), device("w2", (9, 9))
    )

    value = scored.value(device("w3", (1, 1)))

    a, b = np.sqrt(28 / 4), np.sqrt(12 / 4)
    assert pytest.approx((2 * a / (a + b), 2 * b / (a + b))) == value[2:4]


def test_scores_of_older_versions_fade_in_whatever_order_they_come() -> None:
    early, late = scores(((1, 1), (9, 9)) * 2, (1, 1)), scores(((4, 4), (1, 1)) * 2, (1, 1))
    found = []
    for order in (((early, 3), (late, 5)), ((late, 5), (early, 3))):
        scored = importance(own_share=0.0)
        for each, version in order:
            scored.learn(report(each), facts(version=version), device("w1", (9, 9)))
        found.append(scored.value(device("w2", (1, 1)))[2:4])

    a, b = np.sqrt((0.49 * 1 + 4) / 1.49), np.sqrt((0.49 * 9 + 1) / 1.49)
    assert pytest.approx((2 * a / (a + b), 2 * b / (a + b))) == found[0]
    assert pytest.approx(found[0]) == found[1]


def test_a_device_that_withholds_its_labels_is_judged_by_its_own_scores_alone() -> None:
    scored = importance(own_share=0.1)
    scored.learn(report(scores(SUMS, COUNTS), "w2"), facts(), device("w2", (9, 9)))
    scored.learn(report(scores(((9,), (1,), (1,), (1,)), (1,))), facts(), device("w1", None))

    assert pytest.approx((1.5, 0.5, 1, 1)) == scored.value(device("w1", None))[2:]


def test_scores_without_labels_change_nothing_for_other_devices() -> None:
    scored = importance(own_share=0.0)
    scored.learn(report(scores(SUMS, COUNTS), "w2"), facts(), device("w2", (9, 9)))
    before = scored.value(device("w3", (9, 9)))

    scored.learn(report(scores(((9,), (1,), (1,), (1,)), (1,))), facts(), device("w1", None))

    np.testing.assert_array_equal(before, scored.value(device("w3", (9, 9))))


def test_what_nobody_has_scored_is_worth_the_mean() -> None:
    scored = importance()

    assert [1.0] * 6 == scored.value(device("w1", (9, 9))).tolist()


def test_own_scores_are_on_the_fleet_s_scale_where_the_device_has_trained_some_units_only() -> None:
    scored = importance(own_share=1.0)
    scored.learn(report(scores(SUMS, COUNTS), "w2"), facts(), device("w2", (9, 9)))
    own = scores(((9, 9), (4, 4), (1, 1)), (1, 1))
    scored.learn(report(own), facts((0, 1, 2, 3, 4)), device("w1", (1, 1)))

    value = scored.value(device("w1", (1, 1)))

    # Heads: own roots 3 and 2, mean 1 as in the fleet. Of the neurons it has the first alone, which
    # the fleet holds for 1 and 2 by label, the other for 1 and 0.
    assert pytest.approx((1.2, 0.8, 1.5, 0.5)) == value[2:]


def test_units_of_a_kind_that_all_score_nothing_are_alike() -> None:
    scored = importance(own_share=0.0)
    scored.learn(
        report(scores(((0, 0), (0, 0), (4, 4), (1, 1)), (1, 1))), facts(), device("w1", (9, 9))
    )

    assert pytest.approx((1, 1, 4 / 3, 2 / 3)) == scored.value(device("w2", (1, 1)))[2:]


@pytest.mark.parametrize(
    ("sums", "counts", "fault"),
    [
        (SUMS[:3], COUNTS, "bytes of sums don't make 4 units by 2 labels"),
        (((1, 1, 1),) * 4, (1, 1, 1), "3 labels, the device announced 2"),
        (((1, np.nan),) * 4, (1, 1), "not finite"),
        (((np.inf, 1),) * 4, (1, 1), "not finite"),
        (((1, -1),) * 4, (1, 1), "negative"),
        (((1, 1),) * 4, (1, 0), "a sum without samples"),
        (((0, 0),) * 4, (0, 0), "0 samples scored"),
        (((1, 1),) * 4, (300, 21), "321 samples scored; the plan's steps show 1 to 320"),
    ],
)
def test_wrong_scores_are_refused_counted_and_change_nothing(
    sums: Any, counts: Sequence[int], fault: str
) -> None:
    scored = importance()
    scored.learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (9, 9)))
    before = scored.value(device("w1", (9, 9)))

    found = scored.learn(report(scores(sums, counts)), facts(), device("w1", (9, 9)))

    assert fault in found
    assert {"w1": 1} == scored.state.refused
    np.testing.assert_array_equal(before, scored.value(device("w1", (9, 9))))


def test_scores_of_a_label_that_the_device_said_it_has_not_are_refused() -> None:
    found = importance().learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (9, 0)))

    assert "samples of label 1, of which the device announced none" == found


def test_devices_must_agree_on_the_number_of_labels() -> None:
    scored = importance()
    scored.learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (9, 9)))

    found = scored.learn(
        report(scores(((1, 1, 1),) * 4, (1, 1, 1)), "w2"), facts(), device("w2", (9, 9, 9))
    )

    assert "3 labels, other devices have 2" == found


def publish(*norms: float, shard: int = 0, shards: int = 1) -> m.VersionPublished:
    return m.VersionPublished(
        run_id=RUN,
        version=1,
        shard=shard,
        shard_count=shards,
        decisions_offset=0,
        digest=bytes(32),
        unit_digests=b"",
        unit_norms=np.array(norms, "<f4").tobytes(),
    )


def test_magnitude_is_the_norm_per_root_of_size_over_the_mean_of_kind_and_block() -> None:
    weighed = importance("magnitude")
    weighed.weigh(publish(5, 5, 4, 12, 3, 1))

    assert pytest.approx((1, 1, 0.5, 1.5, 1.5, 0.5)) == weighed.value(device("w1", None))


def test_norms_that_no_shard_can_mean_are_not_used() -> None:
    weighed = importance("magnitude")

    weighed.weigh(publish(5, 5, 4))
    weighed.weigh(publish(5, 5, 4, np.inf, 1, 1))
    weighed.weigh(publish(5, 5, 4, -1, 1, 1))
    weighed.weigh(publish().model_copy(update={"unit_norms": b"odd"}))

    assert [1.0] * 6 == weighed.value(device("w1", None)).tolist()


def test_without_importance_all_units_are_worth_nothing_beyond_coverage() -> None:
    none = importance("none")
    none.learn(report(scores(SUMS, COUNTS)), facts(), device("w1", (9, 9)))

    assert [0.0] * 6 == none.value(device("w1", (9, 9))).tolist()


# ---------------------------------------------------------------- in the core

GATE = {"plans": {"importance": "gate", "hold_plans": 1}, "rounds": {"versions": 9}}


def scored_report(stage: Any, plan: m.Plan, seed: int, **changes: Any) -> list[m.Decision]:
    rng = np.random.default_rng(seed)
    gated = sum(stage.table.gated[list(plan.trained)])
    sums = rng.random((gated, 3), np.float32)
    made: list[m.Decision] = stage.report(plan, scores=scores(sums, (5, 6, 7)), **changes)
    return made


def values(stage: Any) -> list[list[float]]:
    return [stage.core.known.rules.importance.value(d).tolist() for d in stage.core.fleet]


def test_a_restarted_planner_has_the_same_values(new_stage: New) -> None:
    stage = new_stage(GATE)
    for worker, fraction in (("w1", 0.4), ("w2", 0.7), ("w3", 1.0)):
        stage.hello(worker, fraction, label_counts=(30, 30, 40))
    for seed in range(12):
        worker = f"w{1 + seed % 3}"
        scored_report(stage, stage.plan_of(worker), seed)
    before = values(stage)

    stage.restart()

    assert 9 > stage.core.ledger.version > 1
    assert any(v != 1.0 for v in before[0])
    assert before == values(stage)


def test_a_repeated_report_s_scores_count_once(new_stage: New) -> None:
    stage = new_stage(GATE)
    stage.hello("w1", label_counts=(30, 30, 40))
    plan = stage.plan_of("w1")
    scored_report(stage, plan, 1)
    once = values(stage)

    scored_report(stage, plan, 2)

    assert once == values(stage)


def test_an_update_with_wrong_scores_counts_and_its_device_is_named(
    new_stage: New, the_only: Callable[..., Any]
) -> None:
    stage = new_stage(GATE)
    stage.hello("w1", label_counts=(30, 70, 0))
    plan = stage.plan_of("w1")

    made = scored_report(stage, plan, 1)

    assert plan.plan_id == the_only(made, m.UpdateAdmitted).plan_id
    fields = {"worker_id": "w1", "plan_id": plan.plan_id}
    reason = "samples of label 2, of which the device announced none"
    assert [("scores_refused", fields | {"reason": reason})] == stage.core.fleet.notices


def test_of_equally_covered_units_the_device_gets_those_that_score(new_stage: New) -> None:
    stage = new_stage(GATE | {"plans": {"importance": "gate", "hold_plans": 1}})
    table = stage.table
    stage.hello("strong", 1.0, label_counts=(1, 1, 1))
    plan = stage.plan_of("strong")
    gated = [u for u in plan.trained if table.gated[u]]
    best = {u for u in gated if table.units[u].name.endswith(("0", "1"))}
    sums = np.array([[9.0 if u in best else 1.0] * 3 for u in gated])
    stage.report(plan, scores=scores(sums, (1, 1, 1)))

    stage.hello("weak", 0.4, label_counts=(1, 1, 1))

    chosen = {u for u in stage.plan_of("weak").trained if table.gated[u]}
    blocks = {table.units[u].block for u in chosen}
    assert {u for u in best if table.units[u].block in blocks} <= chosen
