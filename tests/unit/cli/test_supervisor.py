"""The crew: what becomes of children that end, fail, are killed, or will not stop."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from cos2p.clock import SystemClock
from cos2p.errors import ExitCode, SettingsError
from cos2p_cli.supervisor import ChildError, ChildProcesses


def fails() -> None:
    raise SettingsError("the task\nis wrong")


def breaks() -> None:
    raise ValueError("a bug")


def waits() -> None:
    time.sleep(60)


def ignores_term() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write("deaf\n")
    sys.stdout.flush()
    time.sleep(60)


def writes(path: str) -> None:
    Path(path).write_text("done")


def leads_a_group(pid: int) -> bool:
    return os.getpgid(pid) == pid


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.02)


def with_child_processes(
    logs: Path, body: Callable[[ChildProcesses], Awaitable[None]]
) -> ChildProcesses:
    async def run() -> ChildProcesses:
        async with ChildProcesses(logs, SystemClock()) as child_processes:
            await body(child_processes)
        return child_processes

    return asyncio.run(run())


def test_a_child_does_its_work_and_is_waited_for(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        assert await child_processes.finished(
            child_processes.fork("a", "job", writes, str(tmp_path / "out"))
        )

    with_child_processes(tmp_path, body)

    assert "done" == (tmp_path / "out").read_text()


def test_a_foreseen_error_of_a_child_comes_with_its_line_and_code(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        await child_processes.finished(child_processes.fork("worker-1", "worker", fails))

    with pytest.raises(ChildError, match=r"^worker-1: the task is wrong$") as caught:
        with_child_processes(tmp_path, body)

    assert ExitCode.USAGE == caught.value.exit_code


def test_a_bug_in_a_child_names_its_log(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        await child_processes.finished(child_processes.fork("worker-1", "worker", breaks))

    with pytest.raises(ChildError, match=r"a bug.*worker-1\.log") as caught:
        with_child_processes(tmp_path, body)

    assert ExitCode.BUG == caught.value.exit_code


def test_a_killed_worker_is_noted_and_stops_nothing(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        child = child_processes.fork("worker-1", "worker", waits)
        os.kill(child.process.pid, signal.SIGKILL)
        await child_processes.finished(child)

    child_processes = with_child_processes(tmp_path, body)

    assert ["worker-1 was killed (SIGKILL); the run goes on without it"] == child_processes.notes


def test_a_killed_evaluator_is_started_again(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        child = child_processes.fork("evaluator", "service", waits)
        first = child.process.pid
        os.kill(first, signal.SIGKILL)
        while child.process.pid == first:
            child_processes.check()
            await asyncio.sleep(0.02)
        assert child.running

    child_processes = with_child_processes(tmp_path, body)

    assert ["evaluator was killed (SIGKILL) and started again"] == child_processes.notes
    assert not any(c.running for c in child_processes.children)


def test_a_child_that_ignores_the_request_to_stop_is_killed_at_the_deadline(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        child = child_processes.fork("deaf", "worker", ignores_term)
        await until(lambda: child.log.exists() and "deaf" in child.log.read_text())
        assert ["deaf"] == await child_processes.stop(deadline_s=0.2)

    child_processes = with_child_processes(tmp_path, body)

    assert -signal.SIGKILL == child_processes.children[0].process.code()


def test_children_are_in_their_own_process_groups(tmp_path: Path) -> None:
    async def body(child_processes: ChildProcesses) -> None:
        forked = child_processes.fork("a", "worker", waits)
        service = child_processes.start_service(
            "b", "a_module_that_waits", {"PYTHONPATH": str(tmp_path)}
        )
        for child in (forked, service):
            pid = child.process.pid
            await until(partial(leads_a_group, pid))

    package = tmp_path / "a_module_that_waits"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time\ndef main():\n    time.sleep(60)\n")
    with_child_processes(tmp_path, body)


def test_a_service_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """No role outlives the command, even one that was killed."""
    package = tmp_path / "a_module_that_waits"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time\ndef main():\n    time.sleep(60)\n")
    code = f"""
import asyncio, os, signal
from pathlib import Path
from cos2p.clock import SystemClock
from cos2p_cli.supervisor import ChildProcesses
from tests_children import waits
children = ChildProcesses(Path({str(tmp_path)!r}), SystemClock())
a = children.start_service("b", "a_module_that_waits", {{"PYTHONPATH": {str(tmp_path)!r}}})
b = children.fork("a", "worker", waits)
Path({str(tmp_path / "pids")!r}).write_text(f"{{a.process.pid}} {{b.process.pid}}")
os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "tests_children.py").write_text("import time\ndef waits():\n    time.sleep(60)\n")
    (tmp_path / "parent.py").write_text(code)

    async def run() -> list[int]:
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        parent = await asyncio.create_subprocess_exec(
            sys.executable, str(tmp_path / "parent.py"), env=env
        )
        await parent.wait()
        return [int(x) for x in (tmp_path / "pids").read_text().split()]

    pids = asyncio.run(run())
    deadline = time.monotonic() + 10
    while (left := [p for p in pids if _runs(p)]) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert [] == left


def _runs(pid: int) -> bool:
    try:
        return "Z" != Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
