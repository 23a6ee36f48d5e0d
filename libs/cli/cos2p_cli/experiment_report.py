"""The work of `cos2p experiment report`: a suite's results as tables and plots.

Invariant: it only reads results, so it may run while the suite runs.
"""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from cos2p.errors import SettingsError
from cos2p_cli import figures, options

REPORT_FOLDER = "report"


def run(folder: Path, out: Path | None, *, plots: bool, as_json: bool) -> None:
    """Write the report, and print its path and whether results are missing.

    It goes to `out`, or to `report` in the suite's folder.

    Raises:
        SettingsError: the folder is not a suite's folder, or a package for the plots is missing.
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
            "goals": [asdict(g) for g in goals(study)] if study.suite.kind == "comparison" else [],
        }
        options.print_json(body)
        return
    console = Console(highlight=False)
    asked = len(study.cells) + len(study.missing)
    console.print(f"{files[0]}: {len(study.cells)} of {figures.count(asked, 'cell')}")
    if study.missing:
        console.print("what is missing is named in it", style="yellow")
