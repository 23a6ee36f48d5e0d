"""What an operator's commands say of a golden log: snapshots are compared, devices admitted."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from golden_logs.record import GOLDEN

from cos2p.clock import SystemClock
from cos2p.errors import DivergedError, SettingsError
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.snapshots import Position, Snapshot, write_snapshot
from cos2p.log.state_codec import pack
from cos2p.settings import BusSettings
from cos2p_cli import requests
from cos2p_cli.replay_command import ReplayOptions, run
from cos2p_planner.fold import PlannerState
from cos2p_planner.snapshot_check import OTHER
from cos2p_sim.cluster import PREFIX

KILLS = next(golden for golden in GOLDEN if golden.name == "kills").file


def settings_of(file: Path) -> BusSettings:
    return BusSettings(bus=f"sqlite:{file}", prefix=PREFIX)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copy(KILLS, tmp_path / "run.sqlite"))


async def write(log: Path, number: int, *, of_this_program: bool) -> None:
    """A snapshot of the log's start: the right one, or one that claims to have read more."""
    bus = SqliteBus(log, SystemClock())
    ends = {"fleet": 0, "decisions": 0 if of_this_program else 1, "models": 0}
    positions = {name: Position(end) for name, end in ends.items()}
    state = pack(PlannerState, PlannerState())
    await write_snapshot(bus, PREFIX, Snapshot("planner", number, "sim", positions, state))
    await bus.close()


def test_replay_compares_every_snapshot_with_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    run(settings_of(KILLS), ReplayOptions(as_json=True))

    found = json.loads(capsys.readouterr().out)["snapshots"]
    assert {"planner", "history"} == {snapshot["of"] for snapshot in found}
    assert all(snapshot["compared"] or OTHER == snapshot["reason"] for snapshot in found)


def test_replay_says_so_in_words(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(write(log, 1000, of_this_program=True))

    run(settings_of(log), ReplayOptions())

    assert "compared: all equal the fold of the log" in capsys.readouterr().out


def test_replay_names_a_snapshot_that_is_not_the_fold_of_the_log(log: Path) -> None:
    asyncio.run(write(log, 1000, of_this_program=False))

    with pytest.raises(DivergedError, match=r"snapshot 1000 of the planner of run sim differs"):
        run(settings_of(log), ReplayOptions())


def test_a_what_if_compares_no_snapshot(capsys: pytest.CaptureFixture[str]) -> None:
    run(settings_of(KILLS), ReplayOptions(without=("worker-0",), as_json=True))

    assert [] == json.loads(capsys.readouterr().out)["snapshots"]


def test_admit_refuses_a_run_that_has_ended(log: Path) -> None:
    with pytest.raises(SettingsError, match="run sim has ended already"):
        requests.admit(settings_of(log), "worker-0", as_json=False)
