"""Policies at work: what the core plans with them, and what it says where they can't."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cos2p.errors import SettingsError
from cos2p.log import messages as m
from cos2p.run_config import RunConfig
from cos2p_planner.baselines.policies import POLICIES, policy_named
from cos2p_planner.presets import config_of

New = Callable[..., Any]


def test_the_ceiling_trains_the_whole_model_on_any_device(new_stage: New) -> None:
    stage = new_stage({"policy": "fedavg-ideal", "plans": {"enforce_memory": False}})
    stage.hello("w1", 0.2)

    assert tuple(range(len(stage.table))) == stage.plan_of("w1").trained


def test_devices_too_small_for_a_policy_are_refused_with_the_bytes_that_would_do(
    new_stage: New,
) -> None:
    stage = new_stage({"policy": "fedavg-exclusive"})
    stage.hello("big", 1.0)
    stage.hello("small", 0.5)

    assert ["big"] == [d.plan.worker_id for d in stage.decided(m.PlanIssued)]
    [excluded] = stage.decided(m.DeviceExcluded)
    assert "small" == excluded.worker_id
    assert f"({stage.costs.whole_bytes} bytes) would do" in excluded.reason


def test_a_run_that_no_device_can_serve_ends_and_says_why(new_stage: New) -> None:
    stage = new_stage({"policy": "fedavg-exclusive"})
    stage.hello("w1", 0.5)
    stage.hello("w2", 0.9)
    stage.pass_time(125, "w1", "w2", step_s=5)

    [ended] = stage.decided(m.RunEnded)
    assert "stalled" == ended.reason
    assert "w1 (its memory: a budget of" in ended.detail
    assert "w2 (its memory: a budget of" in ended.detail


def test_the_smallest_submodel_follows_the_weakest_device_of_the_fleet(new_stage: New) -> None:
    stage = new_stage(
        {"policy": "fedavg-small", "liveness": {"min_workers": 3}, "plans": {"hold_plans": 1}}
    )
    for worker, fraction in (("w1", 1.0), ("w2", 0.4), ("w3", 0.6)):
        stage.hello(worker, fraction)

    plans = [d.plan for d in stage.decided(m.PlanIssued)]
    assert 3 == len(plans)
    assert 1 == len({p.trained for p in plans})
    assert plans[0].peak_bytes <= stage.costs.memory_for_fraction(0.4)


def test_magnitudes_are_those_that_the_aggregator_published_last(new_stage: New) -> None:
    stage = new_stage({"policy": "fiarse", "plans": {"hold_plans": 1}})
    for version, block in ((0, 0), (1, 1)):
        norms = np.array([1.0 + (u.block == block) for u in stage.table.units], np.float32)
        stage.models(
            m.VersionPublished(
                run_id="run-1",
                version=version,
                shard=0,
                shard_count=1,
                decisions_offset=0,
                digest=bytes(32),
                unit_digests=b"",
                unit_norms=(norms * np.sqrt(stage.table.sizes)).astype("<f4").tobytes(),
            )
        )
    stage.hello("w1", 0.4)

    blocks = {stage.table.units[u].block for u in stage.plan_of("w1").trained}
    assert {-1, 1} == blocks


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_plans_within_budgets_of_a_mixed_fleet(new_stage: New, name: str) -> None:
    plans = policy_named(name).preset.get("plans", {})
    stage = new_stage({"policy": name, "plans": dict(plans)})
    fractions = {"w1": 0.3, "w2": 0.6, "w3": 1.0}
    for worker, fraction in fractions.items():
        stage.hello(worker, fraction)
    for _ in range(6):
        for plan_id in list(stage.core.ledger.open):
            stage.report(stage.core.ledger.open[plan_id])

    issued = [d.plan for d in stage.decided(m.PlanIssued)]
    assert "w3" in {p.worker_id for p in issued}
    if plans.get("enforce_memory", True):
        for plan in issued:
            limit = stage.costs.memory_for_fraction(fractions[plan.worker_id])
            assert plan.peak_bytes <= limit


BARRIERS = {
    "fedavg-ideal": 1.0,
    "fedavg-exclusive": 1.0,
    "fedavg-small": 1.0,
    "heterofl": 0.0,
    "fjord": 1.0,
    "federated-dropout": 0.0,
    "fedrolex": 0.0,
    "depthfl": 0.0,
    "scalefl": 0.0,
    "fiarse": 0.0,
}
"""Synchronous baselines, and the exponent of samples in the weight of an update."""
OWN = RunConfig.model_validate(
    {
        "local": {
            "logit_adjustment": 0.7,
            "align_steps": True,
            "anchor": {"share": 0.25},
            "score_every": 4,
        },
        "plans": {
            "importance": "gate",
            "coverage_floor": 2,
            "nested_depth": 1.0,
            "growth": {"start": 0.1},
        },
    }
)
"""A task's own settings, everything of ours turned on."""


@pytest.mark.parametrize("name", [*BARRIERS, "fedasync", "fedbuff", "fedcompass"])
def test_a_baseline_has_nothing_of_ours_but_the_local_loss(name: str) -> None:
    config = config_of(OWN, {"policy": name})

    plans = config.plans
    assert not config.rounds.normalise_steps
    assert (False, 0.0, 0) == (
        config.local.align_steps,
        config.local.anchor.share,
        config.local.score_every,
    )
    assert (1, "none", 0) == (plans.hold_plans, plans.importance, plans.coverage_floor)
    assert (0.0, 1.0, 0.5) == (plans.nested_depth, plans.growth.start, plans.block_width_min)
    assert 0.0 == config.merge.average_decay
    assert 0.7 == config.local.logit_adjustment


@pytest.mark.parametrize("name", sorted(BARRIERS))
def test_a_synchronous_baseline_waits_for_all_and_weighs_as_published(name: str) -> None:
    rounds = config_of(RunConfig(), {"policy": name}).rounds

    assert ("synchronous", BARRIERS[name]) == (rounds.closing, rounds.sample_exponent)


@pytest.mark.parametrize(
    ("name", "closing", "update_count", "server_lr"),
    [
        ("fedasync", "buffer", 1, 0.9),
        ("fedbuff", "buffer", 10, 1.0),
        ("fedcompass", "compass", None, 0.9),
    ],
)
def test_an_asynchronous_baseline_closes_as_published(
    name: str, closing: str, update_count: int | None, server_lr: float
) -> None:
    config = config_of(RunConfig(), {"policy": name})

    assert (closing, update_count) == (config.rounds.closing, config.rounds.update_count)
    assert ("delta", 0.5, 0.0) == (
        config.rounds.staleness_on,
        config.rounds.staleness_exponent,
        config.rounds.sample_exponent,
    )
    assert server_lr == config.merge.server_lr


def test_a_run_file_puts_a_baseline_under_our_closing() -> None:
    task = RunConfig.model_validate({"rounds": {"update_count": 6}})
    changes = {"policy": "heterofl", "rounds": {"closing": "semi-async"}}

    rounds = config_of(task, changes).rounds

    assert ("semi-async", 6, 0.0) == (rounds.closing, rounds.update_count, rounds.sample_exponent)


@pytest.mark.parametrize("name", sorted(BARRIERS))
def test_methods_that_are_a_local_loss_too_bring_it(name: str) -> None:
    own = name if name in ("fjord", "depthfl", "scalefl") else "final"

    assert own == config_of(RunConfig(), {"policy": name}).local.objective


def test_our_method_runs_with_the_defaults_where_neither_task_nor_run_file_says_otherwise() -> None:
    task = RunConfig.model_validate({"local": {"anchor": {"share": 0.5}}, "plans": {"growth": {}}})

    config = config_of(task, {"policy": "co-s2p", "local": {"align_steps": False}})

    assert RunConfig() == config_of(RunConfig(), {})
    assert (0.5, False) == (config.local.anchor.share, config.local.align_steps)
    assert RunConfig().plans == config.plans


@pytest.mark.parametrize("name", ["fedrolex-staggered", "fedrolex-staggered-skip"])
def test_a_staggered_window_has_our_loop_but_none_of_our_choice_of_units(name: str) -> None:
    ours, config = RunConfig(), config_of(RunConfig(), {"policy": name})

    assert (ours.rounds, ours.local, ours.merge) == (config.rounds, config.local, config.merge)
    plans = config.plans
    assert (0.0, 1.0, 0.5) == (plans.nested_depth, plans.growth.start, plans.block_width_min)


def test_where_all_train_one_small_model_what_nobody_trains_is_silent() -> None:
    small = {"fedavg-small", "fedasync", "fedbuff", "fedcompass"}
    ours = {"co-s2p", "fedrolex-staggered", "fedrolex-staggered-skip"}

    scaled = {
        name
        for name in POLICIES
        if config_of(RunConfig(), {"policy": name}).evaluation.scaling == "survival"
    }

    assert small | ours == scaled


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_only_methods_that_predict_with_all_exits_are_judged_so(name: str) -> None:
    answer = "mean" if name in ("depthfl", "scalefl") else "final"

    assert answer == config_of(RunConfig(), {"policy": name}).evaluation.answer


def test_every_policy_names_its_source() -> None:
    assert [] == [p.name for p in POLICIES.values() if not p.source]


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"take one of .*fedrolex-staggered"):
        policy_named("fedrolex-stagered")
