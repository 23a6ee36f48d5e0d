"""Reads a suite's folder as a study: the finished cells, and the reason for each missing one.

Invariant: only cells that the suite's file asks for are read. Results of an earlier form of the
file are counted, so that the report can mention them.
"""

from pathlib import Path

from cos2p.errors import SettingsError
from cos2p_experiments.result import RESULT_FILE, CellResult, read_result
from cos2p_experiments.runner import LOG_FILE, cells_folder, failure
from cos2p_experiments.spec import CellSpec
from cos2p_experiments.study import HORIZONS, Missing, Study
from cos2p_experiments.suite import Suite, load_suite

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
        suite = suite.quickened()
    specs = suite.cells()
    places = cells_folder(folder.parent, folder.name)
    looked = [(spec, look(spec, places / spec.key)) for spec in specs]
    asked = {spec.key for spec in specs}
    return Study(
        name=suite.name,
        kind=suite.kind,
        settings=tuple(suite.settings),
        policies=tuple(suite.forms()),
        seeds=suite.seeds,
        cells=tuple(found for _, found in looked if isinstance(found, CellResult)),
        missing=tuple(
            Missing(spec.setting, spec.policy, spec.seed, found)
            for spec, found in looked
            if isinstance(found, str)
        ),
        surplus=sum(p.parent.name not in asked for p in places.glob(f"*/{RESULT_FILE}")),
        ours=suite.ours,
        opponent=suite.opponent,
        reference=suite.reference,
        horizons=horizons_of(suite),
        tuning=suite.tuning,
        suite_text=file.read_text(),
    )


def look(spec: CellSpec, place: Path) -> CellResult | str:
    """Return a cell's result, or the reason why there is none."""
    if (place / RESULT_FILE).exists():
        try:
            return read_result(place)
        except SettingsError as error:
            return str(error)
    reason = failure(place)
    if reason is not None:
        return f"failed: {reason}"
    return "begun, not finished" if (place / LOG_FILE).exists() else "not run"


def horizons_of(suite: Suite) -> dict[str, tuple[float, ...]]:
    """Return the horizons that the suite names, by setting.

    Raises:
        SettingsError: a setting's horizons are not three ascending times.
    """
    named = {label: part.horizons for label, part in suite.settings.items() if part.horizons}
    for label, times in named.items():
        if len(times) != len(HORIZONS) or list(times) != sorted(set(times)):
            raise SettingsError(
                f"suite {suite.name}: settings.{label}.horizons must be three times in seconds, "
                f"ascending ({', '.join(HORIZONS)}), not {list(times)}"
            )
    return named
