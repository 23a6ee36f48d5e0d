"""Writes docs/telemetry.md from the figures of a run's history: `make docs`."""

from collections.abc import Iterator

from cos2p.history.curve import POINTS_MAX, EvaluationRow
from cos2p.history.device import DeviceRow
from cos2p.history.figure import figures_of
from cos2p.history.plan import PlanRow
from cos2p.history.run import ROWS_MAX
from cos2p.history.version import VersionRow

HEAD = r"""# Telemetry

Generated from `libs/common/cos2p/history/` by `make docs`; a test fails when it is out of date.

These figures describe every version and every device. They include the quantities that the
convergence bound names. All of them are read from the run's log (`decisions`, `fleet`, `models`).
One fold, `cos2p.history.run.RunHistory`, computes them for live runs, archives and experiments.
Each figure is declared once, at the field that holds it. It has the same name in JSON, CSV and
results.

    cos2p status --json          the newest 20 versions under "telemetry", devices under "workers"
    cos2p status --telemetry     every version as a line of CSV, read from the log's start
    cos2p report                 N*, staleness and the bound's quantities over the run

Notation:

- u: a unit. w_u: its raw weights.
- i: an update admitted to a version. a_i: its weight in the merge.
- s_i: the factor on its delta (normalisation by steps). tau_i: its staleness.
- D: the version's mean delta. Its length is `step_norm / server_lr`.
- The window is the newest `rounds.coverage_window` versions, this one included.

Sums over shards are taken before roots and ratios. The formulas are in
`libs/common/cos2p/model/bound.py`.
"""
NORMS = """Norms are float32 sums in the order of the linear algebra library. They may differ in the
last place between machines, shards and replays. No digest or decision depends on them.
"""
VERDICTS = """In JSON and CSV, a version's row includes the figures of its verdict.
`cos2p status` and the planner keep the newest {rows} versions. They keep a curve of at most
{points} verdicts. When the curve is full, every second verdict is dropped.
The report and `--telemetry` read all versions and verdicts from the log.
"""
DEVICES = """In `cos2p status --json` a device also has its current state. The fields are `state`,
`staleness` (how far its plan's base is behind), `steps_done` and `last_seen_s`. They also use
heartbeats.
"""
TAIL = """## How to read them

A sketch of a convergence bound motivates these figures. The sketch is ours and serves monitoring.
The paper's proof is not public to us. The bound is a sum of these terms:

- One term falls with 1 / sqrt(N* E Q).
- One term is the updates' dispersion. It falls with N* Q and grows with E.
- One term is staleness. It falls with Q.
- One term is the pruning noise. More versions do not reduce it.
- One term is the label bias: the labels that train a unit differ from those of all devices
  (`label_distance`). More versions do not reduce it.

Consequences:

- `coverage_min` is far below `devices_bound`: choices are uneven, or versions close on few updates.
  `coverage_low` and `coverage_gini` show whether one unit or many are affected.
- `label_distance_max` is near 1: some unit learns only from devices that have one label.
- `dispersion` is near `delta_square`: the updates cancel each other. More local steps will not
  help.
- `gradient_proxy` is a squared gradient norm only for plain SGD. Plain means no momentum, no
  clipping and no Adam. It includes the updates' noise, about their variance over N* E. Compare it
  only within a run, or between runs that differ in nothing else.
"""


def page() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    yield from _table("Of a version", VersionRow)
    yield NORMS
    yield from _table("Of a version's verdict", EvaluationRow)
    yield VERDICTS.format(rows=ROWS_MAX, points=POINTS_MAX)
    yield from _table("Of a device", DeviceRow)
    yield DEVICES
    yield from _table("Of an open plan", PlanRow)
    yield TAIL


def _table(title: str, kind: type) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| name | what | unit | from |"
    yield "|---|---|---|---|"
    for name, figure in figures_of(kind).items():
        unit = {"": "-", "share": "0 to 1"}.get(figure.unit, figure.unit)
        about = figure.about.replace("|", "\\|")
        yield f"| `{name}` | {about} | {unit} | {figure.source or '-'} |"
    yield ""


if __name__ == "__main__":
    print("\n".join(page()).rstrip())
