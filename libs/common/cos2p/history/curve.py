"""The evaluator's verdicts: one row per version judged, and a curve of them of bounded length.

Invariants: a curve is a function of the verdicts in their order; its newest point is always there;
the names of accuracies are those of `Evaluated`, everywhere.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from cos2p.history.figure import Figure, json_of
from cos2p.log import messages as m

POINTS_MAX = 512


@dataclass(frozen=True)
class Verdict:
    """What the evaluator found of one version; docs/telemetry.md has each figure."""

    version: Annotated[int, Figure("the version judged", "", "Evaluated")]
    judged_s: Annotated[float, Figure("when its verdict came", "s", "Evaluated")] = 0.0
    sample_count: Annotated[int, Figure("samples judged on", "count", "Evaluated")] = 0
    loss: Annotated[float, Figure("mean loss of the published model", "", "Evaluated")] = 0.0
    accuracy: Annotated[
        float | None, Figure("of the published model (moving average)", "share", "Evaluated")
    ] = None
    raw_accuracy: Annotated[float | None, Figure("of the raw version", "share", "Evaluated")] = None
    plain_accuracy: Annotated[
        float | None,
        Figure("of the published model, units as they are", "share", "Evaluated"),
    ] = None
    scaled_accuracy: Annotated[
        float | None,
        Figure("of the published model, units scaled by survival", "share", "Evaluated"),
    ] = None
    mean_accuracy: Annotated[
        float | None,
        Figure(
            "of the mean of all exits' probabilities, the final head's too", "share", "Evaluated"
        ),
    ] = None
    exit_accuracies: Annotated[
        tuple[float, ...], Figure("of each inner exit, shallow first", "share", "Evaluated")
    ] = ()

    @classmethod
    def of(cls, message: m.Evaluated, at_s: float) -> "Verdict":
        """The verdict of a message appended at `at_s`."""
        names = (f.name for f in fields(cls) if f.name != "judged_s")
        return cls(judged_s=at_s, **{name: getattr(message, name) for name in names})

    @property
    def has_accuracy(self) -> bool:
        """Whether the task has classes."""
        return self.accuracy is not None or self.raw_accuracy is not None

    def to_json(self) -> dict[str, Any]:
        """The verdict's one JSON form."""
        return json_of(self)


@dataclass
class Curve:
    """Verdicts by version, at most `POINTS_MAX`: then every second goes, and so on.

    Attributes:
        points: oldest version first.
        stride: of the verdicts, each how manieth is kept.
        offered: verdicts on ever newer versions so far.
    """

    points: list[Verdict] = field(default_factory=list)
    stride: int = 1
    offered: int = 0

    def take(self, verdict: Verdict, *, thinned: bool) -> None:
        """Take the next verdict; a newer one on the same version replaces the older."""
        place = bisect_left(self.points, verdict.version, key=lambda p: p.version)
        if place < len(self.points):
            if self.points[place].version == verdict.version:
                self.points[place] = verdict
            elif self.stride == 1:  # late, and the grid still holds all
                self.points.insert(place, verdict)
                self.offered += 1
        else:
            if (self.offered - 1) % self.stride:
                self.points.pop()  # it was there as the newest only
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
