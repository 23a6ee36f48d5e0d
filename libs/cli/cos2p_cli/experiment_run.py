"""The work of `cos2p experiment run`: runs a suite's cells and reports their progress.

Invariants: finished cells are never computed again. A suite with failed cells names them and ends
with an error. After Ctrl-C, `--resume` continues in the folder.
"""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cos2p.errors import ExitCode, RunExistsError, RunFailedError
from cos2p.log.buses.run_lock import RunLock
from cos2p_cli import figures, options, pool
from cos2p_cli.progress import Form, form_of

PACE_S = 600.0
"""The remaining time is estimated from the pace of the last ten minutes."""


def run(
    file: Path,
    out: Path,
    *,
    jobs: int,
    resume: bool,
    quick: bool,
    data_dir: Path | None,
    as_json: bool,
    progress: bool,
) -> int:
    """Run a suite and return the exit code.

    Raises:
        SettingsError: torch is missing, or the suite is wrong.
        RunExistsError: the folder holds results, and `resume` is off.
        RunFailedError: some cells failed. The text names them.
        KeyboardInterrupt: the user interrupted. No process is left.
    """
    pool.require_torch()
    from cos2p_experiments.runner import cells_folder, run_cells, split_done
    from cos2p_experiments.suite import check, load_suite

    suite = load_suite(file)
    suite = suite.quick_version() if quick else suite
    specs = suite.cells(data_dir)
    folder = cells_folder(out, suite.name)
    with RunLock(folder.parent) as lock:
        lock.acquire("an experiment")
        done, due = split_done(specs, folder)
        if done and not resume:
            raise RunExistsError(
                f"{folder.parent} holds {len(done)} of the suite's {len(specs)} cells already: "
                "--resume continues there, --out chooses another folder"
            )
        check(tuple(due))
        shutil.copyfile(file, folder.parent / "suite.toml")
        console = Console(stderr=as_json)
        form = form_of(console, as_json=as_json, progress=progress)
        cells = CellProgress(console, form, len(specs), len(done))
        try:
            with cells:
                run_cells(due, folder, jobs, cells.show)
        except KeyboardInterrupt:
            text = f"stopped; finished cells are in {folder}: --resume continues there"
            options.print_line(Console(stderr=True), text)
            raise
    error = cells.error()
    if as_json:
        failed = {} if error is None else {"error": str(error), "exit_code": int(error.exit_code)}
        options.print_json(cells.document(str(folder.parent), done) | failed)
        return int(ExitCode.OK if error is None else error.exit_code)
    if error is not None:
        raise error
    return int(ExitCode.OK)


class CellProgress:
    """Shows cells as they begin, advance, finish and fail."""

    def __init__(self, console: Console, form: Form, total: int, done: int) -> None:
        self._console, self._form = console, form
        self._total, self._begun_count = total, done
        self._shares: dict[str, float] = {}
        self._begun_s = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[cells]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            speed_estimate_period=PACE_S,
            transient=True,
            disable=form != "live",
        )
        self._task = self._bar.add_task("", total=total, completed=done, cells="")

    def __enter__(self) -> "CellProgress":
        self._bar.start()
        self._update()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: Any) -> None:
        """Show an event of the runner."""
        from cos2p_experiments.runner import Advanced, Failed, Finished

        key = event.spec.key
        match event:
            case Advanced():
                self._shares[key] = event.share
            case Finished():
                del self._shares[key]
                row = _row(event.result)
                self.rows.append(row)
                name = f"{row['setting']}  {row['policy']}  seed {row['seed']}"
                self._print(f"{name}  {_figures(row)}")
            case Failed():
                del self._shares[key]
                self.failed[key] = event.reason
                self._print(f"[red]failed[/red]  {key}: {event.reason}")
        self._update()

    def error(self) -> RunFailedError | None:
        """Return the error to end with if cells failed; None if none did."""
        if not self.failed:
            return None
        names = ", ".join(sorted(self.failed))
        return RunFailedError(
            f"{figures.count(len(self.failed), 'cell')} of {self._total} failed: {names}; "
            "error.txt and cell.log in each cell's folder give the reason"
        )

    def document(self, folder: str, before: list[Any]) -> dict[str, Any]:
        """Return the suite's results as JSON-able values."""
        return {
            "folder": folder,
            "cells": [_row(result) for result in before] + self.rows,
            "failed": self.failed,
            "counts": {
                "total": self._total,
                "before": self._begun_count,
                "finished": len(self.rows),
                "failed": len(self.failed),
            },
            "seconds": round(time.monotonic() - self._begun_s, 1),
        }

    def _print(self, text: str) -> None:
        if self._form != "none":
            options.print_line(self._bar.console, text)

    def _update(self) -> None:
        ended = self._begun_count + len(self.rows) + len(self.failed)
        running = Counter(key.split("--")[1] for key in self._shares)
        self._bar.update(
            self._task,
            completed=ended + sum(self._shares.values()),
            description=", ".join(running) or "starting",
            cells=f"{ended} of {self._total} cells",
        )


def _row(result: Any) -> dict[str, Any]:
    """Return the figures to print for a finished cell."""
    own, final = result.identity, result.final
    return {
        "setting": own.setting,
        "policy": own.policy,
        "seed": own.seed,
        "accuracy": final.accuracy if final else None,
        "loss": final.loss if final else None,
        "versions": result.versions,
        "virtual_s": round(result.ended_s, 3),
        "end_reason": result.end_reason,
        "end_detail": result.end_detail,
        "cpu_s": round(result.effort.cpu_s, 1),
    }


def _figures(row: dict[str, Any]) -> str:
    how = "" if row["end_reason"] == "target" else f"; {row['end_reason']}: {row['end_detail']}"
    measured = row["accuracy"] is not None
    found = figures.percent(row["accuracy"]) if measured else f"loss {row['loss']}"
    return (
        f"{found} after {figures.count(row['versions'], 'version')}, "
        f"{row['virtual_s']:.0f} virtual s, {row['cpu_s']:.0f} s of work{how}"
    )
