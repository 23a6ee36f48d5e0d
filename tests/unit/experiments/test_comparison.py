"""The tables of a comparison, byte by byte, for suites that are worked by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from sample_results import cell, device, study

from cos2p_experiments import comparison, measures
from cos2p_experiments.study import Study
from cos2p_experiments.suite import SettingPart
from cos2p_experiments.table import markdown

GOLDEN = Path(__file__).with_name("golden")


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.md").read_text()


def worked() -> Study:
    """Late, ours is 1, 2 and 3 points ahead of rolling; heterofl has one of the three seeds."""
    ours = [(0.3, 0.5, 0.51), (0.3, 0.5, 0.54), (0.3, 0.5, 0.57)]
    rolling = [(0.2, 0.4, 0.50), (0.2, 0.4, 0.52), (0.2, 0.4, 0.54)]
    return study(
        [cell("co-s2p", seed, a) for seed, a in enumerate(ours)]
        + [cell("rolling", seed, a) for seed, a in enumerate(rolling)]
        + [cell("heterofl", 1, (0.1, 0.2, 0.3), base="heterofl", closing="synchronous")]
    )


def test_accuracies_at_three_horizons_raw_and_over_time() -> None:
    """Ours late: mean .54, sd .03. Over time: held 0, .3 and .5 for 30 s each, 0.8 / 3."""
    found = comparison.accuracy_table(worked(), "skewed")

    assert golden("accuracy") == markdown(found)


def test_differences_are_paired_and_corrected_and_one_seed_has_no_interval() -> None:
    """Late: mean 2, half 4.3027 / sqrt 3 = 2.48, p .0742, the largest of three.

    Ours comes to rolling's late accuracies after 60, 75 and 77.1 s, rolling itself after 90 s: the
    median ratio is 75 / 90.
    """
    found = comparison.difference_table(worked(), "skewed", "rolling")

    assert golden("differences") == markdown(found)


def test_equal_bytes_are_what_ours_had_moved_and_a_run_that_moved_less_has_a_dash() -> None:
    """Each moves a megabyte between its versions: 3, 4 and 2 in all."""
    cells = [
        cell("co-s2p", 0, (0.3, 0.5, 0.6)),
        cell("rolling", 0, (0.2, 0.3, 0.4, 0.5), every_s=20.0),
        cell("thrifty", 0, (0.2, 0.25)),
    ]

    assert golden("bytes") == markdown(comparison.bytes_table(study(cells), "skewed"))


def test_the_cost_is_of_all_devices_and_memory_of_those_that_are_limited() -> None:
    """Peaks 700 and 900 of 1,000; the third device holds the whole model and does not count.

    N* is 2 and 1 in the full windows, of 2.5 that were possible.
    """
    devices = (
        device("worker-0", budget=0.4, peak=700, busy_s=40.0),
        device("worker-1", budget=0.7, peak=900, busy_s=60.0),
        device("worker-2", budget=1.0, peak=999, busy_s=80.0),
    )
    one = study([cell("co-s2p", devices=devices, coverage=(0, 2, 1))])

    assert golden("cost") == markdown(comparison.cost_table(one, "skewed"))


def test_a_policy_that_ignores_memory_does_not_make_devices_larger_than_they_are() -> None:
    limited = tuple(device(f"worker-{i}", budget=0.5) for i in range(4))
    whole = tuple(replace(d, budget=1.0, memory_bytes=5000) for d in limited)
    cells = [cell("fedavg-ideal", devices=whole), cell("co-s2p", devices=limited)]

    table = comparison.cost_table(study(cells), "skewed")

    assert "N* least (of 2)" == table.columns[2].head


def test_the_time_ratio_counts_runs_that_never_got_there() -> None:
    cells = [
        cell("slow", 0, (0.1, 0.2, 0.3)),
        cell("slow", 1, (0.1, 0.2, 0.5)),
        cell("rolling", 0, (0.2, 0.3, 0.4)),
        cell("rolling", 1, (0.2, 0.3, 0.4)),
    ]

    found = comparison.time_ratio(study(cells), "skewed", "slow", "rolling")

    assert found is not None
    assert (2, 1, None) == (found.count, found.reached, found.median)


def test_policies_without_a_common_seed_are_not_compared() -> None:
    cells = [cell("co-s2p", 0), cell("rolling", 1)]

    table = comparison.difference_table(study(cells), "skewed", "rolling")

    assert (("co-s2p", None, None, None, None),) == table.rows


def test_horizons_are_the_suite_s_where_it_names_them() -> None:
    named = study([cell()], settings={"skewed": SettingPart(horizons=(35.0, 65.0, 80.0))})

    table = comparison.accuracy_table(named, "skewed")

    assert ["early (35 s)", "middle (65 s)", "late (80 s)"] == [c.head for c in table.columns[2:5]]


@pytest.mark.parametrize(("averaged", "expected"), [(True, 0.6), (False, 0.5)])
def test_a_policy_without_an_average_publishes_its_raw_version(
    averaged: bool, expected: float
) -> None:
    given = cell(accuracies=(0.2, 0.4, 0.6))
    points = tuple(p if averaged else replace(p, accuracy=None) for p in given.curve)

    table = comparison.accuracy_table(study([replace(given, curve=points)]), "skewed")

    assert pytest.approx(expected) == table.rows[0][4].mean


def test_an_opponent_that_never_moved_has_no_time_to_be_compared_with() -> None:
    still = replace(cell("rolling", accuracies=(0.1, 0.1)), versions=0)
    still = replace(still, curve=(replace(still.curve[0], version=0, virtual_s=0.0),))

    assert None is comparison.time_ratio(study([cell(), still]), "skewed", "co-s2p", "rolling")


def test_the_bytes_of_a_moment_lie_between_evaluated_versions() -> None:
    assert 1.5e6 == measures.spent_at(cell(), 45.0)
    assert None is measures.spent_at(cell(), 29.0)


def test_a_method_that_answers_with_all_its_exits_is_judged_by_their_mean() -> None:
    plain = cell("depthfl", 0, (0.1, 0.1, 0.1), closing="synchronous")
    curve = tuple(replace(p, mean_accuracy=0.2 * p.version) for p in plain.curve)
    config = {**plain.config, "evaluation": {"answer": "mean"}}
    final, mean = replace(plain, curve=curve), replace(plain, curve=curve, config=config)

    assert 0.1 == measures.accuracy_at(final, 90.0)
    assert pytest.approx(0.6) == measures.accuracy_at(mean, 90.0)
    assert 0.0 == measures.accuracy_at(mean, 90.0, form="raw")
