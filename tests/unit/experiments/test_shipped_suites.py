"""The suites that come with the project can be read, and ask for what they name."""

from pathlib import Path

import pytest

from cos2p_experiments.suite import load_suite
from cos2p_planner.presets import config_of, merged, with_changes
from cos2p_worker.task import load_task

FILES = sorted((Path(__file__).parents[3] / "experiments").glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_suite_has_the_name_of_its_file_and_settings_that_hold(file: Path) -> None:
    suite = load_suite(file)

    assert file.stem == suite.name
    for cell in {(c.setting, c.policy): c for c in suite.cells()}.values():
        base = with_changes(load_task(cell.task).run, cell.run)
        config_of(base, merged(cell.changes, {"policy": cell.base_policy}))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_what_its_report_compares_is_among_its_policies(file: Path) -> None:
    suite = load_suite(file)

    asked = {suite.ours, suite.opponent, suite.reference} - {None}
    if suite.kind == "ablation":
        asked -= {suite.ours}
    assert asked <= {c.policy for c in suite.cells()}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_only_tuning_looks_at_validation_data_and_shares_no_seed_with_results(file: Path) -> None:
    suite = load_suite(file)

    tunes = "tuning" == suite.name
    assert tunes is (suite.evaluate_on == "validation")
    assert tunes is all(seed >= 100 for seed in suite.seeds)
