"""A table of a report, as Markdown for people and as CSV for programs.

Invariants: Markdown is padded, so it is readable in an editor too. CSV holds the numbers in full
(shares in [0, 1], bytes, seconds). Each part of a value has its own column. Unknown values are
empty.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DASH = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its name in the CSV file.
        head: its heading in Markdown.
        show: writes a value as Markdown, if it is not None. A column without it is only in the CSV
            file.
        parts: the fields of the value, if it is a dataclass. Each is a column of the CSV file.
    """

    name: str
    head: str
    show: Callable[[Any], str] | None = str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of values under columns.

    Attributes:
        name: the name of the table's file, without suffix.
        rows: one value per column; None where it is not known.
        notes: the paragraphs below the table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()


def markdown(table: Table) -> str:
    """Return the table as Markdown with its notes. Text is left-aligned, numbers right-aligned."""
    columns = []
    for i, column in enumerate(table.columns):
        if (show := column.show) is None:
            continue
        values = [row[i] for row in table.rows]
        texts = [DASH if v is None else show(v).replace("|", r"\|") for v in values]
        width = max(map(len, [column.head, *texts]))
        if all(isinstance(v, str) or v is None for v in values):
            align, rule = str.ljust, "-" * width
        else:
            align, rule = str.rjust, "-" * (width - 1) + ":"
        head, *cells = [align(text, width) for text in (column.head, *texts)]
        columns.append([head, rule, *cells])
    lines = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def as_csv(table: Table) -> str:
    """Return the table as CSV, with its numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = [(i, part) for i, column in enumerate(table.columns) for part in column.parts or ("",)]
    names = [column.name for column in table.columns]
    writer.writerow([f"{names[i]}_{part}" if part else names[i] for i, part in parts])
    for row in table.rows:
        writer.writerow([getattr(row[i], part, None) if part else row[i] for i, part in parts])
    return out.getvalue()
