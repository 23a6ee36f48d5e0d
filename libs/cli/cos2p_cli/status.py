"""`cos2p status`: what is going on, once or live, for people or for programs."""

import asyncio
import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

from cos2p.bus import Bus
from cos2p.clock import Clock, SystemClock
from cos2p.messages import Outcome
from cos2p.settings import BusSettings
from cos2p.version_row import VersionRow
from cos2p_cli import options
from cos2p_cli.run_reader import RunReader
from cos2p_cli.run_view import RunView, WorkerRow

REFRESH_S = 0.5
ROWS_MAX = 20
"""Versions whose telemetry a status tells."""


def show(settings: BusSettings, *, follow: bool, as_json: bool, telemetry: bool = False) -> None:
    """Print a run's state; with `follow` until it has finished, with `telemetry` its versions.

    Raises:
        Cos2pError: the bus or the run is not there.
    """
    asyncio.run(_show(settings, follow=follow, as_json=as_json, telemetry=telemetry))


async def _show(settings: BusSettings, *, follow: bool, as_json: bool, telemetry: bool) -> None:
    clock = SystemClock()
    async with options.opened(settings) as bus:
        if follow and not (as_json or telemetry):
            await live(bus, settings.prefix, clock)
            return
        reader = RunReader(
            bus, settings.prefix, rows_max=None if telemetry else ROWS_MAX, judging=not telemetry
        )
        await reader.poll()
        while follow and reader.view.phase != "finished":
            await reader.poll(wait_s=REFRESH_S)
        if telemetry:
            sys.stdout.write(table(reader.view.versions))
        elif as_json:
            options.print_json(document(reader.view, clock.now()))
        else:
            _print_once(reader, clock)


def _print_once(reader: RunReader, clock: Clock) -> None:
    from rich.console import Console

    from cos2p_cli.screen import render

    console = Console()
    console.print(render(reader.view, clock.now(), console.width))
    if reader.unreadable_count:
        console.print(f"{reader.unreadable_count} records could not be read: `cos2p doctor`")


async def live(bus: Bus, prefix: str, clock: Clock) -> RunView:
    """The screen, redrawn as the log grows, until the run has finished."""
    from rich.console import Console
    from rich.live import Live

    from cos2p_cli.screen import render

    console = Console()
    reader = RunReader(bus, prefix, rows_max=ROWS_MAX, judging=True)
    note = "Ctrl-C leaves this view; the run goes on"
    with Live(console=console, auto_refresh=False, transient=False) as screen:
        while True:
            await reader.poll(wait_s=REFRESH_S)
            over = reader.view.phase == "finished"
            screen.update(
                render(reader.view, clock.now(), console.width, note="" if over else note),
                refresh=True,
            )
            if over:
                return reader.view
            await clock.sleep(REFRESH_S / 2)


def document(view: RunView, now_s: float) -> dict[str, Any]:
    """The view as JSON-able values; times are seconds since the epoch, sizes bytes.

    `accuracy` is the whole curve, oldest version first; `telemetry` has the newest versions, its
    names are those of docs/telemetry.md.
    """
    newest = view.newest
    return {
        "run_id": view.run_id,
        "task": view.task,
        "phase": view.phase,
        "version": view.version,
        "published": view.published,
        "target": view.target,
        "started_s": view.started_s,
        "elapsed_s": view.elapsed_s,
        "eta_s": view.eta_s(now_s),
        "epoch": view.epoch,
        "end": {"reason": view.end_reason, "detail": view.end_detail} if view.end_reason else None,
        "accuracy": [
            {
                "version": point.version,
                "at_s": point.at_s,
                "average": point.average,
                "raw": point.raw,
                "plain": point.plain,
                "scaled": point.scaled,
                "loss": point.loss,
                "sample_count": point.sample_count,
                "exits": point.exits,
                "mean": point.mean,
            }
            for point in view.accuracy
        ],
        "coverage": None
        if newest is None
        else {
            "n_star": newest.coverage_min,
            "planned": newest.coverage_planned,
            "bound": newest.coverage_bound,
            "devices_bound": newest.devices_bound,
        },
        "plans": {
            "issued": view.plan_count,
            "outcomes": {o.value: view.outcomes[o] for o in Outcome},
            "units_left_out": view.telemetry.left_out_count,
        },
        "staleness": {str(k): v for k, v in sorted(view.staleness.items())},
        "telemetry": [row.plain() for row in view.versions[-ROWS_MAX:]],
        "refused_unknown": view.unjudged or None,
        "workers": [worker(view, view.workers[k], now_s) for k in sorted(view.workers)],
    }


def worker(view: RunView, row: WorkerRow, now_s: float) -> dict[str, Any]:
    """One device as JSON-able values."""
    horizon = view.last_s if view.phase in ("ending", "finished") else now_s
    tally = row.tally
    return {
        "worker_id": row.worker_id,
        "class": tally.device_class,
        "state": row.shown_state(horizon, view.config.liveness.lost_after_s),
        "refused": row.refused or None,
        "memory_bytes": tally.memory_bytes,
        "peak_predicted_bytes": tally.peak_predicted,
        "peak_measured_bytes": tally.peak_measured,
        "plan_id": row.plan.plan_id if row.plan else None,
        "staleness": view.staleness_of(row),
        "units_held_max": tally.units_held_max,
        "plans": tally.plan_count,
        "outcomes": {o.value: tally.outcomes[o] for o in Outcome},
        "steps": tally.steps,
        "busy_s": tally.busy_s,
        "idle_s": tally.idle_s,
        "waiting_s": tally.waiting_s,
        "throttle_s": tally.throttle_s,
        "bytes_down": tally.bytes_down,
        "bytes_up": tally.bytes_up,
        "loss": tally.loss_last,
        "samples": tally.sample_count,
        "starts": row.start_count,
        "last_seen_s": row.last_seen_s,
    }


def table(rows: Sequence[VersionRow]) -> str:
    """Versions as CSV: a header, a line each; lists are joined by spaces, what is unknown is empty.

    There is no header without versions.
    """
    out = io.StringIO()
    plain = [row.plain() for row in rows]
    writer = csv.DictWriter(out, list(plain[0]) if plain else [], lineterminator="\n")
    if plain:
        writer.writeheader()
    for values in plain:
        writer.writerow(
            {k: " ".join(map(str, v)) if isinstance(v, tuple) else v for k, v in values.items()}
        )
    return out.getvalue()
