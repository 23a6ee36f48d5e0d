"""A run as a screen of text: what is going on, at a glance, from 80 columns up.

Invariant: `render` is a pure function of the view, the time and the width; it never wraps a row.
"""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cos2p.cost import plain_bytes
from cos2p.device_tally import DeviceTally
from cos2p.messages import Outcome
from cos2p_cli import figures
from cos2p_cli.run_view import RunView, WorkerRow

WIDE = 110
"""From so many columns on, each device's row shows its memory, traffic and outcomes too."""
REFUSED_MAX = 5
"""Reasons shown of devices that are refused."""
STATE_STYLES = {
    "training": "green",
    "fetching": "cyan",
    "uploading": "cyan",
    "idle": "dim",
    "stopping": "yellow",
    "left": "dim",
    "lost": "bold red",
    "refused": "bold red",
    "unknown": "dim",
}
PHASES = {
    "empty": "waiting for a run",
    "requested": "starting",
    "running": "running",
    "ending": "ending",
    "finished": "finished",
}


def render(view: RunView, now_s: float, width: int, *, note: str = "") -> RenderableType:
    """The screen.

    Args:
        view: the run so far.
        now_s: seconds since the epoch, on the clock of the messages.
        width: columns there are.
        note: a last line, for instance what a key does.
    """
    parts: list[RenderableType] = [
        _title(view, width),
        _progress(view, now_s, width),
        _accuracy(view, width),
        *_exits(view),
        _traffic(view),
        Text(""),
        workers(view, now_s, width),
        *_refused(view),
    ]
    if view.end_reason and view.end_reason != "target":
        parts.append(Text(f"ended: {view.end_reason}: {view.end_detail}", style="yellow"))
    if note:
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def _title(view: RunView, width: int) -> Text:
    text = Text.assemble(
        ("cos2p ", "bold"),
        (view.run_id or "no run yet", "bold cyan"),
        f"  {PHASES[view.phase]}",
        (f"  {view.task}", "dim"),
        overflow="ellipsis",
        no_wrap=True,
    )
    text.truncate(width, overflow="ellipsis")
    return text


def _progress(view: RunView, now_s: float, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    done = view.phase in ("ending", "finished")
    times = f"{figures.duration(view.elapsed_s)} run" + (
        "" if done else f", {figures.duration(view.eta_s(now_s))} to go"
    )
    grid.add_row(
        Text.assemble("version ", (f"{view.version}", "bold"), f"/{view.target}"),
        ProgressBar(
            total=max(1, view.target),
            completed=view.version,
            width=max(10, min(60, width - 40)),
            finished_style="green",
        ),
        Text(times, no_wrap=True),
    )
    return grid


def _accuracy(view: RunView, width: int) -> Text:
    line = Text("test accuracy ", no_wrap=True, overflow="ellipsis")
    if not view.accuracy:
        return line.append("not measured yet", style="dim")
    last = view.accuracy[-1]
    curve = [p.average for p in view.accuracy if p.average is not None]
    line.append(figures.percent(last.average), style="bold green")
    line.append(f" at version {last.version} (raw {figures.percent(last.raw)})  ")
    line.append(figures.sparkline(curve, min(40, width - 56)), style="green")
    return line


def _exits(view: RunView) -> list[Text]:
    rows = view.exits(view.accuracy[-1]) if view.accuracy else []
    told = ", ".join(f"{name} {figures.percent(accuracy)}" for name, accuracy in rows)
    return [Text(told, no_wrap=True, overflow="ellipsis")] if told else []


def _traffic(view: RunView) -> Text:
    ended = view.outcomes
    line = Text(no_wrap=True, overflow="ellipsis")
    newest = view.newest
    if newest is not None:
        line.append("coverage N* ")
        line.append(str(newest.coverage_min), style="bold")
        planned = f" ({newest.coverage_planned} planned)" if newest.coverage_planned else ""
        line.append(f"{planned} of at most {newest.coverage_bound:.1f}  ")
    elif len(view.workers) < view.config.liveness.min_workers:
        wanted = view.config.liveness.min_workers
        return line.append(f"{len(view.workers)} of {wanted} workers have come", style="yellow")
    line.append(f"merged {ended[Outcome.ACCEPTED]} updates of {view.plan_count} plans")
    refused = {o: n for o, n in ended.items() if o is not Outcome.ACCEPTED and n}
    if refused:
        told = ", ".join(f"{o.value} {n}" for o, n in sorted(refused.items()))
        line.append(f"  ({told})", style="yellow")
    return line


def workers(view: RunView, now_s: float, width: int) -> Table:
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
    for worker_id in sorted(view.workers, key=_natural):
        row = view.workers[worker_id]
        cells = _narrow_cells(view, row, now_s)
        table.add_row(*(cells + _wide_cells(row.tally) if wide else cells))
    return table


def _refused(view: RunView) -> list[Text]:
    """Why devices get no plans: whole, for the reason says what would do."""
    refused = [k for k in sorted(view.workers, key=_natural) if view.workers[k].refused]
    lines = [f"{k} is refused: {view.workers[k].refused}" for k in refused[:REFUSED_MAX]]
    if (more := len(refused) - REFUSED_MAX) > 0:
        are = "device is" if more == 1 else "devices are"
        lines.append(f"and {more} more {are} refused: cos2p status --json says why")
    if view.unjudged:
        lines.append(f"which devices are refused is unknown: {view.unjudged}")
    return [Text(line, style="yellow") for line in lines]


def _narrow_cells(view: RunView, row: WorkerRow, now_s: float) -> list[Text]:
    state = row.shown_state(_horizon(view, now_s), view.config.liveness.lost_after_s)
    behind = view.staleness_of(row)
    unit_count = 0 if view.table is None else len(view.table)
    held = len(row.plan.trained) + len(row.plan.frozen) if row.plan else None
    return [
        Text(row.worker_id),
        Text(row.tally.device_class),
        Text(state, style=STATE_STYLES.get(state, "")),
        Text("-" if held is None else f"{held}/{unit_count}"),
        Text("-" if behind is None else str(behind)),
        Text(figures.percent(row.tally.busy_share, 0)),
        Text(str(row.tally.outcomes[Outcome.ACCEPTED])),
        Text("-" if row.tally.loss_last is None else f"{row.tally.loss_last:.2f}"),
    ]


def _wide_cells(row: DeviceTally) -> list[Text]:
    refused = sum(row.outcomes.values()) - row.outcomes[Outcome.ACCEPTED]
    over = row.peak_measured > row.memory_bytes > 0
    return [
        Text(str(refused), style="yellow" if refused else ""),
        Text(plain_bytes(row.memory_bytes)),
        Text(
            plain_bytes(row.peak_measured) if row.peak_measured else "-",
            style="red" if over else "",
        ),
        Text(plain_bytes(row.bytes_down)),
        Text(plain_bytes(row.bytes_up)),
    ]


def _horizon(view: RunView, now_s: float) -> float:
    """The time against which silence is judged: nobody is lost after the end."""
    return view.last_s if view.phase in ("ending", "finished") else now_s


def _natural(worker_id: str) -> tuple[str, int]:
    head = worker_id.rstrip("0123456789")
    tail = worker_id[len(head) :]
    return head, int(tail) if tail else -1
