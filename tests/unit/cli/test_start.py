"""How a run's settings come together, and which folders a new run may take."""

import asyncio
from pathlib import Path

import pytest

from cos2p.errors import BudgetError, RunExistsError, SettingsError
from cos2p.model.cost import CostModel
from cos2p.model.units import STEM, Unit, UnitTable
from cos2p.run_config import LocalConfig, RunConfig
from cos2p.settings import BusSettings
from cos2p_cli import options
from cos2p_cli.fleet import DEMO_CLASSES, LocalDevice
from cos2p_cli.local_run import claim, free_folder, with_budget
from cos2p_cli.pool import NewRunJob, initialise
from cos2p_cli.start import StartOptions, changes_of, init
from cos2p_planner.presets import config_of


def large_table() -> UnitTable:
    heads = [Unit(f"block{b}.head.{i}", "head", b, 100, 10, 10) for b in range(4) for i in range(8)]
    return UnitTable((Unit("stem", "core", STEM, 50, 5, 5), *heads))


def test_a_run_file_overrides_single_settings_of_the_task(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("seed = 7\n[rounds]\nversions = 3\n")
    base = RunConfig(local=LocalConfig(steps=33))

    found = config_of(base, changes_of(file))

    assert (7, 3, 33) == (found.seed, found.rounds.versions, found.local.steps)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[rounds]\nversoins = 3\n", "versoins"), ("[rounds]\nversions = 0\n", "versions"), ("x", "")],
)
def test_a_wrong_run_file_is_named_with_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=r"run\.toml.*" + message):
        changes_of(file)


def test_a_missing_run_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml"):
        changes_of(tmp_path / "none.toml")


def test_a_folder_with_a_run_is_refused_and_another_suggested(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "log.sqlite").touch()

    with pytest.raises(RunExistsError, match="demo-2"):
        claim(folder)


def test_a_folder_in_use_names_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with claim(folder), pytest.raises(RunExistsError, match=r"process \d+"):
        claim(folder)


def test_the_next_free_folder_has_the_next_number(tmp_path: Path) -> None:
    wanted = tmp_path / "demo"
    assert wanted == free_folder(wanted)
    wanted.mkdir()
    (tmp_path / "demo-2").mkdir()

    assert tmp_path / "demo-3" == free_folder(wanted)


def test_a_class_becomes_a_budget_in_bytes() -> None:
    cost = CostModel.of(large_table(), RunConfig())

    device = with_budget(LocalDevice("w", 0, DEMO_CLASSES[0]), cost)

    assert device.memory_bytes is not None
    assert 0.6 == pytest.approx(cost.fraction_of(device.memory_bytes), abs=1e-6)


def test_a_budget_below_the_smallest_submodel_says_which_would_do() -> None:
    cost = CostModel.of(large_table(), RunConfig())

    with pytest.raises(BudgetError, match=str(cost.smallest_bytes)):
        with_budget(LocalDevice("w", 0, None, 1), cost)


def test_an_unknown_policy_is_refused_before_a_run_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="no policy is named 'fedavg'"):
        config_of(RunConfig(), {"policy": "fedavg"})


def asked(name: str, *, if_absent: bool) -> StartOptions:
    return StartOptions("digits", run_id=name, if_absent=if_absent)


def test_asking_for_a_run_twice_is_fine_where_one_says_so(tmp_path: Path) -> None:
    place = BusSettings(bus=f"sqlite:{tmp_path}/run")
    init(place, asked("site-a", if_absent=True))
    init(place, asked("site-a", if_absent=True))

    with pytest.raises(RunExistsError, match="there is a run"):
        init(place, asked("site-a", if_absent=False))


def test_two_runs_under_one_prefix_are_refused_and_both_named(tmp_path: Path) -> None:
    place = BusSettings(bus=f"sqlite:{tmp_path}/run")
    init(place, asked("site-a", if_absent=True))

    with pytest.raises(RunExistsError, match=r"belongs to run site-a, not to site-b"):
        init(place, asked("site-b", if_absent=True))


def test_a_run_that_may_be_there_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--run-id"):
        init(BusSettings(bus=f"sqlite:{tmp_path}/run"), StartOptions("digits", if_absent=True))


@pytest.mark.parametrize(
    ("task", "objective"), [("digits", "exits"), ("examples.table_model:TASK", "final")]
)
def test_the_demo_adds_exits_to_the_models_that_can_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, objective: str
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3]))
    place = BusSettings(bus=f"sqlite:{tmp_path}/run")
    initialise(NewRunJob(place, task, "demo", {}, show_exits=True))

    async def requested() -> RunConfig:
        async with options.opened(place) as bus:
            return (await options.history_of(bus, place.prefix)).config

    assert objective == asyncio.run(requested()).local.objective
