"""Writes docs/telemetry.md from the figures of a run's history: `make docs`."""

from collections.abc import Iterator

from cos2p.history.curve import POINTS_MAX, Judgement
from cos2p.history.device import DeviceRow
from cos2p.history.figure import figures_of
from cos2p.history.plan import PlanRow
from cos2p.history.run import ROWS_MAX
from cos2p.history.version import VersionRow

HEAD = r"""# Telemetry

Generated from `libs/common/cos2p/history/` by `make docs`; a test fails when it is out of date.

What the bound names, of every version and every device. All of it is read from the run's log
(`decisions`, `fleet`, `models`). One fold, `cos2p.history.run.RunHistory`, gives the same figures
live, from an archive and in the experiments. A figure is declared once, at the field that holds it,
and has the same name in JSON, CSV and results.

    cos2p status --json          the newest 20 versions under "telemetry", devices under "workers"
    cos2p status --telemetry     every version as a line of CSV, read from the log's start
    cos2p report                 the courses of N*, staleness, and what the bound names

Notation: u units, w_u the unit's raw weights; i the updates admitted to a version, a_i their weight
in the merge, s_i the factor on the delta (normalisation by steps), tau_i their staleness; D the
version's mean delta, `step_norm / server_lr` long; the window is `rounds.coverage_window` versions,
this one the last. Sums over shards are taken before roots and ratios. Formulas:
`libs/common/cos2p/model/bound.py`.
"""
NORMS = """Norms are float32 sums in the order of the linear algebra library: they may differ in the
last place between machines, shards and replays, and no digest or decision rests on them.
"""
VERDICTS = """In JSON and CSV the figures of a version's verdict stand with the version's own.
`cos2p status` and the planner keep the newest {rows} versions, and a curve of at most {points}
verdicts: then every second one goes. The report and `--telemetry` read all of them from the log.
"""
DEVICES = """In `cos2p status --json` a device also has what it does now: `state`, `staleness` (how
far its plan's base is behind), `steps_done` and `last_seen_s`. These come from heartbeats too.
"""
TAIL = """## How to read them

The sketch of a bound behind it (ours, for monitoring; the paper's proof is not public to us) is a
sum of a term in 1 / sqrt(N* E Q), one in the updates' dispersion that falls with N* Q and grows
with E, one in staleness that falls with Q, and two that no number of versions makes smaller: the
pruning noise, and the bias when the labels that train a unit are not everybody's
(`label_distance`). So:

- `coverage_min` well under `devices_bound`: choices are uneven, or versions close on few updates:
  look at `coverage_low` and `coverage_gini` to see whether it is one unit or many.
- `label_distance_max` near 1: some unit learns from devices of one label only.
- `dispersion` near `delta_square`: the updates cancel each other; more local steps will not help.
- `gradient_proxy` is a squared gradient norm only for plain SGD (no momentum, no clipping, no
  Adam), and it holds the updates' noise, about their variance over N* E: compare it within a run,
  or between runs alike in everything else.
"""


def page() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    yield from _table("Of a version", VersionRow)
    yield NORMS
    yield from _table("Of a version's verdict", Judgement)
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
