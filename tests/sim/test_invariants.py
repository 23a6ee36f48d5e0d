"""Seeded runs of the production roles with everything going wrong, and every rule judged.

A seed that fails here fails alike with `python -m cos2p_sim --seed N [--scenario NAME]`.
"""

import asyncio
from collections import Counter

import pytest

from cos2p_sim.checkers import InvariantError
from cos2p_sim.cluster import Cluster
from cos2p_sim.loop import run_virtual
from cos2p_sim.scenario import draw_case, load_scenario

SEEDS = 200
CHUNK = 50
CLOSING_SEEDS = 20


def run_seed(scenario: str, seed: int) -> Cluster:
    """Run and replay one case; a failure says how to repeat it."""
    try:
        ended = Cluster(draw_case(load_scenario(scenario), seed))
        found = run_virtual(ended.run())
    except BaseException as error:
        error.add_note(f"repeat: python -m cos2p_sim --scenario {scenario} --seed {seed} --verbose")
        raise
    assert ended.log.checker.history.version == found.compared_count - 1
    return ended


@pytest.mark.parametrize(
    "first",
    # `make test` takes the first half of the seeds, `make test-slow` the other.
    [
        pytest.param(n, marks=pytest.mark.slow if 2 * n >= SEEDS else ())
        for n in range(0, SEEDS, CHUNK)
    ],
)
def test_all_rules_hold_while_everything_goes_wrong(first: int) -> None:
    """The counts at the end prove that the faults did happen."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        ended = run_seed("lossy", seed)
        seen["kills"] += ended.kill_count
        seen["restarts"] += ended.restart_count
        seen["snapshots"] += ended.snapshot_count
        seen.update(vars(ended.faults))
        seen.update(str(outcome) for outcome in ended.log.checker.history.plan_ends.values())

    assert seen["kills"] >= CHUNK
    assert seen["restarts"] > seen["kills"]
    assert seen["snapshots"] > 10 * CHUNK
    assert min(seen["lost"], seen["repeated"], seen["unacknowledged"], seen["delayed"]) > 0
    assert min(seen["accepted"], seen["cancelled"], seen["expired"]) > 0


@pytest.mark.parametrize("first", range(0, CLOSING_SEEDS, 5))
@pytest.mark.parametrize("scenario", ["barrier", "buffer", "compass", "ours"])
def test_under_every_closing_rule_all_rules_hold_and_the_target_is_reached(
    scenario: str, first: int
) -> None:
    """Workers are killed, some for good, and updates lost: nothing hangs for it."""
    seen: Counter[str] = Counter()
    for seed in range(first, first + 5):
        ended = run_seed(scenario, seed)
        history = ended.log.checker.history
        seen["kills"] += ended.kill_count
        seen.update(f"group {bool(p.group)}" for p in history.plans.values())
        steps = ended.case.config.local.steps
        seen["stretched"] += sum(p.local_steps > steps for p in history.plans.values())

    assert seen["kills"] > 0
    assert (seen["stretched"] > 0) is (scenario == "ours")
    if scenario == "compass":
        assert min(seen["group True"], seen["group False"]) > 0


@pytest.mark.parametrize("seed", range(5))
def test_a_calm_run_reaches_its_target_without_a_restart(seed: int) -> None:
    ended = run_seed("calm", seed)
    history = ended.log.checker.history

    assert (0, 0) == (ended.kill_count, ended.restart_count)
    assert ended.case.config.rounds.versions == history.version
    assert {"accepted", "stale", "expired", "cancelled"} >= {
        str(outcome) for outcome in history.plan_ends.values()
    }


def test_plans_with_frozen_prefixes_and_a_floor_survive_crashes() -> None:
    frozen, kills = 0, 0
    for seed in range(10):
        ended = run_seed("planned", seed)
        frozen += sum(bool(p.frozen) for p in ended.log.checker.history.plans.values())
        kills += ended.kill_count

    assert frozen > 0
    assert kills > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_run_whose_workers_die_ends_and_names_them(seed: int) -> None:
    ended = run_seed("stall", seed)
    run_end = ended.log.checker.history.ended

    assert run_end is not None
    assert "stalled" == run_end.reason
    assert all(f"worker-{i}" in run_end.detail for i in range(ended.case.device_count))


def test_a_run_whose_shard_is_missing_ends_and_names_it() -> None:
    ended = run_seed("lost-shard", 0)
    run_end = ended.log.checker.history.ended

    assert run_end is not None
    assert "stalled" == run_end.reason
    assert "shard 1" in run_end.detail


@pytest.mark.parametrize("scenario", ["calm", "lossy"])
def test_the_same_seed_gives_the_same_log(scenario: str) -> None:
    first, second = run_seed(scenario, 7), run_seed(scenario, 7)

    assert first.log.fingerprint() == second.log.fingerprint()


def test_another_seed_gives_another_log() -> None:
    assert run_seed("calm", 1).log.fingerprint() != run_seed("calm", 2).log.fingerprint()


def test_of_two_planners_the_older_leaves_and_the_run_goes_on() -> None:
    fenced = [name for seed in range(4) for name in run_seed("rivals", seed).fenced]

    assert {"planner-0"} == set(fenced)


def test_a_rule_broken_in_a_run_ends_the_simulation() -> None:
    """The checkers judge within the append: here a run is made to end otherwise than it should."""
    scenario = load_scenario("calm").model_copy(update={"ends": "stalled"})

    with pytest.raises(InvariantError, match="the_run_ends broken"):
        run_virtual(Cluster(draw_case(scenario, 0)).run())


def test_virtual_time_costs_no_time() -> None:
    async def wait() -> float:
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(1e6)
        return asyncio.get_running_loop().time() - began_s

    assert 1e6 == pytest.approx(run_virtual(wait()))
