"""Numbers in the form that people write and read: sizes, durations, shares, a line of accuracy.

Invariants: all are pure functions. A printed size can be typed in again.
"""

import re
from collections.abc import Sequence
from typing import Any

from cos2p.errors import SettingsError
from cos2p.model.cost import plain_bytes

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
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
        case _:
            return f"{value:,}" if isinstance(value, int) else _short(value)


def _short(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


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
