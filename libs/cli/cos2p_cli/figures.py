"""Numbers in the form that people write and read: sizes, durations, shares, a device's figures.

Invariants: all are pure functions. A printed size can be typed in again.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cos2p.errors import SettingsError
from cos2p.history.device import DeviceRow
from cos2p.history.figure import figures_of, value_of
from cos2p.history.state import HistoryState
from cos2p.log.values import Outcome
from cos2p.model.cost import plain_bytes

_FACTORS = {
    **{"": 1, "b": 1},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_BARS = "▁▂▃▄▅▆▇█"


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``12MB``, ``1.5GiB`` or ``900000``.

    Raises:
        SettingsError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise SettingsError(f"{text!r} is not a size: write 900000, 12MB or 1.5GiB")
    return int(float(match[1]) * factor)


def duration(seconds: float | None) -> str:
    """Write seconds as ``0:42``, ``12:05`` or ``3:07:00``; a dash where unknown."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours}:{minutes % 60:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share in [0, 1] as ``87.4 %``; a dash where unknown."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def written(value: Any, unit: str) -> str:
    """Write a figure's value by its unit; a dash where unknown."""
    if value is None:
        return "-"
    match unit:
        case "bytes":
            return plain_bytes(value)
        case "share":
            return percent(value, 0)
        case "s":
            return duration(value)
        case _ if isinstance(value, int):
            return f"{value:,}"
        case _:
            return f"{value:.2f}" if isinstance(value, float) else str(value)


def of_device(row: DeviceRow, run: HistoryState) -> dict[str, str]:
    """Write a device's figures, by the titles of their columns in tables of devices."""
    return {
        figure.head: written(value_of(row, name, run.staleness), figure.unit)
        for name, figure in figures_of(DeviceRow).items()
        if figure.head
    }


def other_ends(outcomes: Counter[Outcome]) -> str:
    """Write how plans ended that were not merged: ``2 stale, 1 expired``; "" if there are none."""
    others = sorted((o, n) for o, n in outcomes.items() if n and o is not Outcome.ACCEPTED)
    return ", ".join(f"{n} {o.value}" for o, n in others)


def count(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 plan``, ``2 plans``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw `values` in [0, 1] as at most `width` bars. The newest value is always shown."""
    if not values or width < 1:
        return ""
    step = max(1, -(-len(values) // width))
    # Counted from the end, so that the newest value is among them.
    picked = list(values[::-1][::step])[::-1]
    return "".join(_BARS[min(len(_BARS) - 1, max(0, int(v * len(_BARS))))] for v in picked)
