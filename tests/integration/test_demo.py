"""The demo as a user runs it: real processes, real images, one command."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COS2P = [sys.executable, "-c", "from cos2p_cli.main import main; main()"]
START_LIMIT_S = 120.0
END_LIMIT_S = 240.0

pytestmark = [pytest.mark.processes, pytest.mark.slow]


def cos2p(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COS2P, *arguments], cwd=cwd, capture_output=True, text=True, timeout=END_LIMIT_S
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def short(home: Path) -> dict[str, Any]:
    """What a short demo with four workers says."""
    done = cos2p("demo", "--workers", "4", "--versions", "6", "--dir", "run", "--json", cwd=home)
    assert "" == done.stderr
    assert 0 == done.returncode
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_reaches_its_last_version_and_measures_it(short: dict[str, Any]) -> None:
    assert ("finished", 6, "target") == (short["phase"], short["version"], short["end"]["reason"])
    assert 6 == short["accuracy"][-1]["version"]
    assert 0 < short["accuracy"][-1]["accuracy"] <= 1


def test_no_worker_holds_more_than_its_budget_by_the_log_and_by_measurement(
    short: dict[str, Any],
) -> None:
    assert [] == short["audit"]["findings"]
    assert short["audit"]["plans"] == short["plans"]["issued"] > 0
    assert short["audit"]["share_max"] <= 0.6
    assert [0.6, 0.45, 0.3, 0.15] == [w["budget_share"] for w in short["workers"]]
    for worker in short["workers"]:
        assert worker["held_share_max"] <= worker["budget_share"]
        assert 0 < worker["peak_measured_bytes"] <= worker["memory_bytes"]


def test_every_worker_is_trained_alone_with_as_many_steps(short: dict[str, Any]) -> None:
    steps = {w["worker_id"]: w["steps"] for w in short["workers"]}
    budgets = {w["worker_id"]: w["budget_share"] for w in short["workers"]}

    assert steps == {a["worker_id"]: a["steps"] for a in short["alone"]["workers"]}
    assert all(a["share"] <= budgets[a["worker_id"]] for a in short["alone"]["workers"])
    best = max(a["accuracy"] for a in short["alone"]["workers"])
    assert best == short["alone"]["best"]["accuracy"]


def test_slower_devices_are_really_throttled(short: dict[str, Any]) -> None:
    throttle = [w["throttle_s"] / w["busy_s"] for w in short["workers"]]

    assert 0 == throttle[0]
    assert 0 < throttle[1] < throttle[3]


def test_the_report_is_one_page_that_loads_nothing(home: Path, short: dict[str, Any]) -> None:
    page = (home / short["report"]).read_text()

    assert page.count("<svg") >= 5
    assert "src=" not in page.replace('src="data:', "")
    assert "@import" not in page


def test_the_run_replays_to_the_same_bytes(home: Path, short: dict[str, Any]) -> None:
    done = cos2p("replay", "--bus", short["folder"], "--json", cwd=home)

    assert (0, "") == (done.returncode, done.stderr)
    assert 7 == json.loads(done.stdout)["compared_count"]


def test_the_next_commands_that_it_names_work(home: Path, short: dict[str, Any]) -> None:
    budget = str(min(w["memory_bytes"] for w in short["workers"]))
    what_if = cos2p("replay", "--bus", "run", "--without", "worker-3", "--json", cwd=home)
    part = cos2p("export", "--bus", "run", "--budget", budget, "--out", "s.safetensors", cwd=home)

    assert (0, 0) == (what_if.returncode, part.returncode), what_if.stderr + part.stderr
    assert json.loads(what_if.stdout)["what_if"] is True
    assert (home / "s.safetensors").stat().st_size > 1000


def test_a_users_model_without_exits_is_trained_too(home: Path) -> None:
    (home / "examples").symlink_to(Path(__file__).resolve().parents[2] / "examples")
    options = ("--task", "examples.table_model:TASK", "--workers", "4", "--versions", "2")
    done = cos2p("demo", *options, "--dir", "table", "--json", cwd=home)

    assert (0, "") == (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    assert (2, []) == (found["version"], found["audit"]["findings"])
    assert [] == list(found["accuracy"][-1]["exit_accuracies"])


def test_a_second_demo_never_writes_over_a_run(home: Path, short: dict[str, Any]) -> None:
    done = cos2p("demo", "--dir", short["folder"], cwd=home)

    assert 2 == done.returncode
    assert "run-2" in done.stderr
    assert 1 == len(done.stderr.strip().splitlines())


def test_a_budget_below_the_smallest_submodel_says_which_would_do(home: Path) -> None:
    done = cos2p(
        "run", "--task", "digits", "--workers", "1", "--memory", "1kB", "--bus", "tiny", cwd=home
    )

    assert 2 == done.returncode
    assert "would do" in done.stderr


# ------------------------------------------------------------ while it runs


class Running:
    """A demo in the background."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "live"
        self.process = subprocess.Popen(
            [*COS2P, "demo", "--workers", "4", "--dir", "live", "--json"],
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> dict[str, int]:
        return {p.stem: int(p.read_text()) for p in (self.folder / "logs").glob("*.pid")}

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + START_LIMIT_S
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "the demo did not get there"
            time.sleep(0.1)

    def status(self) -> dict[str, Any]:
        done = cos2p("status", "--bus", "live", "--json", cwd=self.folder.parent)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def reached(self, version: int) -> bool:
        return (self.folder / "log.sqlite").exists() and self.status().get("version", 0) >= version


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    demo = Running(tmp_path)
    yield demo
    if demo.process.poll() is None:
        demo.process.send_signal(signal.SIGINT)
    demo.process.communicate(timeout=60)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_leaves_no_process_and_says_where_the_partial_run_lies(running: Running) -> None:
    running.until(lambda: running.reached(1))
    pids = running.pids()

    running.process.send_signal(signal.SIGINT)
    output, errors = running.process.communicate(timeout=60)

    assert 130 == running.process.returncode
    assert {"error": "interrupted", "exit_code": 130} == json.loads(output)
    assert "cos2p status --bus live" in errors
    assert len(pids) >= 7
    assert [] == [name for name, pid in pids.items() if alive(pid)]


def test_a_killed_worker_is_lost_and_the_run_goes_on(running: Running) -> None:
    running.until(lambda: running.reached(1))
    os.kill(running.pids()["worker-2"], signal.SIGKILL)
    reached = running.status()["version"]

    running.until(lambda: running.reached(reached + 10))

    assert running.process.poll() is None


def test_a_killed_aggregator_is_started_again_and_the_run_goes_on(running: Running) -> None:
    running.until(lambda: running.reached(2))
    first = running.pids()["aggregator"]
    os.kill(first, signal.SIGKILL)

    running.until(lambda: running.pids()["aggregator"] != first)
    reached = running.status()["published"]
    running.until(lambda: running.status()["published"] > reached + 1)


def test_a_second_demo_on_a_running_one_names_its_process(running: Running) -> None:
    running.until(lambda: (running.folder / "lock").exists())

    done = cos2p("demo", "--dir", "live", cwd=running.folder.parent)

    assert 2 == done.returncode
    assert str(running.process.pid) in done.stderr
