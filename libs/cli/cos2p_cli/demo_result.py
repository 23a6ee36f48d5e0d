"""The result of the demo, for people and for programs.

Invariant: every figure is measured in this run or read from its log. The output explains how.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cos2p.history.device import DeviceRow
from cos2p.history.run import RunHistory
from cos2p.model.cost import plain_bytes
from cos2p_cli import figures
from cos2p_cli.audit import Audit
from cos2p_cli.fleet import LocalDevice
from cos2p_cli.report import audit_text
from cos2p_cli.screen import device_cells, device_table
from cos2p_cli.status import document


@dataclass(frozen=True)
class StandaloneResult:
    """One worker trained by itself within its budget.

    Attributes:
        accuracy: the accuracy on the same test data as the global model.
        steps: the number of local steps, the same as in the run.
        share: the submodel's share of the prunable cost.
        parameters: the number of parameters of the submodel.
    """

    worker_id: str
    accuracy: float
    steps: int
    share: float = 0.0
    parameters: int = 0


@dataclass(frozen=True)
class DemoResult:
    """All data that the demo reports."""

    run: RunHistory
    audit: Audit
    devices: Sequence[LocalDevice]
    alone: Sequence[StandaloneResult]
    folder: Path
    bus: str
    prefix: str
    report: Path | None
    seconds: float
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def best_alone(self) -> StandaloneResult | None:
        """The best of the workers that were trained by themselves."""
        return max(self.alone, key=lambda a: a.accuracy, default=None)

    @property
    def address(self) -> str:
        """The option by which the next commands name the bus."""
        folder = self.bus.removeprefix("sqlite:")
        return f"--bus {folder}" if self.bus.startswith("sqlite:") else f"--bus {self.bus}"


def to_document(result: DemoResult, now_s: float) -> dict[str, Any]:
    """Return the result as JSON-able values."""
    best = result.best_alone
    shares = {d.worker_id: d.kind.share for d in result.devices if d.kind}
    body = document(result.run, now_s)
    for row in body["workers"]:
        row["budget_share"] = shares.get(row["worker_id"])
        row["held_share_max"] = result.audit.share_by_worker.get(row["worker_id"])
    return {
        **body,
        "alone": {
            "best": best and {"worker_id": best.worker_id, "accuracy": best.accuracy},
            "workers": [asdict(a) for a in result.alone],
        },
        "audit": {
            "plans": result.audit.plan_count,
            "dispatches": result.audit.dispatch_count,
            "share_max": result.audit.share_max,
            "findings": result.audit.findings,
        },
        "folder": str(result.folder),
        "bus": result.bus,
        "prefix": result.prefix,
        "report": str(result.report) if result.report else None,
        "seconds": round(result.seconds, 1),
        "notes": list(result.notes),
    }


def to_text(result: DemoResult, width: int) -> RenderableType:
    """Return the result as text for a person."""
    parts: list[RenderableType] = [Text(""), _headline(result), Text(""), _devices(result, width)]
    parts.append(_legend(result))
    style = "bold red" if result.audit.findings else "green"
    parts.append(Text(audit_text(result.audit), style=style))
    parts += [Text(note, style="yellow") for note in result.notes]
    parts += [Text(""), _places(result), Text(""), _next(result)]
    return Group(*parts)


def _headline(result: DemoResult) -> RenderableType:
    run, best = result.run, result.best_alone
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="bold", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    if run.accuracy:
        last = run.accuracy[-1]
        grid.add_row(
            "all together",
            Text(figures.percent(last.accuracy), style="bold green"),
            f"test accuracy of the whole model, version {last.version} "
            f"(average of versions; {figures.percent(last.raw_accuracy)} raw)",
        )
        for name, accuracy in run.exits(last):
            grid.add_row("", figures.percent(accuracy), f"{name}, of the same version")
    if (newest := run.newest) is not None:
        grid.add_row(
            "coverage N*",
            str(newest.coverage_min),
            "merged updates that every unit had at least in the last "
            f"{run.config.rounds.coverage_window} versions "
            f"(spread evenly: {newest.coverage_bound:.1f})",
        )
    if best is not None:
        row = result.run.devices.get(best.worker_id)
        kind = f", {row.device_class}" if row else ""
        grid.add_row(
            "best one alone",
            Text(figures.percent(best.accuracy), style="bold"),
            f"{best.worker_id}{kind}: its own data and budget, the same {best.steps} steps, "
            f"the same test images",
        )
        mean = sum(a.accuracy for a in result.alone) / len(result.alone)
        grid.add_row("mean alone", figures.percent(mean), f"over all {len(result.alone)} workers")
    return grid


def _devices(result: DemoResult, width: int) -> Table:
    wide = width >= 100
    alone = {a.worker_id: a.accuracy for a in result.alone}
    rows = []
    for device in result.devices:
        row = result.run.devices.get(device.worker_id) or DeviceRow(device.worker_id)
        cells = device_cells(row, result.run)
        if wide and device.kind:
            cells["class"].append(f" {100 * device.kind.share:.0f} %")
        if wide:
            cells["busy"].append(f" of {figures.duration(row.busy_s + row.idle_s)}")
        cells["other"] = Text(str(row.outcomes.total() - row.merged_count))
        cells["alone"] = Text(figures.percent(alone.get(device.worker_id), 0))
        rows.append(cells)
    return device_table(DEVICE_HEADS, rows, gap=1, wide=wide)


MEMORY_HEADS = ("budget", "planned", "measured")
DEVICE_HEADS = ("worker", "class", *MEMORY_HEADS, "merged", "other", "busy", "down", "up", "alone")


def _legend(result: DemoResult) -> Text:
    endings = figures.other_ends(result.run.outcomes) or "none"
    return Text(
        "budget, planned, measured: peak bytes of training. merged: plans whose update was "
        f"merged; other: ended otherwise ({endings}). busy: fetching, training (with the sleeps "
        "that play a slower device), sending. alone: accuracy by itself.",
        style="dim",
    )


def _places(result: DemoResult) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    where = result.bus if not result.bus.startswith("sqlite:") else str(result.folder)
    grid.add_row(
        "run", f"{where} (prefix {result.prefix}, {figures.duration(result.seconds)} in all)"
    )
    if result.report is not None:
        grid.add_row("report", f"{result.report} (one page, opens in any browser)")
    return grid


def program(arguments: Sequence[str] = sys.argv) -> str:
    """Return how to call this command again: by name if the shell finds it, else by path."""
    own = Path(arguments[0])
    found = shutil.which("cos2p")
    if own.name != "cos2p" or (found is not None and Path(found).samefile(own)):
        return "cos2p"
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


def _next(result: DemoResult) -> RenderableType:
    prefix = "" if result.prefix == "cos2p" else f" --prefix {result.prefix}"
    where = f"{result.address}{prefix}"
    slowest = result.devices[-1].worker_id if result.devices else "worker-0"
    smallest = min((d.memory_bytes for d in result.run.devices.values()), default=0)
    budget = plain_bytes(smallest).replace(" ", "")
    cos2p = program()
    commands = [
        (f"{cos2p} replay {where}", "rebuild every version from the log, compare all digests"),
        (f"{cos2p} replay {where} --without {slowest}", "what if it had not been there?"),
        (
            f"{cos2p} export {where} --budget {budget} --out small.safetensors",
            "the submodel that fits the smallest device",
        ),
    ]
    lines = [Text("Next", style="bold")]
    for command, why in commands:
        lines.append(Text(f"  {why}", style="dim"))
        lines.append(Text(f"    {command}", style="cyan", no_wrap=True, overflow="ignore"))
    return Group(*lines)
