"""Suites of very short cells in real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cos2p_experiments.fleets import Scale
from cos2p_experiments.result import RESULT_FILE, RUN_FILE
from cos2p_experiments.runner import (
    Advanced,
    Event,
    Failed,
    Finished,
    cells_folder,
    failure,
    run_cells,
    split_done,
)
from cos2p_experiments.spec import CellSpec
from cos2p_experiments.suite import load_suite

pytestmark = [
    pytest.mark.processes,
    # The cells of the module's fixture take half a minute: one process runs them.
    pytest.mark.xdist_group("experiments in processes"),
]

TINY = CellSpec(
    suite="test",
    task="digits",
    setting="iid",
    policy="ours",
    base_policy="co-s2p",
    seed=0,
    run={"local": {"steps": 1, "batch_size": 4}},
    horizon_s=0.3,
    evaluate_every_s=10.0,
    evaluate_count=10,
    scale=Scale(step_s=0.05, transfer_steps=1.0),
)
BROKEN = replace(TINY, policy="broken", base_policy="best")
SUITE = """
name = "tiny"
seeds = [0, 1]
horizon_s = 0.3
evaluate_every_s = 10
evaluate_count = 10
[scale]
step_s = 0.05
transfer_steps = 1
[run.local]
steps = 1
batch_size = 4
[settings.iid]
alpha = inf
[policies.co-s2p]
"""


@dataclass(frozen=True)
class RecordedEvents:
    """What a runner told of three cells of which one could not begin."""

    folder: Path
    events: list[Event]

    def of(self, kind: type[Event]) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedEvents:
    folder = tmp_path_factory.mktemp("cells")
    events: list[Event] = []
    run_cells([BROKEN, TINY, replace(TINY, seed=1)], folder, 2, events.append)
    return RecordedEvents(folder, events)


def test_every_cell_is_begun_and_ended(recorded: RecordedEvents) -> None:
    assert 3 == len({e.spec.key for e in recorded.of(Advanced)})
    assert [0, 1] == sorted(e.result.identity.seed for e in recorded.of(Finished))


def test_a_finished_cell_leaves_its_run_file(recorded: RecordedEvents) -> None:
    assert (recorded.folder / TINY.key / RUN_FILE).exists()


def test_a_cell_that_fails_says_why_and_stops_no_other(recorded: RecordedEvents) -> None:
    (failed,) = recorded.of(Failed)

    assert "broken" == failed.spec.policy
    assert failed.reason.startswith("no policy is named 'best': take one of")
    assert failed.reason == failure(recorded.folder / BROKEN.key)


def test_what_is_done_is_not_due_again(recorded: RecordedEvents) -> None:
    done, due = split_done([TINY, BROKEN], recorded.folder)

    assert ["ours"] == [r.identity.policy for r in done]
    assert [BROKEN] == due


def test_a_cell_whose_method_has_changed_since_is_due_again(
    recorded: RecordedEvents, tmp_path: Path
) -> None:
    shutil.copytree(recorded.folder / TINY.key, tmp_path / TINY.key)
    file = tmp_path / TINY.key / RESULT_FILE
    result = json.loads(file.read_text())
    result["config"]["plans"]["growth"]["start"] = 0.9
    file.write_text(json.dumps(result))

    assert ([], [TINY]) == split_done([TINY], tmp_path)


def command(folder: Path, *words: str) -> list[str]:
    file = folder / "tiny.toml"
    file.write_text(SUITE)
    cos2p = [sys.executable, "-c", "from cos2p_cli.main import main; main()"]
    return [*cos2p, "experiment", "run", str(file), "--out", str(folder), *words]


def finished(folder: Path) -> dict[str, float]:
    """When each cell's result was written."""
    return {p.parent.name: p.stat().st_mtime for p in folder.glob(f"tiny/cells/*/{RESULT_FILE}")}


def wait_for(folder: Path, count: int, running: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 400
    while len(finished(folder)) < count and time.monotonic() < end:
        assert running.poll() is None
        time.sleep(0.05)


def run_json(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.slow
def test_a_suite_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    running = subprocess.Popen(command(tmp_path), text=True, stdout=subprocess.DEVNULL)
    wait_for(tmp_path, 1, running)
    running.kill()
    running.wait()
    before = finished(tmp_path)

    code, found = run_json(command(tmp_path, "--resume", "--json"))

    assert (0, 2) == (code, len(found["cells"]))
    assert len(before) == found["counts"]["before"] == 1
    after = finished(tmp_path)
    assert before == {name: after[name] for name in before}


def heed_interrupts() -> None:
    """What is started in the background of a script ignores Ctrl-C, and its children do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize(("end", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_no_process_outlives_a_runner_that_was_stopped(
    tmp_path: Path, end: signal.Signals, code: int
) -> None:
    arguments = command(tmp_path)
    (tmp_path / "tiny.toml").write_text(SUITE.replace("horizon_s = 0.3", "horizon_s = 10000"))
    with subprocess.Popen(
        arguments,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    ) as running:
        try:
            computing = wait_for_cell(tmp_path, running)
            running.send_signal(end)
            _, output = running.communicate(timeout=60)
        finally:
            running.kill()

    assert code == running.returncode
    assert ("--resume continues there" in output) == (end is signal.SIGINT)
    assert gone_within(30.0, computing)


def wait_for_cell(folder: Path, running: "subprocess.Popen[str]") -> int:
    """The process that computes a cell, by the log that it has open."""
    end = time.monotonic() + 400
    while time.monotonic() < end:
        assert running.poll() is None
        for process in Path("/proc").glob("[0-9]*"):
            if folder.as_posix() in target_of(process / "fd" / "1"):
                return int(process.name)
        time.sleep(0.1)
    raise AssertionError("no cell began")


def target_of(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def gone_within(seconds: float, process: int) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not Path(f"/proc/{process}/fd/1").is_symlink():
            return True
        time.sleep(0.1)
    return False


def test_a_suite_with_a_failed_cell_names_it_and_ends_with_an_error(tmp_path: Path) -> None:
    arguments = command(tmp_path, "--json")
    huge = '[policies.huge]\npolicy = "co-s2p"\n[policies.huge.run.local]\nbatch_size = 100000\n'
    (tmp_path / "tiny.toml").write_text(SUITE.replace("[0, 1]", "[0]") + huge)

    code, found = run_json(arguments)

    assert 8 == code == found["exit_code"]
    assert 1 == len(found["cells"])
    assert "1 cell of 2 failed: iid--huge--s0" in found["error"]
    assert ["below the smallest submodel" in why for why in found["failed"].values()] == [True]


def test_a_folder_that_holds_results_is_not_taken_without_a_word(
    tmp_path: Path, recorded: RecordedEvents
) -> None:
    arguments = command(tmp_path, "--json")
    (first, _) = load_suite(tmp_path / "tiny.toml").cells()
    shutil.copytree(recorded.folder / TINY.key, cells_folder(tmp_path, "tiny") / first.key)

    code, found = run_json(arguments)

    assert 2 == code
    assert "holds 1 of the suite's 2 cells already: --resume continues" in found["error"]
