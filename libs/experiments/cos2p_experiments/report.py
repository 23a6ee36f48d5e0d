"""The report of a suite: `report.md`, its tables as CSV and its plots as PNG, in one folder.

Invariants: everything is made from the study alone, so the same cells give the same bytes. Missing
results are listed first. Every file that `report.md` names lies in the same folder.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from cos2p.errors import StorageError
from cos2p_experiments import charts, comparison, goals, measures, plots, rate_report, roles
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
    """A plot, with one sentence on what it shows."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """One heading of the report, with its text, tables and pictures."""

    title: str
    text: str = ""
    parts: tuple[Table | Picture, ...] = ()


def write_report(study: Study, folder: Path, *, with_plots: bool = True) -> list[Path]:
    """Write the report and the files that it names. Return all paths, `report.md` first.

    Args:
        study: the study that the report is about.
        folder: the report's folder; it is created if missing.
        with_plots: whether to draw plots; tables alone take seconds.

    Raises:
        StorageError: the folder can't be written.
    """
    files: list[Path] = []
    lines: list[str] = [f"# {study.name}", "", head(study), ""]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for section in sections(study, with_plots=with_plots):
            lines += [f"## {section.title}", ""]
            lines += [section.text, ""] if section.text else []
            for part in section.parts:
                file = folder / f"{slug(part.name)}.{'csv' if isinstance(part, Table) else 'png'}"
                if isinstance(part, Table):
                    lines += [f"### {part.title}", ""] if part.title != section.title else []
                    lines.append(markdown(part))
                    file.write_text(as_csv(part))
                else:
                    lines += [f"![{part.caption}]({file.name})", ""]
                    plots.save(part.figure, file)
                files.append(file)
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
        f"Suite `{study.name}` ({study.kind}): {len(cells)} of {asked} cells, seeds "
        f"{_listed(study.seeds)}.",
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
    named = (("ours", study.ours), ("opponent", study.opponent), ("reference", study.reference))
    lost = [f"{role} {p}" for role, p in named if p is not None and p not in study.policies]
    if lost and study.kind != "rate":
        lines.append(f"Not among the suite's policies: {', '.join(lost)}.")
    lines.append(f"How tuned: {study.tuning or 'the suite does not say.'}")
    return "  \n".join(lines)


def sections(study: Study, *, with_plots: bool = True) -> Iterator[Section]:
    """Yield the report's sections in their order."""
    gaps = incomplete(study)
    if gaps is not None:
        yield Section(gaps.title, "Figures below stand on what is there.", (gaps,))
    if not study.cells:
        return
    if study.kind == "comparison":
        yield Section("What it should show", parts=(goals.goals_table(study),))
    if study.kind == "rate":
        yield Section("Rate check", parts=tuple(_rate(study, with_plots=with_plots)))
    for setting in () if study.kind == "rate" else study.settings:
        if study.present(setting):
            parts = _parts(study, setting, with_plots=with_plots)
            yield Section(setting, describe(study, setting), tuple(parts))
    if study.suite_text:
        yield Section("The suite", f"```toml\n{study.suite_text.strip()}\n```")


def incomplete(study: Study) -> Table | None:
    """Return the cells that are missing, that ended early, or that were judged too seldom."""
    ended = [
        Missing(
            c.identity.setting,
            c.identity.policy,
            c.identity.seed,
            f"{c.end_reason} after {c.ended_s:.0f} s: {c.end_detail}".rstrip(": "),
        )
        for c in study.cells
        if c.end_reason in ("stalled", "failed")
    ]
    sparse = [
        Missing(c.identity.setting, c.identity.policy, c.identity.seed, reason)
        for c in study.cells
        if study.kind != "rate" and (reason := _judged_late(study, c))
    ]
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for gap in [*study.missing, *ended, *sparse]:
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


def _judged_late(study: Study, cell: CellResult) -> str:
    """Name the horizons whose version had long been outdated; "" if there are none."""
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
    cell = next(c for c in study.cells if c.identity.setting == setting)
    fleet = roles.devices(study, setting)
    classes = Counter(d.device_class for d in fleet.values())
    told = ", ".join(f"{n} {name}" for name, n in classes.items())
    text = (
        f"Task {cell.identity.task}, model of {cell.parameters:,} parameters. Fleet "
        f"{cell.identity.fleet}: {len(fleet)} devices ({told}), "
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
        study.ours,
        study.reference,
        study.opponent,
        *(baselines[-1:] + baselines[:1]),
        roles.ceiling(study, setting),
    ]
    there = study.present(setting)
    chosen = [p for p in wanted if p is not None and p in there]
    return list(dict.fromkeys([*chosen, *there]))[: max(SHOWN_LEAST, len(set(chosen)))]


def _parts(study: Study, setting: str, *, with_plots: bool) -> Iterator[Table | Picture]:
    yield comparison.accuracy_table(study, setting)
    if with_plots:
        yield from _curves(study, setting)
    yield comparison.bytes_table(study, setting)
    for other in _opponents(study, setting):
        table = comparison.difference_table(study, setting, other)
        yield table
        if with_plots:
            rows = [(row[0], row[1 : 1 + len(HORIZONS)]) for row in table.rows]
            caption = f"Differences to {other} with their intervals"
            drawn = plots.differences(study, rows, other, setting)
            yield from _pictures(setting, (f"against-{other}", caption, drawn))
    yield comparison.cost_table(study, setting)
    if with_plots:
        yield from _device_plots(study, setting)


def _rate(study: Study, *, with_plots: bool) -> Iterator[Table | Picture]:
    yield rate_report.slopes_table(study)
    drawn = rate_report.figure(study) if with_plots else None
    if drawn is not None:
        caption = "The gradient-norm proxy against N* E Q; dotted: the promised slope"
        yield Picture("rate", caption, drawn)
    yield rate_report.points_table(study)


def _curves(study: Study, setting: str) -> Iterator[Picture]:
    return _pictures(
        setting,
        ("time", "Accuracy against virtual time", plots.accuracy(study, setting, "time")),
        ("bytes", "Accuracy against bytes", plots.accuracy(study, setting, "bytes")),
    )


def _device_plots(study: Study, setting: str) -> Iterator[Picture]:
    shown = shown_policies(study, setting)
    cells = _side_by_side(study, setting, shown)
    return _pictures(
        setting,
        ("memory", "Peak memory by device class", plots.memory(study, setting, shown)),
        ("gantt", "What the devices did", charts.gantt(cells)),
        ("coverage", "Merged updates by unit over time", charts.coverage(cells)),
    )


def _opponents(study: Study, setting: str) -> list[str]:
    """Return the policies that every other policy is compared with, if they have a cell."""
    baselines = roles.synchronous_baselines(study, setting)
    wanted = (study.reference, study.opponent, *baselines[-1:])
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


def _pictures(setting: str, *drawn: tuple[str, str, Figure | None]) -> Iterator[Picture]:
    for name, caption, figure in drawn:
        if figure is not None:
            yield Picture(f"{name}-{setting}", f"{caption}, {setting}", figure)


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
