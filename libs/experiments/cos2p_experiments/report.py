"""The report of a suite: `report.md`, its tables as CSV and its plots as PNG, in one folder.

Invariants: everything is made from the study alone, so the same cells give the same bytes. Missing
results are listed first. Every file that `report.md` names lies in the same folder.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from cos2p.errors import StorageError
from cos2p.history import charts
from cos2p_experiments import comparison, goals, measures, plots, rate_report, roles
from cos2p_experiments.result import CellResult
from cos2p_experiments.study import HORIZONS, Missing, Study
from cos2p_experiments.table import Column, Table, as_csv, markdown

REPORT_FILE = "report.md"
OUTDATED_MOST = 0.15
"""The report flags a horizon whose version was outdated for more than this share of its time."""
SHOWN_LEAST = 4
"""The memory plot shows at least this many policies if the suite has them."""


@dataclass(frozen=True)
class Picture:
    """A plot, with one sentence on what it shows; `draw` gives None where there is nothing."""

    name: str
    caption: str
    draw: Callable[[], Figure | None]


Part = str | Table | Picture
"""A paragraph in Markdown, a table or a plot."""


def write_report(study: Study, folder: Path, *, with_plots: bool = True) -> list[Path]:
    """Write the report and the files that it names. Return all paths, `report.md` first.

    The folder is created if missing. Tables without plots take seconds.

    Raises:
        StorageError: the folder can't be written.
    """
    files: list[Path] = []
    lines: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in contents(study):
            if isinstance(part, str):
                lines += [part, ""]
            elif isinstance(part, Table):
                lines += [] if f"## {part.title}" in lines else [f"### {part.title}", ""]
                lines.append(markdown(part))
                files.append(folder / f"{slug(part.name)}.csv")
                files[-1].write_text(as_csv(part))
            elif with_plots and (figure := part.draw()) is not None:
                files.append(charts.png(figure, folder / f"{slug(part.name)}.png"))
                lines += [f"![{part.caption}]({files[-1].name})", ""]
        report = folder / REPORT_FILE
        report.write_text("\n".join(lines).rstrip() + "\n")
    except OSError as error:
        raise StorageError(f"can't write the report into {folder}: {error.strerror}") from error
    return [report, *files]


def slug(name: str) -> str:
    """Return a name as a file name: only letters, digits, dots and hyphens."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name).strip("-").lower()


def head(study: Study) -> str:
    """Describe what was run, on which machine and at which cost."""
    cells = study.cells
    asked = len(cells) + len(study.missing)
    lines = [
        f"Suite `{study.suite.name}` ({study.suite.kind}): {len(cells)} of {asked} cells, seeds "
        f"{_listed(study.suite.seeds)}.",
    ]
    if study.surplus:
        lines.append(
            f"{study.surplus} more in the folder are of an earlier form of the suite: left out."
        )
    if cells:
        hours = sum(c.effort.cpu_s for c in cells) / 3600
        lines += [
            f"Accuracies are of the {_among(c.identity.evaluated_on for c in cells)} data.",
            f"Commit {_among(c.identity.commit for c in cells)}; "
            f"machine: {_among(c.identity.machine for c in cells)}; "
            f"cost: {hours:.2f} CPU hours, {3600 * hours / len(cells):.0f} s a cell.",
        ]
    suite = study.suite
    named = (("ours", suite.ours), ("opponent", suite.opponent), ("reference", suite.reference))
    lost = [f"{role} {p}" for role, p in named if p is not None and p not in study.policies]
    if lost and suite.kind != "rate":
        lines.append(f"Not among the suite's policies: {', '.join(lost)}.")
    lines.append(f"How tuned: {suite.tuning or 'the suite does not say.'}")
    return "  \n".join(lines)


def contents(study: Study) -> Iterator[Part]:
    """Yield the report's parts in their order."""
    yield f"# {study.suite.name}"
    yield head(study)
    gaps = incomplete(study)
    if gaps is not None:
        yield f"## {gaps.title}"
        yield "Figures below stand on what is there."
        yield gaps
    if not study.cells:
        return
    if study.suite.kind == "rate":
        yield "## Rate check"
        yield rate_report.slopes_table(study)
        caption = "The gradient-norm proxy against N* E Q; dotted: the promised slope"
        yield Picture("rate", caption, partial(rate_report.figure, study))
        yield rate_report.points_table(study)
    else:
        if study.suite.kind == "comparison":
            table = goals.goals_table(study)
            yield f"## {table.title}"
            yield table
        for setting in study.suite.settings:
            if study.present(setting):
                yield from _of_setting(study, setting)
    if study.suite_text:
        yield f"## The suite\n\n```toml\n{study.suite_text.strip()}\n```"


def incomplete(study: Study) -> Table | None:
    """Return the cells that are missing, that ended early, or that were judged too seldom."""
    gaps = list(study.missing)
    for doubt in (_ended_early, _judged_late):
        for cell in study.cells:
            own, reason = cell.identity, doubt(study, cell)
            if reason:
                gaps.append(Missing(own.setting, own.policy, own.seed, reason))
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for gap in gaps:
        grouped.setdefault((gap.setting, gap.policy, gap.reason), []).append(gap.seed)
    if not grouped:
        return None
    rows = tuple(
        (setting, policy, _listed(sorted(seeds)), reason)
        for (setting, policy, reason), seeds in grouped.items()
    )
    names = ("setting", "policy", "seeds", "reason")
    columns = tuple(Column(n, n) for n in names)
    return Table("missing", "What is missing or doubtful", columns, rows)


def _ended_early(study: Study, cell: CellResult) -> str:
    """Say when and why a cell ended before its time; "" if it did not."""
    if cell.end_reason not in ("stalled", "failed"):
        return ""
    return f"{cell.end_reason} after {cell.ended_s:.0f} s: {cell.end_detail}".rstrip(": ")


def _judged_late(study: Study, cell: CellResult) -> str:
    """Name the horizons whose version had long been outdated; "" if there are none."""
    if study.suite.kind == "rate":
        return ""
    moments = study.horizons_of(cell.identity.setting)
    names = [
        name
        for name, at in zip(HORIZONS, moments, strict=True)
        if measures.outdated_s(cell, at) > OUTDATED_MOST * at
    ]
    if not names:
        return ""
    return f"judged too seldom: its figures at {', '.join(names)} are of much older versions"


def describe(study: Study, setting: str) -> str:
    """Describe a setting's task, fleet and split in a few sentences."""
    cell = study.cells_of(setting)[0]
    fleet = roles.devices(study, setting)
    classes = Counter(d.device_class for d in fleet.values())
    class_text = ", ".join(f"{n} {name}" for name, n in classes.items())
    text = (
        f"Task {cell.identity.task}, model of {cell.parameters:,} parameters. Fleet "
        f"{cell.identity.fleet}: {len(fleet)} devices ({class_text}), "
        f"{len(roles.limited(study, setting))} of them too small for the full model; affordable "
        f"fractions sum to {sum(d.budget for d in fleet.values()):.2f}."
    )
    distance = measures.label_distance(cell)
    if distance is not None:
        text += f" A device's label mix lies {distance:.2f} from the fleet's (total variation)."
    return text


def shown_policies(study: Study, setting: str) -> list[str]:
    """Return the policies to show in a plot that has room for only a few."""
    baselines = roles.synchronous_baselines(study, setting)
    wanted = [
        study.suite.ours,
        study.suite.reference,
        study.suite.opponent,
        *(baselines[-1:] + baselines[:1]),
        roles.ceiling(study, setting),
    ]
    there = study.present(setting)
    chosen = [p for p in wanted if p is not None and p in there]
    return list(dict.fromkeys([*chosen, *there]))[: max(SHOWN_LEAST, len(set(chosen)))]


def _of_setting(study: Study, setting: str) -> Iterator[Part]:
    def picture(name: str, caption: str, draw: Callable[[], Figure | None]) -> Picture:
        return Picture(f"{name}-{setting}", f"{caption}, {setting}", draw)

    time, size = "Accuracy against virtual time", "Accuracy against bytes"
    yield f"## {setting}"
    yield describe(study, setting)
    yield comparison.accuracy_table(study, setting)
    yield picture("time", time, partial(plots.accuracy, study, setting, "time"))
    yield picture("bytes", size, partial(plots.accuracy, study, setting, "bytes"))
    yield comparison.bytes_table(study, setting)
    for other in _opponents(study, setting):
        table = comparison.difference_table(study, setting, other)
        yield table
        rows = [(row[0], row[1 : 1 + len(HORIZONS)]) for row in table.rows]
        draw = partial(plots.differences, study, rows, other, setting)
        yield picture(f"against-{other}", f"Differences to {other} with their intervals", draw)
    yield comparison.cost_table(study, setting)
    shown = shown_policies(study, setting)
    cells = _side_by_side(study, setting, shown)
    memory = partial(plots.memory, study, setting, shown)
    yield picture("memory", "Peak memory by device class", memory)
    yield picture("gantt", "What the devices did", partial(plots.gantt, cells))
    yield picture("coverage", "Merged updates by unit over time", partial(plots.coverage, cells))


def _opponents(study: Study, setting: str) -> list[str]:
    """Return the policies that every other policy is compared with, if they have a cell."""
    baselines = roles.synchronous_baselines(study, setting)
    wanted = (study.suite.reference, study.suite.opponent, *baselines[-1:])
    there = study.present(setting)
    if len(there) < 2:
        return []
    return list(dict.fromkeys(p for p in wanted if p is not None and p in there))


def _side_by_side(study: Study, setting: str, shown: Sequence[str]) -> list[CellResult]:
    """Return our cell and the best synchronous baseline's, of the first common seed."""
    baselines = roles.synchronous_baselines(study, setting)
    pair = [shown[0], *(baselines[-1:] or shown[1:2])]
    found = [study.of(setting, p) for p in dict.fromkeys(pair)]
    common = sorted(set.intersection(*(set(f) for f in found)))
    return [f[common[0]] for f in found] if common else [next(iter(found[0].values()))]


def _among(values: Iterator[str]) -> str:
    """Return the one value, or each value with its count, so that mixed commits are visible."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({n} cell{'s' * (n > 1)})" for value, n in counts.most_common())


def _listed(numbers: Sequence[int]) -> str:
    """Write numbers as ``0-4`` where they are consecutive, else as ``0, 2, 5``."""
    run = list(range(numbers[0], numbers[0] + len(numbers))) if numbers else []
    if len(numbers) > 2 and list(numbers) == run:
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(map(str, numbers))
