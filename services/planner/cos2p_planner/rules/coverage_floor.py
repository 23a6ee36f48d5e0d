"""Whether the coverage floor is met, and if not, which units fall short and why.

Invariants: a change is reported once. Units that fall short are reported only after they have done
so for a whole window of versions. Devices that choose again leave gaps for a moment.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cos2p_planner.choosers.nesting import waiting
from cos2p_planner.state.device import Device
from cos2p_planner.state.fleet import Notice
from cos2p_planner.state.run import Run

NAMES_MAX = 5


def planned_coverage(run: Run, trainable: Sequence[Device]) -> NDArray[np.int64]:
    """Count the devices that can train and hold each prunable unit, shape (prunable units,)."""
    counts = run.holdings.coverage(d.worker_id for d in trainable)[run.table.prunable]
    return counts.astype(np.int64)


def out_of_reach(run: Run, trainable: Sequence[Device]) -> str:
    """Return why no plan of these devices could meet the floor; empty where one could."""
    floor, bound = run.config.plans.coverage_floor, devices_bound(run, trainable)
    if floor <= bound:
        return ""
    return (
        f"plans.coverage_floor is {floor}, but the budgets of the {len(trainable)} devices "
        f"that can train make {affordable(run, trainable):.2f} models: "
        f"every unit can be held {bound} times at most"
    )


def devices_bound(run: Run, trainable: Sequence[Device]) -> int:
    """Return the most that N* can be: floor(sum r_i), r_i a budget's share of the cost."""
    # Thirds that sum to a whole must count as one, despite floating point.
    return int(affordable(run, trainable) + 1e-9)


def affordable(run: Run, trainable: Sequence[Device]) -> float:
    """Return how many models' prunable cost the devices' budgets buy together."""
    return sum(run.costs.fraction_of(d.budget_bytes) for d in trainable)


class FloorWatch:
    """Checks each version that closes against the coverage floor."""

    def __init__(self) -> None:
        self._reported = ""
        self._short_count = 0

    def closed(self, run: Run, trainable: Sequence[Device], progress: float) -> list[Notice]:
        """Return notices for the operator after a version, if anything has changed.

        Blocks that still wait at this progress (a share of the run) never fall short.
        """
        floor = run.config.plans.coverage_floor
        if not floor:
            return []
        counts = planned_coverage(run, trainable)
        late = waiting(run.table, run.config.plans.growth.share_at(progress))
        short = np.flatnonzero(run.table.prunable)[(counts < floor) & ~late[run.table.prunable]]
        self._short_count = self._short_count + 1 if len(short) else 0
        why, state = out_of_reach(run, trainable), "out of reach"
        if not why:
            lasting = self._short_count >= run.config.rounds.coverage_window
            state = "short" if lasting else "" if not len(short) else self._reported
        if state == self._reported:
            return []
        self._reported = state
        if not state:
            return [("coverage_floor_met", {"floor": str(floor)})]
        reason = why or (
            "the budgets would do, but blocks, whole units and held submodels leave gaps"
        )
        return [("coverage_short", {"reason": reason, "units": _named(run, short, counts)})]


def _named(run: Run, short: NDArray[np.int64], counts: NDArray[np.int64]) -> str:
    """Name the units that fall short, least covered first, with their numbers of holders."""
    of_unit = dict(zip(np.flatnonzero(run.table.prunable).tolist(), counts.tolist(), strict=True))
    ordered = sorted(short.tolist(), key=lambda u: (of_unit[u], u))
    names = [f"{run.table.units[u].name} ({of_unit[u]})" for u in ordered[:NAMES_MAX]]
    more = len(ordered) - NAMES_MAX
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
