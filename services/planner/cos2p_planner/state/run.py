"""A started run: its settings, its model, and what was merged into its newest versions.

Invariants: what changes is in `RunState`, which a snapshot holds. Its only times are those of
decisions.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cos2p.log import messages as m
from cos2p.log.state_codec import Counts
from cos2p.model.basket import Choice
from cos2p.model.cost import CostModel
from cos2p_planner.state.arrivals import Arrivals
from cos2p_planner.state.holdings import Holdings, HoldingsState

INTERVALS_KEPT = 9


@dataclass(slots=True)
class UnitCounts:
    """What was merged into a version, or is about to be.

    Attributes:
        counts: the version's updates per unit, shape (units,).
        share: sum of the updates' shares of the prunable cost.
    """

    counts: Counts
    share: float = 0.0


@dataclass
class RunState:
    """The changing state of a started run; a snapshot holds it.

    Attributes:
        started_s: when the run started; all times are the planner's clock, in seconds.
        opened_s: when the open version opened. The first opens with the first plan, others with the
            version before.
        progress_s: when the run started or last got a version.
        window: the closed versions of the coverage window, oldest first.
        intervals: seconds that the last versions took.
        open: the open version so far.
        open_staleness: staleness of each update in the open version.
        arrivals: the arrival groups.
        holdings: what each device holds.
    """

    started_s: float
    opened_s: float
    progress_s: float
    open: UnitCounts
    arrivals: Arrivals
    holdings: HoldingsState
    window: list[UnitCounts] = field(default_factory=list)
    intervals: list[float] = field(default_factory=list)
    open_staleness: list[int] = field(default_factory=list)


class Run:
    """A started run: settings, model, coverage. `state` is what a snapshot held of it."""

    def __init__(self, started: m.RunStarted, state: RunState | None = None) -> None:
        self.config = started.config
        self.table = started.units.table()
        self.costs = CostModel.of(self.table, started.config)
        # Devices hold their units for several plans, so most results have been computed before.
        self._share_of = lru_cache(1024)(self.costs.share)
        self.flops_of = lru_cache(1024)(self.costs.training_flops)
        at_s = started.at_s
        self._state = state or RunState(
            at_s, at_s, at_s, self._nothing(), Arrivals(), HoldingsState()
        )
        self.holdings = Holdings(self.costs, self.config.plans.coverage_floor, self._state.holdings)

    @property
    def state(self) -> RunState:
        """What a snapshot holds of the run."""
        self._state.holdings = self.holdings.state
        return self._state

    @property
    def ends_s(self) -> float:
        """When the run ends, regardless of its version."""
        return self._state.started_s + (self.config.rounds.horizon_s or math.inf)

    def progress(self, version: int, now: float) -> float:
        """Return the share of the run that is done, 0 to 1: of its versions or of its time."""
        rounds = self.config.rounds
        done = version / rounds.versions
        if rounds.horizon_s is not None:
            done = max(done, (now - self._state.started_s) / rounds.horizon_s)
        return min(1.0, max(0.0, done))

    def issue(self, plan: m.Plan, now: float, *, first: bool) -> None:
        """Note that a plan was issued; the run's first one opens its first version."""
        if first:
            self._state.opened_s = now
        self.holdings.issue(plan.worker_id, Choice(plan.trained, plan.frozen))
        self._state.arrivals.issued(plan, now)

    def admit(self, plan: m.Plan, staleness: int, now: float) -> None:
        """Count a plan's update in the open version."""
        state = self._state
        state.open.counts[list(plan.trained)] += 1
        state.open.share += self._share_of(plan.trained)
        state.open_staleness.append(staleness)
        state.arrivals.landed(plan, now)

    def close(self, now: float) -> None:
        """Close the open version and open the next one."""
        state = self._state
        state.arrivals.closed(now)
        state.window = [*state.window, state.open][-self.config.rounds.coverage_window :]
        state.intervals = [*state.intervals, now - state.opened_s][-INTERVALS_KEPT:]
        state.opened_s = state.progress_s = now
        state.open = self._nothing()
        state.open_staleness = []

    def coverage(self) -> tuple[int, float]:
        """Return N* and its bound over the window, as if the open version were closed now.

        N* is the least number of admitted updates of any prunable unit. The bound is what an even
        spread of the same updates' cost would give.
        """
        prunable = self._counts()[self.table.prunable]
        least = int(prunable.min()) if len(prunable) else len(self._state.open_staleness)
        return least, self._state.open.share + sum(past.share for past in self._past())

    def _nothing(self) -> UnitCounts:
        return UnitCounts(np.zeros(len(self.table), np.int64))

    def _counts(self) -> NDArray[np.int64]:
        """Return the window's updates that trained each unit, shape (units,)."""
        return self._state.open.counts + sum(past.counts for past in self._past())

    def _past(self) -> list[UnitCounts]:
        """Return the closed versions of the window."""
        length = self.config.rounds.coverage_window - 1
        return self._state.window[-length:] if length else []
