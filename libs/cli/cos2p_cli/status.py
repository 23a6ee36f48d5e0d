"""`cos2p status`: the state of a run, once or live, for people or for programs."""

import csv
import sys
from typing import Any, TextIO

from rich.console import Console

from cos2p.clock import Clock, SystemClock
from cos2p.history.device import DeviceRow
from cos2p.history.figure import json_of
from cos2p.history.follow import HistoryReader, open_history
from cos2p.history.run import RunHistory
from cos2p.history.version import VersionRow
from cos2p.log.bus import Bus
from cos2p.log.messages import Outcome
from cos2p.settings import BusSettings
from cos2p_cli import options
from cos2p_cli.progress import RunProgress
from cos2p_cli.screen import render

REFRESH_S = 0.5
ROWS_MAX = 20
"""The number of versions whose telemetry a status shows."""


@options.blocking
async def show(
    settings: BusSettings, *, follow: bool, as_json: bool, telemetry: bool = False
) -> None:
    """Print a run's state; with `follow` until it has finished, with `telemetry` its versions.

    Raises:
        Cos2pError: the bus can't be reached, or there is no run.
    """
    clock = SystemClock()
    async with options.opened(settings) as bus:
        if telemetry:
            await print_table(bus, settings.prefix, sys.stdout, follow=follow)
        elif follow and not as_json:
            await live(bus, settings.prefix, clock)
        else:
            reader = await open_history(bus, settings.prefix)
            while follow and reader.history.phase != "finished":
                await reader.poll(wait_s=REFRESH_S)
            if as_json:
                options.print_json(document(reader.history, clock.now()))
            else:
                _print_once(reader, clock)


def _print_once(reader: HistoryReader, clock: Clock) -> None:
    console = Console()
    console.print(render(reader.history, clock.now(), console.width))
    for note in reader.notes:
        console.print(note, style="dim")
    if unreadable := reader.tally.unreadable_count:
        console.print(f"{unreadable} records could not be read: `cos2p doctor`")


async def live(bus: Bus, prefix: str, clock: Clock) -> None:
    """Show the screen, redrawn as the log grows, until the run has finished."""
    reader = HistoryReader(bus, prefix)
    leave = "Ctrl-C leaves this view; the run goes on"
    with RunProgress(Console(), "live", clock, leave, transient=False) as shown:
        while True:
            await reader.poll(wait_s=REFRESH_S)
            shown.on_update(reader.history, reader.notes)
            if reader.history.phase == "finished":
                return
            await clock.sleep(REFRESH_S / 2)


def document(run: RunHistory, now_s: float) -> dict[str, Any]:
    """Return the run as JSON-able values. Times are seconds since the epoch, sizes are bytes.

    The names of figures are those of docs/telemetry.md. `accuracy` is the curve, oldest version
    first. `telemetry` has the newest versions.
    """
    state, newest = run.state, run.newest
    return {
        "run_id": run.run_id,
        "task": run.task,
        "phase": run.phase,
        "version": run.version,
        "published": state.published,
        "target": run.target,
        "started_s": state.started_s,
        "elapsed_s": run.elapsed_s,
        "eta_s": run.eta_s(now_s),
        "epoch": state.epoch,
        "end": {"reason": run.end_reason, "detail": run.end_detail} if run.end_reason else None,
        "accuracy": [json_of(verdict) for verdict in run.accuracy],
        "coverage": None
        if newest is None
        else {
            "n_star": newest.coverage_min,
            "planned": newest.coverage_planned,
            "bound": newest.coverage_bound,
            "devices_bound": newest.devices_bound,
        },
        "plans": {
            "issued": run.plan_count,
            "outcomes": {o.value: run.outcomes[o] for o in Outcome},
            "units_left_out": state.left_out_count,
            "open": [json_of(row) for row in state.plans.values() if not row.ended],
        },
        "staleness": {str(k): v for k, v in sorted(state.staleness.items())},
        "telemetry": [row.to_json() for row in run.versions[-ROWS_MAX:]],
        "workers": [worker(run, device, now_s) for device in run.devices.values()],
    }


def worker(run: RunHistory, device: DeviceRow, now_s: float) -> dict[str, Any]:
    """Return one device as JSON-able values: its row, and what it does now."""
    beat = run.beat_of(device)
    return {
        **json_of(device, run.state.staleness),
        "outcomes": {o.value: device.outcomes[o] for o in Outcome},
        "state": run.state_of(device, now_s),
        "staleness": run.staleness_of(device),
        "steps_done": beat.message.steps_done if beat else 0,
        "last_seen_s": run.seen_s(device),
    }


async def print_table(bus: Bus, prefix: str, out: TextIO, *, follow: bool = False) -> None:
    """Write versions as CSV while the log is read: a header, then a line for each version.

    Lists are joined by spaces. Unknown values are empty. Without versions there is no header.
    """
    lines: csv.DictWriter[str] | None = None

    def write(row: VersionRow) -> None:
        nonlocal lines
        values = row.to_json()
        if lines is None:
            lines = csv.DictWriter(out, list(values), lineterminator="\n")
            lines.writeheader()
        lines.writerow(
            {k: " ".join(map(str, v)) if isinstance(v, tuple) else v for k, v in values.items()}
        )

    history = RunHistory(retired=write)
    # A line is written when its row leaves the history: until then its verdict may still come.
    reader = HistoryReader(bus, prefix, history=history)
    await reader.poll()
    while follow and history.phase != "finished":
        await reader.poll(wait_s=REFRESH_S)
    for row in history.versions:
        write(row)
