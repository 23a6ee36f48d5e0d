"""What `cos2p experiment report` does: a suite's results as tables and plots.

Invariant: it reads results alone, so it may run while the suite does.
"""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from cos2p.errors import SettingsError
from cos2p_cli import figures, options

REPORT_FOLDER = "report"


def run(folder: Path, out: Path | None, *, plots: bool, as_json: bool) -> None:
    """Write the report; say where it lies and what it could not show.

    Args:
        folder: the suite's.
        out: where the report goes; None is `report` in the suite's folder.
        plots: draw them, or only write tables.
        as_json: one JSON document.

    Raises:
        SettingsError: it is no suite's folder, or what draws the plots is not installed.
        StorageError: the report can't be written.
    """
    try:
        from cos2p_experiments.goals import goals
        from cos2p_experiments.report import write_report
        from cos2p_experiments.suite_results import read_study
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the report of experiments needs {error.name}: install Co-S2P's extra `experiments`"
        ) from error
    study = read_study(folder)
    files = write_report(study, out or folder / REPORT_FOLDER, with_plots=plots)
    if as_json:
        body = {
            "report": str(files[0]),
            "files": [str(f) for f in files],
            "cells": len(study.cells),
            "missing": [asdict(m) for m in study.missing],
            "goals": [asdict(g) for g in goals(study)] if study.kind == "comparison" else [],
        }
        options.print_json(body)
        return
    console = Console(highlight=False)
    asked = len(study.cells) + len(study.missing)
    console.print(f"{files[0]}: {len(study.cells)} of {figures.count(asked, 'cell')}")
    if study.missing:
        console.print("what is missing is named in it", style="yellow")
