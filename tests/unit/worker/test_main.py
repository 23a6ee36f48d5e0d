"""The worker's command, as a process of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from cos2p.clock import SystemClock
from cos2p.log.buses.sqlite import SqliteBus
from cos2p.log.codec import encode
from cos2p.log.messages import RunOpened
from cos2p.log.topics import MODELS, specs
from cos2p.run_config import RunConfig
from cos2p_worker.task import load_task


def worker(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "cos2p_worker", "--threads", "1", *arguments],
        env={**os.environ, **environ, "COS2P_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def opened_run(folder: Path) -> str:
    """A bus on which a run of the digits is open."""

    async def open_it() -> None:
        bus = SqliteBus(folder / "run", SystemClock())
        await bus.create_topics(specs("cos2p", 1))
        digest = load_task("digits").units.digest
        opened = RunOpened(
            run_id="r", decisions_offset=1, config=RunConfig(), task="digits", units_digest=digest
        )
        await bus.append(MODELS.full_name("cos2p"), 0, [encode(opened)])
        await bus.close()

    asyncio.run(open_it())
    return f"sqlite:{folder}/run"


def test_a_wrong_setting_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys; from cos2p_worker.__main__ import main; "
        "sys.exit(main(['--slowdown', '0.5']) if 'torch' not in sys.modules else 99)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 2 == done.returncode
    assert "slowdown" in done.stderr


def test_a_misspelt_variable_is_refused_with_the_name_meant() -> None:
    done = worker(COS2P_WORKER_IDD="w1")

    assert 2 == done.returncode
    assert "did you mean COS2P_WORKER_ID?" in done.stderr


def test_an_unknown_task_is_refused_in_one_line(tmp_path: Path) -> None:
    done = worker("--bus", opened_run(tmp_path), "--task", "no_such_module:TASK")

    assert 2 == done.returncode
    assert "there is no module 'no_such_module'" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_budget_below_the_smallest_submodel_is_refused_with_the_number_that_would_do(
    tmp_path: Path,
) -> None:
    done = worker("--bus", opened_run(tmp_path), "--memory-bytes", "1000")

    assert 2 == done.returncode
    assert "bytes) would do" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_worker_that_waits_leaves_on_sigterm_with_code_0(tmp_path: Path) -> None:
    bus = SqliteBus(tmp_path / "run", SystemClock())
    asyncio.run(bus.create_topics(specs("cos2p", 1)))
    asyncio.run(bus.close())
    process = subprocess.Popen(
        [sys.executable, "-m", "cos2p_worker", "--threads", "1", "--bus", f"sqlite:{tmp_path}/run"],
        env={**os.environ, "COS2P_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        assert "service_started" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()

    assert 0 == process.returncode, rest
    assert "service_stopped" in rest
