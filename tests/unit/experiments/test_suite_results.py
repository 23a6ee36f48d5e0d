"""A suite's folder, half run: what is read, and what is said of the rest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sample_results import cell

from cos2p.errors import SettingsError
from cos2p_cli import experiment_report
from cos2p_experiments.result import RESULT_FILE, write_result
from cos2p_experiments.runner import ERROR_FILE, LOG_FILE
from cos2p_experiments.spec import CellSpec
from cos2p_experiments.suite import load_suite
from cos2p_experiments.suite_results import read_study

SUITE = """
name = "small"
seeds = [0, 1]
horizon_s = 90
ours = "co-s2p"
opponent = "heterofl"
tuning = "not at all"

[settings.dir03]
alpha = 0.3
horizons = [10, 20, 90]

[policies.co-s2p]
[policies.heterofl]

[quick]
seeds = [0]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite's folder without a cell."""
    made = tmp_path / "small"
    made.mkdir()
    (made / "suite.toml").write_text(SUITE)
    return made


def specs(folder: Path) -> tuple[CellSpec, ...]:
    return load_suite(folder / "suite.toml").cells()


def place_of(folder: Path, spec: CellSpec) -> Path:
    place = folder / "cells" / spec.key
    place.mkdir(parents=True)
    return place


def finish(folder: Path, spec: CellSpec) -> None:
    """A result as a runner would leave it."""
    made = cell(spec.policy, spec.seed, setting=spec.setting)
    identity = replace(made.identity, suite=spec.suite)
    write_result(replace(made, identity=identity), place_of(folder, spec))


def test_done_cells_are_read_and_the_others_say_why_they_are_not_there(folder: Path) -> None:
    done, failed, begun, _ = specs(folder)
    finish(folder, done)
    (place_of(folder, failed) / ERROR_FILE).write_text("no such fleet\n\nTraceback")
    (place_of(folder, begun) / LOG_FILE).write_text("")

    study = read_study(folder)

    assert [("co-s2p", 0)] == [(c.identity.policy, c.identity.seed) for c in study.cells]
    assert ["failed: no such fleet", "begun, not finished", "not run"] == [
        m.reason for m in study.missing
    ]


def test_what_the_suite_says_of_its_report_is_kept(folder: Path) -> None:
    study = read_study(folder)

    assert load_suite(folder / "suite.toml") == study.suite
    assert (10.0, 20.0, 90.0) == study.horizons_of("dir03")
    assert SUITE == study.suite_text


def test_a_result_of_another_program_s_version_is_missing_with_its_reason(folder: Path) -> None:
    (place_of(folder, specs(folder)[0]) / RESULT_FILE).write_text("{}")

    assert "not a cell's result" in read_study(folder).missing[0].reason


def test_results_of_an_earlier_form_of_the_suite_are_counted_and_left_out(folder: Path) -> None:
    for spec in specs(folder)[:2]:
        finish(folder, spec)
    (folder / "suite.toml").write_text(SUITE.replace("[settings.dir03]", "[settings.even]"))

    study = read_study(folder)

    assert (0, 2) == (len(study.cells), study.surplus)


def test_the_reduced_suite_is_known_by_its_folder_s_name(folder: Path) -> None:
    quick = folder.rename(folder.with_name("small-quick"))

    study = read_study(quick)

    assert ("small-quick", (0,)) == (study.suite.name, study.suite.seeds)


@pytest.mark.parametrize("times", ["[10, 20]", "[20, 10, 90]", "[10, 10, 90]"])
def test_horizons_must_be_three_and_ascend(folder: Path, times: str) -> None:
    (folder / "suite.toml").write_text(SUITE.replace("[10, 20, 90]", times))

    with pytest.raises(SettingsError, match="horizons"):
        read_study(folder)


def test_another_folder_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cos2p experiment run"):
        read_study(tmp_path)


def test_the_command_writes_a_report_of_half_a_suite(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(folder, specs(folder)[0])

    experiment_report.run(folder, None, plots=False, as_json=False)

    assert "1 of 4 cells" in capsys.readouterr().out
    assert "| dir03   | heterofl | 0, 1  | not run |" in (folder / "report/report.md").read_text()


def test_the_command_tells_programs_its_files_gaps_and_goals(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(folder, specs(folder)[0])

    experiment_report.run(folder, folder / "elsewhere", plots=False, as_json=True)

    document = json.loads(capsys.readouterr().out)
    assert str(folder / "elsewhere/report.md") == document["report"]
    assert (1, 3) == (document["cells"], len(document["missing"]))
    assert all(Path(f).exists() for f in document["files"])
    assert {"dir03"} == {g["setting"] for g in document["goals"]}
