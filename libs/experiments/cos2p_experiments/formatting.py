"""The text form of a report's figures: points, intervals, ratios, sizes.

Invariants: accuracies and their differences are in percentage points with one digit. A figure of
one seed is marked as such.
"""

from cos2p.model.cost import plain_bytes
from cos2p_experiments.statistics import Censored, PairedDifference, Spread


def points(value: Spread) -> str:
    """Write a share's mean and deviation in percent: ``61.2 ± 3.1``."""
    return f"{100 * value.mean:.1f}{_deviation(value.sd, 100)}"


def number(value: Spread) -> str:
    """Write a number's mean and deviation: ``4.3 ± 0.5``."""
    return f"{value.mean:.1f}{_deviation(value.sd)}"


def whole(value: Spread) -> str:
    """Write a count's mean: ``1523``."""
    return f"{value.mean:.0f}"


def size(value: Spread) -> str:
    """Write a mean of bytes: ``412 MB``."""
    return plain_bytes(value.mean)


def difference(value: PairedDifference) -> str:
    """Write a difference in points: ``+3.1 ± 2.0``."""
    return f"{100 * value.mean:+.1f}{_deviation(value.half_width, 100)}"


def contrast(value: PairedDifference) -> str:
    """Write a difference with its p: ``+3.1 ± 2.0 (p 0.03)``; bold if the corrected p < 0.05."""
    text, p = difference(value), value.p_corrected
    if p is None:
        return f"{text} (1 seed)" if value.count == 1 else text
    bold = "**" if p < 0.05 else ""
    return f"{bold}{text}{bold} ({'p < 0.001' if p < 0.001 else f'p {p:.2g}'})"


def ratio(value: Censored) -> str:
    """Write a median ratio, with the count of runs if not all reached it: ``0.90 (4 of 5)``."""
    text = "not reached" if value.median is None else f"{value.median:.2f}"
    return text if value.reached == value.count else f"{text} ({value.reached} of {value.count})"


def _deviation(value: float | None, factor: float = 1) -> str:
    return "" if value is None else f" ± {factor * value:.1f}"
