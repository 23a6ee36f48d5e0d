"""A run as a screen of text that shows its state at a glance, from 80 columns up.

Invariants: `render` is a pure function of the history, the time and the width. It never wraps a
row.
"""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, JustifyMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cos2p.history.device import DeviceRow
from cos2p.history.run import RunHistory
from cos2p.log.messages import Outcome
from cos2p_cli import figures

WIDE = 110
"""From this many columns on, each device's row also shows memory, traffic and outcomes."""
HEADS = ("worker", "class", "state", "units", "behind", "busy", "merged", "loss")
WIDE_HEADS = ("refused", "budget", "peak", "down", "up")
TEXTS = ("worker", "class", "state")
EXCLUDED_MAX = 5
"""The number of excluded devices whose reasons are shown."""
STATE_STYLES = {
    "training": "green",
    "fetching": "cyan",
    "uploading": "cyan",
    "idle": "dim",
    "stopping": "yellow",
    "left": "dim",
    "lost": "bold red",
    "excluded": "bold red",
    "unknown": "dim",
}
PHASES = {
    "empty": "waiting for a run",
    "requested": "starting",
    "running": "running",
    "ending": "ending",
    "finished": "finished",
}


def render(run: RunHistory, now_s: float, width: int, *, note: str = "") -> RenderableType:
    """Return the screen.

    Args:
        run: the history of the run so far.
        now_s: the time in seconds since the epoch, on the clock of the messages.
        width: the number of columns.
        note: the last line, for instance what a key does.
    """
    wide = width >= WIDE
    heads = (*HEADS, *WIDE_HEADS) if wide else HEADS
    rows = [_cells(run, device, now_s) for device in run.devices.values()]
    parts: list[RenderableType] = [
        _title(run, width),
        _progress(run, now_s, width),
        _accuracy(run, width),
        *_exits(run),
        _traffic(run),
        Text(""),
        device_table(heads, rows, gap=2, wide=wide),
        *_excluded(run),
    ]
    if run.end_reason and run.end_reason != "target":
        parts.append(Text(f"ended: {run.end_reason}: {run.end_detail}", style="yellow"))
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def _title(run: RunHistory, width: int) -> Text:
    text = Text.assemble(
        ("cos2p ", "bold"),
        (run.run_id or "no run yet", "bold cyan"),
        f"  {PHASES[run.phase]}",
        (f"  {run.task}", "dim"),
        overflow="ellipsis",
        no_wrap=True,
    )
    text.truncate(width, overflow="ellipsis")
    return text


def _progress(run: RunHistory, now_s: float, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    times = f"{figures.duration(run.elapsed_s)} run" + (
        "" if run.over else f", {figures.duration(run.eta_s(now_s))} to go"
    )
    grid.add_row(
        Text.assemble("version ", (f"{run.version}", "bold"), f"/{run.target}"),
        ProgressBar(
            total=max(1, run.target),
            completed=run.version,
            width=max(10, min(60, width - 40)),
            finished_style="green",
        ),
        Text(times, no_wrap=True),
    )
    return grid


def _accuracy(run: RunHistory, width: int) -> Text:
    line = Text("test accuracy ", no_wrap=True, overflow="ellipsis")
    if not run.accuracy:
        return line.append("not measured yet", style="dim")
    last = run.accuracy[-1]
    curve = [p.accuracy for p in run.accuracy if p.accuracy is not None]
    line.append(figures.percent(last.accuracy), style="bold green")
    line.append(f" at version {last.version} (raw {figures.percent(last.raw_accuracy)})  ")
    line.append(figures.sparkline(curve, min(40, width - 56)), style="green")
    return line


def _exits(run: RunHistory) -> list[Text]:
    rows = run.exits(run.accuracy[-1]) if run.accuracy else []
    summary = ", ".join(f"{name} {figures.percent(accuracy)}" for name, accuracy in rows)
    return [Text(summary, no_wrap=True, overflow="ellipsis")] if summary else []


def _traffic(run: RunHistory) -> Text:
    ended = run.outcomes
    line = Text(no_wrap=True, overflow="ellipsis")
    newest = run.newest
    if newest is not None:
        line.append("coverage N* ")
        line.append(str(newest.coverage_min), style="bold")
        planned = f" ({newest.coverage_planned} planned)" if newest.coverage_planned else ""
        line.append(f"{planned} of at most {newest.coverage_bound:.1f}  ")
    elif len(run.devices) < run.config.liveness.min_workers:
        wanted = run.config.liveness.min_workers
        return line.append(f"{len(run.devices)} of {wanted} workers have come", style="yellow")
    line.append(f"merged {ended[Outcome.ACCEPTED]} updates of {run.plan_count} plans")
    if others := figures.other_ends(ended):
        line.append(f"  ({others})", style="yellow")
    return line


def device_table(
    heads: Sequence[str], rows: Iterable[Mapping[str, Text]], *, gap: int, wide: bool
) -> Table:
    """Return a table of devices with these columns, and `gap` blanks between them.

    `rows` are the devices' cells by title. `wide` says that there is room for long names.
    """
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    widest = {"worker": 22 if wide else 14, "class": 14 if wide else 10}
    for head in heads:
        justify: JustifyMethod = "left" if head in TEXTS else "right"
        least = 9 if head == "state" else None  # so that a new state does not move the columns
        table.add_column(
            head, justify=justify, no_wrap=True, min_width=least, max_width=widest.get(head)
        )
    for row in rows:
        table.add_row(*(row[head] for head in heads))
    return table


def _excluded(run: RunHistory) -> list[Text]:
    """Return lines with the full reasons of excluded devices, since a reason names the remedy."""
    excluded = [d for d in run.devices.values() if d.excluded]
    lines = [f"{d.worker_id} is excluded: {d.excluded}" for d in excluded[:EXCLUDED_MAX]]
    if (more := len(excluded) - EXCLUDED_MAX) > 0:
        are = "device is" if more == 1 else "devices are"
        lines.append(f"and {more} more {are} excluded: cos2p status --json says why")
    return [Text(line, style="yellow") for line in lines]


def _cells(run: RunHistory, device: DeviceRow, now_s: float) -> dict[str, Text]:
    state, behind = run.state_of(device, now_s), run.staleness_of(device)
    plan = run.state.plans.get(device.plan_id or "")
    unit_count = 0 if run.table is None else len(run.table)
    refused = device.outcomes.total() - device.merged_count
    cells = device_cells(device, run)
    return cells | {
        "state": Text(state, style=STATE_STYLES.get(state, "")),
        "units": Text("-" if plan is None else f"{plan.units_held}/{unit_count}"),
        "behind": Text("-" if behind is None else str(behind)),
        "loss": cells["last loss"],
        "refused": Text(str(refused), style="yellow" if refused else ""),
        "peak": cells["measured"] if device.peak_measured_bytes else Text("-"),
    }


def device_cells(device: DeviceRow, run: RunHistory) -> dict[str, Text]:
    """Return a device's figures by the titles of their columns."""
    cells = {head: Text(text) for head, text in figures.of_device(device, run.state).items()}
    if device.over_budget:
        cells["measured"].stylize("red")
    return cells | {"worker": Text(device.worker_id)}
