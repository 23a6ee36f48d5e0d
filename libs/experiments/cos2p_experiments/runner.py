"""Runs cells in processes of their own, some at a time; what is done stays done.

Invariants: a cell's folder holds `result.json` only when the cell is done, so a suite that was
killed goes on where it was, as long as its methods are what they were; a cell that fails says why
in its folder and stops no other; no process outlives the runner.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import c_double
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cos2p.errors import Cos2pError, ExitCode, SettingsError, StorageError
from cos2p.run_config import RunConfig
from cos2p.service.leash import tie_to
from cos2p_experiments.result import RESULT_FILE, CellResult, read_result
from cos2p_experiments.spec import CellSpec, settings_of

ERROR_FILE = "error.txt"
"""Why a cell failed: a line for people, then the traceback where the cause was not foreseen."""
LOG_FILE = "cell.log"
POLL_S = 0.5
PRELOAD = ("torch._dynamo", "cos2p_experiments.cell")
"""Imported once by the fork server: torch takes seconds."""


@dataclass(frozen=True)
class Started:
    """A cell has begun."""

    spec: CellSpec


@dataclass(frozen=True)
class Advanced:
    """A cell is so far (0 to 1)."""

    spec: CellSpec
    share: float


@dataclass(frozen=True)
class Finished:
    """A cell is done."""

    spec: CellSpec
    result: CellResult


@dataclass(frozen=True)
class Failed:
    """A cell came to nothing; why, in a line."""

    spec: CellSpec
    reason: str


Event = Started | Advanced | Finished | Failed


def cells_folder(out: Path, suite: str) -> Path:
    """Where a suite's cells lie."""
    return out / suite / "cells"


def split_done(specs: Sequence[CellSpec], folder: Path) -> tuple[list[CellResult], list[CellSpec]]:
    """What earlier runs of the suite left: the results that are there, and the cells to do.

    A cell whose policy has other settings by now is to do again.

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
    """Whether a cell ran with these settings; what was no setting then has its default."""
    try:
        return RunConfig.model_validate(ran_with) == settings
    except ValidationError:
        return False


def run_cells(
    specs: Sequence[CellSpec], folder: Path, jobs: int, tell: Callable[[Event], None]
) -> None:
    """Run cells, `jobs` at a time.

    Args:
        specs: in which order.
        folder: of the cells' folders.
        jobs: processes, one thread each.
        tell: what happens, as it happens; called in this thread.

    Raises:
        StorageError: the folder can't be written.
        SettingsError: jobs is below 1.
        KeyboardInterrupt: the user's; all processes are gone.
    """
    if jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, not {jobs}")
    waiting, running = list(reversed(specs)), list[_Running]()
    with _fork_server() as forks:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_Running(waiting.pop(), folder, forks))
                    tell(Started(running[-1].spec))
                connection.wait([r.process.sentinel for r in running], POLL_S)
                for each in list(running):
                    event = each.event()
                    tell(event)
                    if not isinstance(event, Advanced):
                        running.remove(each)
        finally:
            for each in running:
                each.process.kill()
                each.process.join()


@contextmanager
def _fork_server() -> Iterator[ForkServerContext]:
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(list(PRELOAD))
    yield forks


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
        """How it goes, or how it ended."""
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
    """Why the cell in this folder failed; None where it did not."""
    file = folder / ERROR_FILE
    return file.read_text().splitlines()[0] if file.exists() else None


def _compute(spec: CellSpec, folder: Path, share: c_double) -> None:
    """The whole life of a cell's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner decides
    _say_into(folder / LOG_FILE)
    parent = multiprocessing.parent_process()
    if parent is not None:
        tie_to(parent.sentinel)
    from cos2p_experiments.cell import run_cell

    def tell(done: float) -> None:
        share.value = done

    try:
        run_cell(spec, folder, tell=tell)
    except Cos2pError as error:
        (folder / ERROR_FILE).write_text(" ".join(str(error).split()) + "\n")
        sys.exit(int(error.exit_code))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this cell's end alone
        line = " ".join(f"{type(error).__name__}: {error}".split())
        (folder / ERROR_FILE).write_text(f"{line}\n\n{traceback.format_exc()}")
        sys.exit(int(ExitCode.BUG))


def _say_into(file: Path) -> None:
    """What libraries print belongs to the cell, not on the runner's screen."""
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
