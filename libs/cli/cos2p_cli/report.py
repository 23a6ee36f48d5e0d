"""`report.html`: a run on one self-contained page, made from its log.

Invariants: everything on the page comes from the log. In the demo, the page also has the
comparison that the demo measured. Text from the log is escaped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cos2p.errors import SettingsError, StorageError
from cos2p.history.device import DeviceRow
from cos2p.history.follow import HistoryReader
from cos2p.history.run import RunHistory
from cos2p.log.messages import Outcome
from cos2p.settings import BusSettings
from cos2p_cli import figures, options
from cos2p_cli.audit import Audit

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class ReportInput:
    """The content of a report.

    Attributes:
        run: the run's history, with all rows.
        place: the place of the run's log, for the footer.
        alone: the accuracy of each worker trained by itself, if it was measured.
        shares: the part of the prunable cost that each device may hold, if it is known.
    """

    run: RunHistory
    place: str
    audit: Audit | None = None
    alone: Mapping[str, float] | None = None
    shares: Mapping[str, float] | None = None


@options.blocking
async def of_run(settings: BusSettings, out: Path, *, as_json: bool) -> None:
    """Write the report of a run from its log, and print the file's path.

    Raises:
        SettingsError: there is no run, or the packages that draw the page are not installed.
        StorageError: the file can't be written.
    """
    async with options.opened(settings) as bus:
        run, audit = RunHistory(rows_max=None), Audit()
        await HistoryReader(bus, settings.prefix, history=run, taken=audit.take).poll()
        if run.phase in ("empty", "requested"):
            raise SettingsError(f"no run has started under the prefix {settings.prefix!r}")
    place = f"{settings.bus}, topics {settings.prefix}-*"
    write(ReportInput(run, place, audit), out)
    if as_json:
        options.print_json({"file": str(out), "run_id": run.run_id})
    else:
        print(out)


def write(given: ReportInput, file: Path) -> Path:
    """Write the page.

    Raises:
        SettingsError: the packages that draw it are not installed.
        StorageError: the file can't be written.
    """
    text = page(given)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise StorageError(f"can't write the report {file}: {error.strerror}") from error
    return file


def page(given: ReportInput) -> str:
    """Return the page's HTML.

    Raises:
        SettingsError: the packages that draw it are not installed.
    """
    try:
        import jinja2

        drawn = _charts(given)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the report needs {error.name}: install Co-S2P's extra `report`"
        ) from error
    run = given.run
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        run_id=run.run_id,
        task=run.task,
        begun=_date(run.state.started_s),
        elapsed=figures.duration(run.elapsed_s),
        ending=_ending(run),
        cards=_cards(given),
        judged=bool(run.accuracy),
        audit=given.audit,
        audit_text=given.audit and audit_text(given.audit),
        charts=drawn,
        window=run.config.rounds.coverage_window,
        devices=[_device(given, device) for device in run.devices.values()],
        throttled=any(d.throttle_s for d in run.devices.values()),
        config=json.dumps(run.config.model_dump(mode="json"), indent=2),
        version=metadata.version("cos2p"),
        place=given.place,
    )


def _charts(given: ReportInput) -> dict[str, str]:
    """Return the charts that the run has, as SVG, by the names that the template gives them."""
    from cos2p.history import charts
    from cos2p_cli import plots

    run = given.run
    drawn = {
        "accuracy": plots.accuracy(run, _best(given)),
        "staleness": plots.staleness(run),
        "coverage N*": plots.coverage_course(run),
        "terms of the bound": plots.bound_terms(run),
        "coverage by unit": plots.coverage(run),
        "devices over time": plots.timeline(run),
    }
    return {name: charts.svg(figure, name) for name, figure in drawn.items() if figure is not None}


def _best(given: ReportInput) -> float | None:
    return max((given.alone or {}).values(), default=None)


def _cards(given: ReportInput) -> list[tuple[str, str]]:
    """Return the page's main figures, each with its label; the accuracies come first."""
    run, best = given.run, _best(given)
    last = run.accuracy[-1] if run.accuracy else None
    cards = []
    if last is not None:
        raw = f"; raw {figures.percent(last.raw_accuracy)}" if last.raw_accuracy is not None else ""
        label = f"test accuracy, version {last.version}{raw}"
        cards.append((figures.percent(last.accuracy), label))
        cards += [(figures.percent(accuracy), name) for name, accuracy in run.exits(last)]
    if best is not None:
        cards.append((figures.percent(best), "best worker alone, same budget and steps"))
    newest = run.newest
    if newest is not None:
        planned = f" ({newest.coverage_planned} planned)" if newest.coverage_planned else ""
        label = f"coverage N*{planned}, of at most {newest.coverage_bound:.1f}"
        cards.append((str(newest.coverage_min), label))
    merged = run.outcomes[Outcome.ACCEPTED]
    cards.append((f"{merged}", f"updates merged, of {run.plan_count} plans"))
    if given.audit is not None and given.audit.plan_count:
        label = "of the prunable cost: the most any device held"
        cards.append((figures.percent(given.audit.share_max, 0), label))
    return cards


def audit_text(audit: Audit) -> str:
    """Say what the check of the budgets found."""
    if audit.findings:
        return f"Budgets were broken {len(audit.findings)} times; first: {audit.findings[0]}"
    return (
        f"Checked in the log: in {audit.plan_count} plans and {audit.dispatch_count} dispatched "
        f"submodels no worker ever held more than its budget's units; the most was "
        f"{figures.percent(audit.share_max, 0)} of the prunable cost, "
        f"{audit.parameters_max:,} of {audit.parameters:,} parameters."
    )


def _device(given: ReportInput, row: DeviceRow) -> dict[str, Any]:
    """Return a device's cells by the titles of their columns, and whether it broke its budget."""
    cells = figures.of_device(row, given.run.state)
    if given.shares and row.worker_id in given.shares:
        cells["class"] += f", {100 * given.shares[row.worker_id]:.0f} %"
    cells["busy"] += f" of {figures.duration(row.busy_s + row.idle_s)}"
    cells["otherwise ended"] = figures.other_ends(row.outcomes) or "-"
    if given.alone:
        cells["alone"] = figures.percent(given.alone.get(row.worker_id))
    return {"cells": cells, "over": row.over_budget}


def _ending(run: RunHistory) -> str:
    if run.phase != "finished":
        return f"at version {run.version} of {run.target}, not finished"
    reason = {"target": "reached its target"}.get(run.end_reason, run.end_reason)
    return f"version {run.version}, {reason}" + (
        f": {run.end_detail}" if run.end_detail and run.end_reason != "target" else ""
    )


def _date(at_s: float | None) -> str:
    if at_s is None:
        return "not started"
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
