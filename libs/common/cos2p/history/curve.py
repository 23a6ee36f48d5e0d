"""The evaluator's verdicts: one row per version, and a curve of bounded length.

Invariants:
A curve is a function of the verdicts in their order.
It always contains the newest point.
Accuracies have the names that `Evaluated` gives them, everywhere.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, fields

from cos2p.history.figure import REQUIRED, figure
from cos2p.log import messages as m

POINTS_MAX = 512


@dataclass(frozen=True)
class EvaluationRow:
    """The evaluator's result for one version; docs/telemetry.md describes each figure."""

    version: int = figure(REQUIRED, "the version judged", "", "Evaluated")
    judged_s: float = figure(0.0, "when its verdict came", "s", "Evaluated")
    sample_count: int = figure(0, "samples judged on", "count", "Evaluated")
    loss: float = figure(0.0, "mean loss of the published model", "", "Evaluated")
    accuracy: float | None = figure(
        None, "of the published model (moving average)", "share", "Evaluated"
    )
    raw_accuracy: float | None = figure(None, "of the raw version", "share", "Evaluated")
    plain_accuracy: float | None = figure(
        None, "of the published model, units as they are", "share", "Evaluated"
    )
    scaled_accuracy: float | None = figure(
        None, "of the published model, units scaled by survival", "share", "Evaluated"
    )
    mean_accuracy: float | None = figure(
        None, "of the mean of all exits' probabilities, the final head's too", "share", "Evaluated"
    )
    exit_accuracies: tuple[float, ...] = figure(
        (), "of each inner exit, shallow first", "share", "Evaluated"
    )

    @classmethod
    def of(cls, message: m.Evaluated, at_s: float) -> "EvaluationRow":
        """Make the verdict from a message appended at `at_s`."""
        names = (f.name for f in fields(cls) if f.name != "judged_s")
        return cls(judged_s=at_s, **{name: getattr(message, name) for name in names})

    @property
    def has_accuracy(self) -> bool:
        """Whether the verdict has an accuracy, as it does if the task has classes."""
        return self.accuracy is not None or self.raw_accuracy is not None


@dataclass
class Curve:
    """Verdicts by version, at most `POINTS_MAX` if thinned.

    When the curve is full, every second verdict is dropped and the stride doubles.

    Attributes:
        points: oldest version first.
        stride: one of this many verdicts is kept.
        offered: number of versions whose verdicts were taken so far.
    """

    points: list[EvaluationRow] = field(default_factory=list)
    stride: int = 1
    offered: int = 0

    def take(self, verdict: EvaluationRow, *, thinned: bool) -> None:
        """Take the next verdict; it replaces an older one on the same version."""
        place = bisect_left(self.points, verdict.version, key=lambda p: p.version)
        if place < len(self.points):
            if self.points[place].version == verdict.version:
                self.points[place] = verdict
            elif self.stride == 1:  # a late verdict fits in only while all verdicts are kept
                self.points.insert(place, verdict)
                self.offered += 1
        else:
            if (self.offered - 1) % self.stride:
                self.points.pop()  # it is off the grid: it was kept only as the newest
            self.points.append(verdict)
            self.offered += 1
        if thinned and len(self.points) > POINTS_MAX:
            self._thin()

    def _thin(self) -> None:
        newest = self.points[-1]
        self.stride *= 2
        self.points = self.points[::2]
        if self.points[-1] is not newest:
            self.points.append(newest)
