"""Declarations of figures: each gives a field's meaning, unit and source.

A figure is declared once, at the field that holds it.

Invariants:
Every view of a run takes its figures from these declarations.
The views are JSON, CSV, tables, metrics and docs/telemetry.md.
So a new figure is one new field.
A field without a declaration is not shown.
"""

import dataclasses
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])

Unit = Literal["", "bytes", "s", "share", "count", "versions", "steps", "1/s", "bytes/s"]


@dataclasses.dataclass(frozen=True)
class Figure:
    """The declaration of one figure.

    Attributes:
        about: what the figure is, as a phrase.
        unit: "share" lies in [0, 1].
        source: the messages that it is made from.
        head: title of its column in tables of devices; empty if it has none.
        metric: whether it is shown as a gauge of each device, `cos2p_device_NAME`.
    """

    about: str
    unit: Unit = ""
    source: str = ""
    head: str = ""
    metric: bool = False


def derived(figure: Figure) -> Callable[[F], F]:
    """Declare a figure that a method computes, perhaps from one value of the whole run."""

    def mark(method: F) -> F:
        method.figure = figure  # type: ignore[attr-defined]
        return method

    return mark


def figures_of(kind: type) -> dict[str, Figure]:
    """A row's figures by name: those of its fields in order, then the computed ones."""
    return _figures(cast(Hashable, kind))


@cache
def _figures(kind: Any) -> dict[str, Figure]:
    hints = get_type_hints(kind, include_extras=True)
    found = {
        field.name: note
        for field in dataclasses.fields(kind)
        for note in getattr(hints[field.name], "__metadata__", ())
        if isinstance(note, Figure)
    }
    for base in reversed(kind.__mro__):
        for name, member in vars(base).items():
            figure = getattr(getattr(member, "fget", member), "figure", None)
            if isinstance(figure, Figure):
                found[name] = figure
    return found


def value_of(row: Any, name: str, of_run: Any = None) -> Any:
    """A figure's value; a device's needs the run's updates by staleness as `of_run`."""
    value = getattr(row, name)
    return value(of_run) if callable(value) else value


def json_of(row: Any, of_run: Any = None) -> dict[str, Any]:
    """All figures of a row as JSON-able values, by name; see `value_of`."""
    return {name: _plain(value_of(row, name, of_run)) for name in figures_of(type(row))}


def _plain(value: Any) -> Any:
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value
