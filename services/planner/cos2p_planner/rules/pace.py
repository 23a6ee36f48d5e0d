"""How fast a run goes, how long a round waits, and how many local steps a plan can have. Pure.

Sources: steps fitted to a time budget are from FedCompass (arXiv 2309.14675). The deadline is ours:
the median of what devices need plus some median absolute deviations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cos2p.run_config import LocalConfig, RoundConfig
from cos2p_planner.state.device import Speed

DEADLINE_FLOOR_S = 0.5
"""Arrivals of tiny models lie so close together that a short pause would count as late."""
PATIENCE = 4.0
"""Deadlines that a plan may last before any version has shown the run's pace."""
STALE_SHARE = 0.7
"""Part of the time to staleness_max that a plan may last."""
DEADLINE_MADS = 3.0
"""Median absolute deviations beyond the median that a round waits. Under a normal spread they are
two standard deviations, so all but the slowest 2 % arrive. No other value was measured."""
STRETCH = 2
"""A fast device with aligned steps gets at most this many times E steps: longer plans drift."""


def deadline_s(durations_s: Sequence[float]) -> float:
    """Return the seconds that a round waits: median + `DEADLINE_MADS` MAD of plan durations.

    There is one duration per device, from issue to report, observed or (before that) forecast.
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
        deadline_s: seconds that the round waits.
        typical_s: lower median of the plan durations: at least half of the devices need this or
            more.
        aligned_s: what the deadline would be if every plan had E steps; plans with aligned steps
            are to last this long. It is not the deadline itself, which follows from how long they
            do last: rounding steps down would shorten the deadline round by round.
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
        """Return the pace of a set of devices.

        Args:
            durations_s: per device, how long its plans last.
            whole_s: per device, how long a plan of E steps would last.
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
        """Return the seconds that a plan may last, so that its update is not refused as STALE.

        The result is never less than the typical plan's duration. If all devices got fewer steps,
        versions would follow each other even faster, and nothing would be gained.
        """
        if len(self.intervals_s) < 3:
            return PATIENCE * self.deadline_s
        interval = float(np.median(np.asarray(self.intervals_s, np.float64)))
        return max(self.typical_s, STALE_SHARE * max(1, rounds.staleness_max) * interval)


def steps_bounds(local: LocalConfig) -> tuple[int, int]:
    """Return the fewest and most steps of a plan; only aligned steps may exceed E."""
    most = STRETCH * local.steps if local.align_steps else local.steps
    return min(local.steps_min, most), most


def steps_for(speed: Speed, limit_s: float, pace: Pace, local: LocalConfig) -> int:
    """Return the local steps of a plan that may last this long.

    It is E, or as many as fit into the limit, but at least steps_min. Where steps are aligned, it
    is as many as also fit into the round, up to twice E.
    """
    if local.align_steps:
        limit_s = min(limit_s, pace.aligned_s)
    least, most = steps_bounds(local)
    return min(most, max(least, speed.steps_in(limit_s)))
