import pytest

from cos2p.model.cost import CostModel
from cos2p_experiments.fleets import JETSON16, JETSON16_WEAK, Member, Scale, fleet_named, members
from cos2p_worker.task import load_task

TASK = load_task("digits")
COST = CostModel.of(TASK.units, TASK.run)


def scaled(name: str = "jetson16", seed: int = 0, margin: float = 0.05) -> tuple[Member, ...]:
    return members(fleet_named(name), COST, Scale(), seed=seed, margin=margin)


def test_the_small_boards_hold_a_quarter_and_the_large_ones_all() -> None:
    budgets = {b.name: round(JETSON16.budget(b), 3) for b in JETSON16.boards}

    assert {
        "nano": 0.25,
        "tx2": 0.625,
        "xavier-nx": 0.625,
        "agx-xavier": 1.0,
        "orin-nano": 0.625,
        "orin-nx": 1.0,
        "agx-orin": 1.0,
    } == budgets


def test_no_device_of_the_weak_fleet_holds_the_whole_model() -> None:
    assert 0.65 == max(JETSON16_WEAK.budget(b) for b in JETSON16_WEAK.boards)


@pytest.mark.parametrize("name", ["jetson16", "jetson16-weak"])
def test_what_is_left_beside_the_margin_is_the_budget(name: str) -> None:
    for member in scaled(name):
        usable = int(0.95 * member.memory_bytes)
        assert pytest.approx(member.budget, abs=1e-5) == COST.fraction_of(usable)


def test_the_whole_model_takes_the_fastest_board_the_step_that_is_asked_for() -> None:
    fastest = max(m.flops_per_s for m in scaled())

    step = COST.batch_size * COST.training_flops(range(len(COST.table)))
    assert pytest.approx(0.1) == step / fastest


def test_the_whole_model_takes_ethernet_the_steps_that_are_asked_for() -> None:
    fastest = max(m.bytes_per_s for m in scaled())

    assert pytest.approx(10 * 0.1) == 4 * COST.table.parameter_count / fastest


def test_speed_does_not_follow_from_memory() -> None:
    orin_nano = next(m for m in scaled() if m.board.name == "orin-nano")
    agx_xavier = next(m for m in scaled() if m.board.name == "agx-xavier")

    assert orin_nano.budget < agx_xavier.budget
    assert orin_nano.flops_per_s > 0.8 * agx_xavier.flops_per_s


def test_every_shard_is_held_once() -> None:
    assert list(range(16)) == sorted(m.shard for m in scaled())


def test_another_seed_deals_the_shards_otherwise() -> None:
    assert [m.shard for m in scaled(seed=0)] != [m.shard for m in scaled(seed=1)]
