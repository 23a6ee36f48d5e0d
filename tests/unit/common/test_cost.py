"""The cost model: sums over units, budgets and their inverse, and what reports change."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos2p.errors import BudgetError, SettingsError
from cos2p.log.messages import DeviceProfile
from cos2p.model.cost import (
    STEP_FIXED_S,
    Calibration,
    CostModel,
    Extra,
    Workload,
    plain_bytes,
)
from cos2p.model.units import Unit, UnitTable
from cos2p.run_config import AnchorConfig, ExitConfig, LocalConfig, RunConfig

TABLE = UnitTable(
    (
        Unit("stem", "core", -1, 100, 1000, 10),
        Unit("0.core", "core", 0, 10, 10, 40),
        Unit("0.head0", "head", 0, 50, 500, 20),
        Unit("0.head1", "head", 0, 40, 500, 20),
        Unit("0.neurons0", "neurons", 0, 30, 300, 5),
        Unit("1.core", "core", 1, 10, 10, 40),
        Unit("1.neurons0", "neurons", 1, 200, 300, 5),
    )
)
COSTS = CostModel(TABLE, slots=2, batch_size=8)


def test_the_peak_is_weights_gradients_slots_and_activations_of_what_is_trained() -> None:
    by_hand = (2 + 2) * 4 * (100 + 10 + 30) + 4 * 10 + 8 * 4 * (10 + 40 + 5)

    assert by_hand == COSTS.peak_bytes([0, 1, 4], frozen=[5])


def test_frozen_units_cost_one_forward_pass_and_trained_ones_three() -> None:
    assert 3 * (1000 + 300) + 10 == COSTS.training_flops([0, 4], frozen=[5])


def test_an_anchors_teacher_costs_a_forward_pass_on_its_share_of_the_steps() -> None:
    anchored = replace(COSTS, extra=Extra(forward_share=0.25))

    assert 3 * 1300 + 10 + 0.25 * 1310 == pytest.approx(
        anchored.training_flops([0, 4], frozen=[5]), abs=1
    )


def test_a_proximal_term_keeps_one_copy_of_what_is_trained() -> None:
    close = replace(COSTS, extra=Extra(copies=1))
    parameters = int(TABLE.sizes[[0, 4]].sum())

    assert 4 * parameters == close.peak_bytes([0, 4], [5]) - COSTS.peak_bytes([0, 4], [5])


def test_ordered_dropout_costs_the_mean_of_its_widths() -> None:
    """Of heads 2 and 3 and neurons 4, p <= 0.4 keeps one head: widths {2, 4} and {2, 3, 4}."""
    units = [0, 1, 2, 3, 4]
    narrow, full = 3 * (1000 + 10 + 500 + 300) + 10, 3 * (1000 + 10 + 1000 + 300) + 10

    drawn = replace(COSTS, extra=Extra(widths="drawn")).training_flops(units, frozen=[5])
    taught = replace(COSTS, extra=Extra(widths="taught")).training_flops(units, frozen=[5])

    assert (narrow + full) / 2 == drawn
    assert full + narrow / 2 == taught


def test_the_forms_of_the_loss_that_are_on_are_what_costs_more() -> None:
    off = AnchorConfig(share=0.0)
    on = LocalConfig(anchor=AnchorConfig(share=0.25), proximal=0.1)

    assert Extra() == Extra.of(LocalConfig(anchor=off))
    assert Extra(forward_share=0.25, copies=1) == Extra.of(on)
    ordered = LocalConfig(objective="fjord", anchor=off)
    taught = LocalConfig(objective="fjord", anchor=off, exits=ExitConfig(distillation=1.0))
    assert (Extra(widths="drawn"), Extra(widths="taught")) == (Extra.of(ordered), Extra.of(taught))


def test_the_wire_carries_four_bytes_a_parameter() -> None:
    assert 4 * 140 == COSTS.weight_bytes([0, 3])


def test_the_prunable_cost_is_everything_but_the_stems_core() -> None:
    everything = COSTS.peak_bytes(range(len(TABLE)))

    assert COSTS.peak_bytes([0]) == COSTS.stem_bytes
    assert everything == COSTS.stem_bytes + COSTS.prunable_bytes
    assert 1.0 == COSTS.share(range(len(TABLE)))
    assert 0.0 == COSTS.share([0])


@given(st.floats(0, 1))
def test_fraction_and_memory_are_inverse(fraction: float) -> None:
    memory = COSTS.memory_for_fraction(fraction)

    assert fraction == pytest.approx(COSTS.fraction_of(memory), abs=1 / COSTS.prunable_bytes)


def test_fractions_are_clipped_and_nonsense_is_refused() -> None:
    assert 0.0 == COSTS.fraction_of(1)
    assert 1.0 == COSTS.fraction_of(1e12)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        COSTS.memory_for_fraction(1.5)


def test_the_smallest_submodel_has_one_unit_of_each_kind_of_its_cheapest_block() -> None:
    assert (0, 1, 3, 4) == COSTS.smallest


def test_a_budget_below_the_smallest_submodel_is_refused_with_the_number_that_would_do() -> None:
    COSTS.require(COSTS.smallest_bytes, "worker-5")
    with pytest.raises(BudgetError, match=rf"worker-5.*{COSTS.smallest_bytes} bytes\) would do"):
        COSTS.require(COSTS.smallest_bytes - 1, "worker-5")


def test_the_runs_settings_choose_slots_and_batch() -> None:
    config = RunConfig.model_validate(
        {"local": {"optimizer": "sgd", "momentum": 0.0, "batch_size": 3}}
    )

    assert CostModel(TABLE, 0, 3, Extra(forward_share=0.25)) == CostModel.of(TABLE, config)


def test_a_model_without_blocks_is_its_own_smallest_submodel() -> None:
    costs = CostModel(UnitTable((Unit("all", "core", -1, 5, 1, 1),)), 0, 1)

    assert (0,) == costs.smallest
    assert 1.0 == costs.fraction_of(0)
    assert 0.0 == costs.share([0])


def test_seconds_are_steps_arithmetic_and_wire() -> None:
    profile = DeviceProfile(memory_bytes=1, flops_per_s=1e6, bytes_per_s=1e3)
    work = Workload(flops=500, batch_size=20, steps=10, bytes_down=1500, bytes_up=500)

    assert pytest.approx(10 * (STEP_FIXED_S + 0.01)) == work.train_s(profile.flops_per_s)
    assert 2.0 == work.wire_s(profile.bytes_per_s)


def test_a_measured_peak_above_the_forecast_shrinks_the_budget_and_one_below_leaves_it() -> None:
    neutral = Calibration()

    assert 1000 == neutral.with_peak(50, 100).budget_bytes(1000, 0.0, 10)
    assert 1000 > neutral.with_peak(130, 100).budget_bytes(1000, 0.0, 10) > 700
    assert neutral == neutral.with_peak(0, 100)


def test_measurements_never_plan_a_device_out_of_the_run() -> None:
    calibration = Calibration()
    for _ in range(20):
        calibration = calibration.with_peak(400, 100)

    assert 900 == calibration.budget_bytes(1000, 0.0, 900)


def test_out_of_memory_is_never_forgotten_and_may_plan_a_device_out() -> None:
    calibration = Calibration().after_out_of_memory(1000).after_out_of_memory(5000)

    assert 800 == calibration.budget_bytes(10_000, 0.0, 900)


def test_a_margin_is_left_unplanned() -> None:
    assert 900 == Calibration().budget_bytes(1000, 0.1, 10)


def test_the_first_measured_pace_counts_whole_and_later_ones_by_a_share() -> None:
    once = Calibration().with_seconds(8.0, 1.0)
    twice = once.with_seconds(4.0, 1.0)

    assert 8.0 == once.seconds_factor
    assert 4.0 < twice.seconds_factor < 8.0
    assert once == once.with_seconds(0.0, 1.0)


def test_bytes_read_as_people_say_them() -> None:
    assert ["12 B", "2.3 MB", "1.5 kB", "4 GB"] == [
        plain_bytes(n) for n in (12, 2_300_000, 1500, 4e9)
    ]
