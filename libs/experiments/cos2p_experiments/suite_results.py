"""Reads a suite's folder as a study: the finished cells, and the reason for each missing one.

Invariant: only cells that the suite's file asks for are read. Results of an earlier form of the
file are counted, so that the report can mention them.
"""

from pathlib import Path

from cos2p.errors import SettingsError
from cos2p_experiments.result import RESULT_FILE, CellResult, read_result
from cos2p_experiments.runner import LOG_FILE, cells_folder, failure
from cos2p_experiments.spec import CellSpec
from cos2p_experiments.study import Missing, Study
from cos2p_experiments.suite import load_suite

SUITE_FILE = "suite.toml"
"""The copy of the suite's file that `cos2p experiment run` writes into the suite's folder."""


def read_study(folder: Path) -> Study:
    """Read a suite's folder, even if only a part of the suite was run.

    Raises:
        SettingsError: the folder is not a suite's folder, or the suite's file is wrong.
    """
    folder = folder.resolve()
    file = folder / SUITE_FILE
    if not file.exists():
        raise SettingsError(
            f"{folder} is not a suite's folder: it has no {SUITE_FILE} "
            "(`cos2p experiment run SUITE.toml --out DIR` makes DIR/NAME)"
        )
    suite = load_suite(file)
    # A quick suite's folder holds the file of the full suite.
    if folder.name == f"{suite.name}-quick":
        suite = suite.quick_version()
    specs = suite.cells()
    places = cells_folder(folder.parent, folder.name)
    looked = [(spec, look(spec, places / spec.key)) for spec in specs]
    asked = {spec.key for spec in specs}
    return Study(
        suite,
        cells=tuple(found for _, found in looked if isinstance(found, CellResult)),
        missing=tuple(
            Missing(spec.setting, spec.policy, spec.seed, found)
            for spec, found in looked
            if isinstance(found, str)
        ),
        surplus=sum(p.parent.name not in asked for p in places.glob(f"*/{RESULT_FILE}")),
        suite_text=file.read_text(),
    )


def look(spec: CellSpec, place: Path) -> CellResult | str:
    """Return a cell's result, or the reason why there is none."""
    if (place / RESULT_FILE).exists():
        try:
            return read_result(place)
        except SettingsError as error:
            return str(error)
    if (reason := failure(place)) is not None:
        return f"failed: {reason}"
    return "begun, not finished" if (place / LOG_FILE).exists() else "not run"
