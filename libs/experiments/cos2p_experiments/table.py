"""A table of a report, as Markdown for people and as CSV for programs.

Invariants: Markdown is padded, so it is readable in an editor too. CSV holds the numbers in full
(shares in [0, 1], bytes, seconds). Each part of a value has its own column. Unknown values are
empty.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

DASH = "-"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: the column's name in the CSV file.
        head: the column's heading in Markdown.
        show: writes a value as Markdown, if it is not None. A column without it is only in the CSV
            file.
        parts: the fields of the value, if it is a dataclass. Each is a column of the CSV file.
    """

    name: str
    head: str
    show: Callable[[Any], str] | None = str
    parts: tuple[str, ...] = ()

    def flat_names(self) -> list[str]:
        """Return the names of its columns in the CSV file."""
        return [f"{self.name}_{p}" for p in self.parts] or [self.name]

    def flat(self, value: Any) -> list[Any]:
        """Return a value's parts for the CSV file."""
        if not self.parts:
            return ["" if value is None else value]
        given = {} if value is None else dataclasses.asdict(value)
        return ["" if given.get(p) is None else given[p] for p in self.parts]


@dataclass(frozen=True)
class Table:
    """Rows of values under columns.

    Attributes:
        name: the name of the table's file, without suffix.
        title: the title above the table in the report.
        columns: the columns in their order.
        rows: the rows, with one value per column; None where it is not known.
        notes: the paragraphs below the table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    notes: tuple[str, ...] = ()


def markdown(table: Table) -> str:
    """Return the table as Markdown with its notes. Text is left-aligned, numbers right-aligned."""
    columns, lefts = [], []
    for i, column in enumerate(table.columns):
        if column.show is not None:
            values = [row[i] for row in table.rows]
            texts = [DASH if v is None else column.show(v).replace("|", r"\|") for v in values]
            columns.append([column.head, *texts])
            lefts.append(all(isinstance(v, str) or v is None for v in values))
    widths = [max(map(len, texts)) for texts in columns]
    rule = [
        "-" * width if left else "-" * (width - 1) + ":"
        for width, left in zip(widths, lefts, strict=True)
    ]
    head, *body = [_line(row, widths, lefts) for row in zip(*columns, strict=True)]
    lines = [head, f"| {' | '.join(rule)} |", *body, *(f"\n{note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int], lefts: Sequence[bool]) -> str:
    padded = [
        cell.ljust(width) if left else cell.rjust(width)
        for cell, width, left in zip(cells, widths, lefts, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def as_csv(table: Table) -> str:
    """Return the table as CSV, with its numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for c in table.columns for name in c.flat_names()])
    for row in table.rows:
        writer.writerow([x for c, v in zip(table.columns, row, strict=True) for x in c.flat(v)])
    return out.getvalue()
