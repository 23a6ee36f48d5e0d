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
from typing import Any, Literal, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
KEY = "figure"

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


REQUIRED: Any = dataclasses.MISSING
"""In place of a default: each row is made with a value."""


def figure(
    default: T,
    about: str,
    unit: Unit = "",
    source: str = "",
    head: str = "",
    *,
    metric: bool = False,
) -> T:
    """Make the field of a row that holds a figure; see `Figure`."""
    declared = {KEY: Figure(about, unit, source, head, metric)}
    return dataclasses.field(default=default, metadata=declared)


def derived(
    about: str, unit: Unit = "", source: str = "", head: str = "", *, metric: bool = False
) -> Callable[[F], F]:
    """Declare a figure that a method computes, perhaps from one value of the whole run."""

    def mark(method: F) -> F:
        method.figure = Figure(about, unit, source, head, metric)  # type: ignore[attr-defined]
        return method

    return mark


def figures_of(kind: type) -> dict[str, Figure]:
    """A row's figures by name: those of its fields in order, then the computed ones."""
    return _figures(cast(Hashable, kind))


@cache
def _figures(kind: Any) -> dict[str, Figure]:
    found: dict[str, Figure] = {
        field.name: field.metadata[KEY]
        for field in dataclasses.fields(kind)
        if KEY in field.metadata
    }
    for base in reversed(kind.__mro__):
        for name, member in vars(base).items():
            computed = getattr(getattr(member, "fget", member), "figure", None)
            if isinstance(computed, Figure):
                found[name] = computed
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
