"""The text form of a report's figures: points, intervals, ratios, sizes.

Invariants: accuracies and their differences are in percentage points with one digit. A figure of
one seed is marked as such.
"""

from dataclasses import dataclass

from cos2p.model.cost import plain_bytes
from cos2p_experiments.statistics import Censored, PairedDifference, Spread


@dataclass(frozen=True)
class Contrast:
    """A paired difference with its p corrected over the table's family.

    Attributes:
        count: the number of pairs of seeds.
        mean: the mean of the differences, in [-1, 1].
        half_width: half of the 95 % interval; None with one pair.
        p: the uncorrected p; None with one pair.
        p_corrected: the p after Holm's correction.
    """

    count: int
    mean: float
    half_width: float | None
    p: float | None
    p_corrected: float | None

    @classmethod
    def of(cls, difference: PairedDifference, p_corrected: float | None) -> "Contrast":
        """Combine a difference with its corrected p."""
        d = difference
        return cls(d.count, d.mean, d.half_width, d.p, p_corrected)

    @property
    def direction(self) -> str:
        """Return ahead or behind where the corrected p is under 0.05, else "not shown"."""
        if self.p_corrected is None or self.p_corrected >= 0.05:
            return "not shown"
        return "ahead" if self.mean > 0 else "behind"


def points(value: Spread) -> str:
    """Write a share's mean and deviation in percent: ``61.2 ± 3.1``."""
    return f"{100 * value.mean:.1f}{_deviation(value.sd, 100, 1)}"


def number(value: Spread) -> str:
    """Write a number's mean and deviation: ``4.3 ± 0.5``."""
    return f"{value.mean:.1f}{_deviation(value.sd, 1, 1)}"


def whole(value: Spread) -> str:
    """Write a count's mean: ``1523``."""
    return f"{value.mean:.0f}"


def size(value: Spread) -> str:
    """Write a mean of bytes: ``412 MB``."""
    return plain_bytes(value.mean)


def contrast(value: Contrast) -> str:
    """Write a difference in points: ``+3.1 ± 2.0 (p 0.03)``; bold if the corrected p < 0.05."""
    text = f"{100 * value.mean:+.1f}{_deviation(value.half_width, 100, 1)}"
    if value.p_corrected is None:
        return f"{text} (1 seed)" if value.count == 1 else text
    bold = "**" if value.p_corrected < 0.05 else ""
    return f"{bold}{text}{bold} ({probability(value.p_corrected)})"


def probability(p: float) -> str:
    """Write a p value: ``p 0.03``, ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}"


def ratio(value: Censored) -> str:
    """Write a median ratio, with the count of runs if not all reached it: ``0.90 (4 of 5)``."""
    text = "not reached" if value.median is None else f"{value.median:.2f}"
    return text if value.reached == value.count else f"{text} ({value.reached} of {value.count})"


def _deviation(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f" ± {factor * value:.{digits}f}"
