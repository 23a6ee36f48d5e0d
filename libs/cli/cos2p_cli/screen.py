"""A run as a screen of text: what is going on, at a glance, from 80 columns up.

Invariant: `render` is a pure function of the history, the time and the width; it never wraps a row.
"""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cos2p.history.device import DeviceRow
from cos2p.history.run import RunHistory
from cos2p.log.messages import Outcome
from cos2p.model.cost import plain_bytes
from cos2p_cli import figures

WIDE = 110
"""From so many columns on, each device's row shows its memory, traffic and outcomes too."""
EXCLUDED_MAX = 5
"""Reasons shown of devices that are excluded."""
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
    """The screen.

    Args:
        run: the run so far.
        now_s: seconds since the epoch, on the clock of the messages.
        width: columns there are.
        note: a last line, for instance what a key does.
    """
    parts: list[RenderableType] = [
        _title(run, width),
        _progress(run, now_s, width),
        _accuracy(run, width),
        *_exits(run),
        _traffic(run),
        Text(""),
        workers(run, now_s, width),
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
    told = ", ".join(f"{name} {figures.percent(accuracy)}" for name, accuracy in rows)
    return [Text(told, no_wrap=True, overflow="ellipsis")] if told else []


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
    refused = {o: n for o, n in ended.items() if o is not Outcome.ACCEPTED and n}
    if refused:
        told = ", ".join(f"{o.value} {n}" for o, n in sorted(refused.items()))
        line.append(f"  ({told})", style="yellow")
    return line


def workers(run: RunHistory, now_s: float, width: int) -> Table:
    """A row per device."""
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("worker", no_wrap=True, overflow="ellipsis", max_width=22 if wide else 14)
    table.add_column("class", no_wrap=True, overflow="ellipsis", max_width=14 if wide else 10)
    table.add_column("state", no_wrap=True, min_width=9)
    for name in ("units", "behind", "busy", "merged", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        for name in ("refused", "budget", "peak", "down", "up"):
            table.add_column(name, justify="right", no_wrap=True)
    for device in run.devices.values():
        cells = _narrow_cells(run, device, now_s)
        table.add_row(*(cells + _wide_cells(device) if wide else cells))
    return table


def _excluded(run: RunHistory) -> list[Text]:
    """Why devices get no plans: whole, for the reason says what would do."""
    excluded = [d for d in run.devices.values() if d.excluded]
    lines = [f"{d.worker_id} is excluded: {d.excluded}" for d in excluded[:EXCLUDED_MAX]]
    if (more := len(excluded) - EXCLUDED_MAX) > 0:
        are = "device is" if more == 1 else "devices are"
        lines.append(f"and {more} more {are} excluded: cos2p status --json says why")
    return [Text(line, style="yellow") for line in lines]


def _narrow_cells(run: RunHistory, device: DeviceRow, now_s: float) -> list[Text]:
    state, behind = run.state_of(device, now_s), run.staleness_of(device)
    plan = run.state.plans.get(device.plan_id or "")
    unit_count = 0 if run.table is None else len(run.table)
    return [
        Text(device.worker_id),
        Text(device.device_class),
        Text(state, style=STATE_STYLES.get(state, "")),
        Text("-" if plan is None else f"{plan.units_held}/{unit_count}"),
        Text("-" if behind is None else str(behind)),
        Text(figures.percent(device.busy_share, 0)),
        Text(str(device.merged_count)),
        Text("-" if device.loss_last is None else f"{device.loss_last:.2f}"),
    ]


def _wide_cells(device: DeviceRow) -> list[Text]:
    refused = device.outcomes.total() - device.merged_count
    peak = device.peak_measured_bytes
    return [
        Text(str(refused), style="yellow" if refused else ""),
        Text(plain_bytes(device.memory_bytes)),
        Text(plain_bytes(peak) if peak else "-", style="red" if device.over_budget else ""),
        Text(plain_bytes(device.bytes_down)),
        Text(plain_bytes(device.bytes_up)),
    ]
