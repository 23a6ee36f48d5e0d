from pathlib import Path
from typing import Any

import pytest

from cos2p.errors import SettingsError
from cos2p_experiments.spec import prepare
from cos2p_experiments.suite import Suite, check, load_suite

ROOT = Path(__file__).resolve().parents[3]
BODY = """
name = "small"
task = "digits"
seeds = [4, 5]
horizon_s = 10
evaluate_on = "validation"

[run.local]
steps = 4

[settings.iid]
alpha = inf

[settings.dir01]
alpha = 0.1
fleet = "jetson16-weak"
horizon_s = 20
horizons = [5, 10, 20]

[policies.co-s2p]

[policies.slow.run.local]
learning_rate = 1e-4
[policies.slow]
policy = "co-s2p"
[policies.slow.settings.dir01.local]
learning_rate = 1e-5

[quick]
seeds = [4]
settings = ["dir01"]
horizon_s = 2
"""


def load(folder: Path, body: str = BODY) -> Suite:
    file = folder / "suite.toml"
    file.write_text(body)
    return load_suite(file)


def test_there_is_a_cell_for_each_policy_setting_and_seed(tmp_path: Path) -> None:
    cells = load(tmp_path).cells()

    assert 8 == len(cells)
    assert 8 == len({c.key for c in cells})


def test_all_policies_come_before_the_next_seed(tmp_path: Path) -> None:
    assert [4, 4, 4, 4, 5, 5, 5, 5] == [c.seed for c in load(tmp_path).cells()]


def test_a_label_is_its_own_policy_unless_it_names_another(tmp_path: Path) -> None:
    cells = load(tmp_path).cells()[:2]

    assert [("co-s2p", "co-s2p"), ("slow", "co-s2p")] == [(c.policy, c.base_policy) for c in cells]


def test_settings_say_what_suites_leave_open(tmp_path: Path) -> None:
    iid, _, dir01, _ = load(tmp_path).cells()[:4]

    assert (float("inf"), "jetson16", 10.0) == (iid.alpha, iid.fleet, iid.horizon_s)
    assert (0.1, "jetson16-weak", 20.0) == (dir01.alpha, dir01.fleet, dir01.horizon_s)


def test_what_was_tuned_for_a_setting_counts_there_alone(tmp_path: Path) -> None:
    configs = [prepare(c).config.local for c in load(tmp_path).cells()[:4]]

    assert [2e-3, 1e-4, 2e-3, 1e-5] == [c.learning_rate for c in configs]
    assert [4] * 4 == [c.steps for c in configs]


def test_a_grid_makes_a_form_of_each_combination(tmp_path: Path) -> None:
    grid = '[policies.co-s2p.grid]\n"local.steps" = [2, 5]\n"plans.coverage_floor" = [1, 4]'
    suite = load(tmp_path, BODY.replace("[policies.co-s2p]", grid))

    forms = suite.forms()

    assert "co-s2p,steps=5,coverage_floor=1" in forms
    assert {"local": {"steps": 5}, "plans": {"coverage_floor": 1}} == (
        forms["co-s2p,steps=5,coverage_floor=1"].run
    )
    assert 5 == len(forms)


def test_quick_takes_what_its_part_says(tmp_path: Path) -> None:
    quick = load(tmp_path).quick_version()

    cells = quick.cells()
    assert "small-quick" == quick.name
    assert [("dir01", 4, 2.0)] * 2 == [(c.setting, c.seed, c.horizon_s) for c in cells]
    assert () == quick.settings["dir01"].horizons


def test_a_suite_without_a_quick_part_says_so(tmp_path: Path) -> None:
    suite = load(tmp_path, BODY[: BODY.index("[quick]")])

    with pytest.raises(SettingsError, match=r"small has no \[quick\] part"):
        suite.quick_version()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"small"', '"Small suite"'), "name: String should match"),
        (("seeds = [4, 5]", "seeds = []"), "seeds: Tuple should have at least 1 item"),
        (('settings = ["dir01"]', 'settings = ["dir02"]'), "quick names 'dir02'"),
        (("settings.dir01.local]", "settings.dir02.local]"), "names the setting 'dir02': no such"),
        (("alpha = 0.1", "alpha = 0"), "settings.dir01.alpha: Input should be greater than 0"),
        (("horizon_s = 10", "horizon = 10"), "horizon: Extra inputs are not permitted"),
        (("[settings.iid]", "[settings.iid"), "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, BODY.replace(*change)).quick_version()


def test_a_missing_suite_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"can't read the suite .*no\.toml: No such file"):
        load_suite(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('policy = "co-s2p"', 'policy = "best"'), "iid, slow: no policy is named 'best'"),
        (("steps = 4", "steps = 0"), "iid, co-s2p: settings of the run: local.steps"),
        (('"jetson16-weak"', '"yacht"'), "dir01, co-s2p: no fleet is named 'yacht'"),
        (('task = "digits"', 'task = "numbers"'), "iid, co-s2p: 'numbers' names no task"),
    ],
)
def test_a_cell_that_could_not_begin_is_named_before_any_does(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    suite = load(tmp_path, BODY.replace(*change))

    with pytest.raises(SettingsError, match=message):
        check(suite.cells())


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments").glob("*.toml")), ids=lambda f: f.name
)
def test_every_suite_that_ships_can_begin(file: Path) -> None:
    cells: Any = load_suite(file).cells()

    assert {prepare(c).config.policy for c in cells} == {c.base_policy for c in cells}


def test_the_documented_suite_can_begin(tmp_path: Path) -> None:
    page = (ROOT / "docs/experiments.md").read_text()
    suite = load(tmp_path, page.split("```toml")[1].split("```")[0])

    forms = {c.policy for c in suite.quick_version().cells()}

    assert {"rolling", "co-s2p,steps=2", "co-s2p,steps=5", "co-s2p,steps=10"} == forms
    assert {"co-s2p", "fedrolex"} == {prepare(c).config.policy for c in suite.cells()[:4]}
