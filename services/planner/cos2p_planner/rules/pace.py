"""How fast a run goes, how long a round waits, and how many local steps a plan can afford. Pure.

Sources: steps fitted to a time budget from FedCompass (arXiv 2309.14675); the deadline, the median
of what devices need plus some median absolute deviations, is ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cos2p.run_config import LocalConfig, RoundConfig
from cos2p_planner.state.speed import Speed

DEADLINE_FLOOR_S = 0.5
"""Arrivals of tiny models lie so close together that a hiccup would count as late."""
PATIENCE = 4.0
"""Deadlines that a plan may last before any version has shown the run's pace."""
STALE_SHARE = 0.7
"""Part of the time to staleness_max that a plan may last."""
DEADLINE_MADS = 3.0
"""Median absolute deviations beyond the median that a round waits: under a normal spread two
standard deviations, so all but the slowest 2 %. No other value was measured."""
STRETCH = 2
"""A fast device with aligned steps is asked for at most so many times E: longer plans drift."""


def deadline_s(durations_s: Sequence[float]) -> float:
    """Seconds that a round waits: median + `DEADLINE_MADS` MAD of the devices' plan durations.

    Args:
        durations_s: per device, issue to report, observed or (before that) forecast.
    """
    if not durations_s:
        return DEADLINE_FLOOR_S
    values = np.asarray(durations_s, np.float64)
    median = float(np.median(values))
    mad = float(np.median(np.abs(values - median)))
    return max(DEADLINE_FLOOR_S, median + DEADLINE_MADS * mad)


@dataclass(frozen=True)
class Pace:
    """How fast the run goes.

    Attributes:
        deadline_s: the round's.
        typical_s: plan duration that half of the devices or more need, at least.
        aligned_s: what the deadline would be if every plan had E steps: plans with aligned steps
            are to last so long. Not the deadline itself, which follows from what they do last:
            rounding steps down would shorten it round by round.
        intervals_s: seconds that the last versions took; empty at the start.
    """

    deadline_s: float
    typical_s: float
    aligned_s: float
    intervals_s: tuple[float, ...]

    @classmethod
    def of(
        cls,
        durations_s: Sequence[float],
        whole_s: Sequence[float],
        intervals_s: Iterable[float],
    ) -> "Pace":
        """The pace of devices.

        Args:
            durations_s: per device, how long its plans last.
            whole_s: per device, how long a plan of E steps would.
            intervals_s: seconds that the last versions took.
        """
        ordered = sorted(durations_s) or [DEADLINE_FLOOR_S]
        return cls(
            deadline_s(durations_s),
            ordered[(len(ordered) - 1) // 2],
            deadline_s(whole_s),
            tuple(intervals_s),
        )

    def fresh_s(self, rounds: RoundConfig) -> float:
        """Seconds that a plan may last, so that its update is not refused as STALE.

        Never less than the typical plan's: were everybody asked for fewer steps, versions would
        follow each other faster still, and nothing be won.
        """
        if len(self.intervals_s) < 3:
            return PATIENCE * self.deadline_s
        interval = float(np.median(np.asarray(self.intervals_s, np.float64)))
        return max(self.typical_s, STALE_SHARE * max(1, rounds.staleness_max) * interval)


def steps_bounds(local: LocalConfig) -> tuple[int, int]:
    """Fewest and most steps of a plan; only one with aligned steps may have more than E."""
    most = STRETCH * local.steps if local.align_steps else local.steps
    return min(local.steps_min, most), most


def steps_for(speed: Speed, limit_s: float, pace: Pace, local: LocalConfig) -> int:
    """Local steps of a plan that may last so long.

    E, or as many as fit into the limit, but no fewer than steps_min; where steps are aligned, as
    many as fit into the round too, up to twice E.
    """
    if local.align_steps:
        limit_s = min(limit_s, pace.aligned_s)
    least, most = steps_bounds(local)
    return min(most, max(least, speed.steps_in(limit_s)))
