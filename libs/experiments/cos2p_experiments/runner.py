"""Runs each cell in its own process, several at a time, and keeps finished results.

Invariants: a cell's folder holds `result.json` only when the cell is done. A killed suite therefore
continues where it stopped, as long as its methods are unchanged. A cell that fails writes the
reason into its folder and stops no other cell. No process outlives the runner.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_double
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cos2p.errors import Cos2pError, ExitCode, SettingsError, StorageError
from cos2p.run_config import RunConfig
from cos2p.service.parent_watch import stop_when_closed
from cos2p_experiments.result import RESULT_FILE, CellResult, read_result
from cos2p_experiments.spec import CellSpec, settings_of

ERROR_FILE = "error.txt"
"""The file with the reason of a failure: one line, then a traceback if the error is unexpected."""
LOG_FILE = "cell.log"
POLL_S = 0.5
PRELOAD = ("torch._dynamo", "cos2p_experiments.cell")
"""Modules that the fork server imports once, because torch takes seconds."""


@dataclass(frozen=True)
class Advanced:
    """A cell has begun or made progress; `share` is its progress, 0 to 1."""

    spec: CellSpec
    share: float


@dataclass(frozen=True)
class Finished:
    """A cell is done."""

    spec: CellSpec
    result: CellResult


@dataclass(frozen=True)
class Failed:
    """A cell has failed, with the reason in one line."""

    spec: CellSpec
    reason: str


Event = Advanced | Finished | Failed


def cells_folder(out: Path, suite: str) -> Path:
    """Return the folder of a suite's cells."""
    return out / suite / "cells"


def split_done(specs: Sequence[CellSpec], folder: Path) -> tuple[list[CellResult], list[CellSpec]]:
    """Split a suite into the results of earlier runs and the cells that still have to run.

    A cell whose policy has other settings by now has to run again.

    Raises:
        SettingsError: a result was written by another version of the program.
    """
    done, due = list[CellResult](), list[CellSpec]()
    for spec in specs:
        place = folder / spec.key
        result = read_result(place) if (place / RESULT_FILE).exists() else None
        if result is not None and _same(result.config, settings_of(spec)):
            done.append(result)
        else:
            due.append(spec)
    return done, due


def _same(ran_with: Mapping[str, Any], settings: RunConfig) -> bool:
    """Whether a cell ran with these settings. A setting that is newer has its default."""
    try:
        return RunConfig.model_validate(ran_with) == settings
    except ValidationError:
        return False


def run_cells(
    specs: Sequence[CellSpec], folder: Path, jobs: int, on_event: Callable[[Event], None]
) -> None:
    """Run cells in this order, in `jobs` processes of one thread each.

    Each event is reported as it happens, in this thread.

    Raises:
        StorageError: the folder can't be written.
        SettingsError: jobs is below 1.
        KeyboardInterrupt: the user interrupted. All processes have been killed.
    """
    if jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, not {jobs}")
    # Reversed, because `pop` takes the next cell from the end.
    waiting, running = list(reversed(specs)), list[_Running]()
    forks = _fork_server()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Running(waiting.pop(), folder, forks))
                on_event(Advanced(running[-1].spec, 0.0))
            connection.wait([r.process.sentinel for r in running], POLL_S)
            for each in list(running):
                event = each.event()
                on_event(event)
                if not isinstance(event, Advanced):
                    running.remove(each)
    finally:
        for each in running:
            each.process.kill()
            each.process.join()


def _fork_server() -> ForkServerContext:
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(PRELOAD))
    return forks


class _Running:
    """A cell's process."""

    def __init__(self, spec: CellSpec, cells: Path, forks: ForkServerContext) -> None:
        self.spec, self._folder = spec, cells / spec.key
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / ERROR_FILE).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"can't write {self._folder}: {error.strerror}") from error
        self._share: c_double = forks.Value("d", 0.0, lock=False)
        self.process: ForkServerProcess = forks.Process(
            target=_compute, args=(spec, self._folder, self._share)
        )
        self.process.start()

    def event(self) -> Event:
        """Return the cell's progress, or how it ended."""
        code = self.process.exitcode
        if code is None:
            return Advanced(self.spec, self._share.value)
        self.process.join()
        if code == 0:
            return Finished(self.spec, read_result(self._folder))
        if not (self._folder / ERROR_FILE).exists():
            killed = f"killed ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
            (self._folder / ERROR_FILE).write_text(f"its process was {killed}\n")
        return Failed(self.spec, failure(self._folder) or "")


def failure(folder: Path) -> str | None:
    """Return why the cell in this folder failed; None where it did not."""
    file = folder / ERROR_FILE
    return file.read_text().splitlines()[0] if file.exists() else None


def _compute(spec: CellSpec, folder: Path, share: c_double) -> None:
    """Run a cell as the main function of its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides and kills its cells
    _redirect_output(folder / LOG_FILE)
    parent = multiprocessing.parent_process()
    if parent is not None:
        stop_when_closed(parent.sentinel)
    # Imported here, so that only the cells' processes and their fork server load torch.
    from cos2p_experiments.cell import run_cell

    def report_progress(done: float) -> None:
        share.value = done

    try:
        run_cell(spec, folder, on_progress=report_progress)
    except Cos2pError as error:
        (folder / ERROR_FILE).write_text(" ".join(str(error).split()) + "\n")
        sys.exit(int(error.exit_code))
    except Exception as error:  # noqa: BLE001 - any error ends this cell alone
        line = " ".join(f"{type(error).__name__}: {error}".split())
        (folder / ERROR_FILE).write_text(f"{line}\n\n{traceback.format_exc()}")
        sys.exit(int(ExitCode.BUG))


def _redirect_output(file: Path) -> None:
    """Redirect standard output and error to a file, so libraries don't print on the screen."""
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
