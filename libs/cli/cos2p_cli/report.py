"""`report.html`: a run on one self-contained page, made from its log.

Invariants: everything on the page comes from the log. In the demo, the page also has the
comparison that the demo measured. Text from the log is escaped.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cos2p.errors import SettingsError, StorageError
from cos2p.history.device import DeviceRow
from cos2p.history.figure import figures_of, value_of
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
        audit: the check of the devices' budgets.
        alone: the accuracy of each worker trained by itself, if it was measured.
        shares: the part of the prunable cost that each device may hold, if it is known.
    """

    run: RunHistory
    place: str
    audit: Audit | None = None
    alone: Mapping[str, float] | None = None
    shares: Mapping[str, float] | None = None


def of_run(settings: BusSettings, out: Path, *, as_json: bool) -> None:
    """Write the report of a run from its log, and print the file's path.

    Raises:
        SettingsError: there is no run, or the packages that draw the page are not installed.
        StorageError: the file can't be written.
    """
    asyncio.run(_of_run(settings, out, as_json=as_json))


async def _of_run(settings: BusSettings, out: Path, *, as_json: bool) -> None:
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

        sections = _sections(given)
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
        audit=_audit(given.audit),
        sections=sections,
        device_heads=[
            *(f.head for f in DEVICE_FIGURES.values()),
            "otherwise ended",
            *(["alone"] if given.alone else []),
        ],
        devices=[_device(given, device) for device in run.devices.values()],
        throttled=any(d.throttle_s for d in run.devices.values()),
        config=json.dumps(run.config.model_dump(mode="json"), indent=2),
        version=metadata.version("cos2p"),
        place=given.place,
    )


def _sections(given: ReportInput) -> list[dict[str, str]]:
    """Return the pictures, each with its title and a sentence."""
    from cos2p_cli import plots

    run = given.run
    return [
        _section(
            "Accuracy",
            plots.accuracy(run, _best(given)),
            "Of the whole model on test data that no device trains on.",
        ),
        _section(
            "Staleness",
            plots.staleness(run),
            "A late update counts less; beyond the bound it is refused.",
            "first",
        ),
        _section(
            "Coverage N*",
            plots.coverage_course(run),
            f"Least merged updates of any unit in {run.config.rounds.coverage_window} versions.",
            "second",
        ),
        _section(
            "What the bound names",
            plots.bound_terms(run),
            "Means per version. Pruning noise: share of the model's square that a submodel lacked. "
            "Label distance: total variation between the labels that trained a unit and "
            "everybody's. Dispersion: share of the updates' square that is variance about their "
            "mean. Right: the gradient-norm proxy.",
        ),
        _section(
            "Coverage by unit",
            plots.coverage(run),
            "How many updates were merged into each unit in each version; a unit that nobody "
            "trained keeps its bytes.",
        ),
        _section(
            "Devices over time",
            plots.timeline(run),
            "Nobody waits for the slowest: versions close while slow devices still train.",
        ),
    ]


def _best(given: ReportInput) -> float | None:
    return max((given.alone or {}).values(), default=None)


def _section(title: str, svg: str, text: str, pair: str = "") -> dict[str, str]:
    return {"title": title, "svg": svg, "text": text, "pair": pair}


def _cards(given: ReportInput) -> list[dict[str, Any]]:
    run, best = given.run, _best(given)
    last = run.accuracy[-1] if run.accuracy else None
    cards: list[dict[str, Any]] = []
    if last is not None:
        raw = f"; raw {figures.percent(last.raw_accuracy)}" if last.raw_accuracy is not None else ""
        label = f"test accuracy, version {last.version}{raw}"
        cards.append({"value": figures.percent(last.accuracy), "label": label, "good": True})
        cards += [{"value": figures.percent(x), "label": name} for name, x in run.exits(last)]
    if best is not None:
        label = "best worker alone, same budget and steps"
        cards.append({"value": figures.percent(best), "label": label})
    newest = run.newest
    if newest is not None:
        planned = f" ({newest.coverage_planned} planned)" if newest.coverage_planned else ""
        label = f"coverage N*{planned}, of at most {newest.coverage_bound:.1f}"
        cards.append({"value": str(newest.coverage_min), "label": label})
    merged = run.outcomes[Outcome.ACCEPTED]
    cards.append({"value": f"{merged}", "label": f"updates merged, of {run.plan_count} plans"})
    if given.audit is not None and given.audit.plan_count:
        label = "of the prunable cost: the most any device held"
        cards.append({"value": figures.percent(given.audit.share_max, 0), "label": label})
    return cards


def _audit(audit: Audit | None) -> dict[str, Any] | None:
    if audit is None:
        return None
    if audit.findings:
        text = f"Budgets were broken {len(audit.findings)} times, first: {audit.findings[0]}"
    else:
        text = (
            f"Checked in the log: {audit.plan_count} plans and {audit.dispatch_count} dispatched "
            f"submodels, none over its device's budget; the largest held {audit.parameters_max:,} "
            f"of {audit.parameters:,} parameters."
        )
    return {"findings": audit.findings, "text": text}


DEVICE_FIGURES = {name: f for name, f in figures_of(DeviceRow).items() if f.head}


def _device(given: ReportInput, row: DeviceRow) -> dict[str, Any]:
    share = (given.shares or {}).get(row.worker_id)
    others = ", ".join(
        f"{n} {o.value}" for o, n in sorted(row.outcomes.items()) if o is not Outcome.ACCEPTED and n
    )
    cells = {
        name: figures.written(value_of(row, name, given.run.state.staleness), figure.unit)
        for name, figure in DEVICE_FIGURES.items()
    }
    if share is not None:
        cells["device_class"] += f", {100 * share:.0f} %"
    cells["busy_share"] += f" of {figures.duration(row.busy_s + row.idle_s)}"
    cells["others"] = others or "-"
    if given.alone:
        cells["alone"] = figures.percent(given.alone.get(row.worker_id))
    return {"cells": list(cells.values()), "over": row.over_budget}


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
