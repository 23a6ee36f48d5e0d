"""What each device holds: its units, for how many plans, and how recently it trained others.

Invariant: the state is a function of the decisions alone, in log order: plans issued, and plans
that ended because their device left or had a problem. So a restarted planner chooses as the first
would have.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cos2p.log.state_codec import Floats, Floats32
from cos2p.model.basket import Choice
from cos2p.model.cost import CostModel
from cos2p_planner.state.prices import FloorPrices

RECENCY_DECAY = 0.8
"""Factor per choice of the device: how fast it forgets that it trained a unit."""
ABSENCE_GAIN = 0.05
"""Gain per choice of a unit that the device does not train. Without it two devices may swap the
same two sets for ever, and never train the rest (seen on the digits model)."""
NO_CHOICE = Choice(())


@dataclass
class HoldingsState:
    """What a snapshot holds of the holdings; devices in the order of their first plans.

    Attributes:
        held: each device's units.
        plans: for how many plans each device has had its units.
        choices: how many choices each device has had.
        present: the devices that count for the floor, and the share of the model that each holds.
        recency: see `Holdings.recency`, shape (devices, units).
        theta: the floor's dual prices, shape (units,).
        due: N* as far as it is possible now.
    """

    held: dict[str, Choice] = field(default_factory=dict)
    plans: dict[str, int] = field(default_factory=dict)
    choices: Counter[str] = field(default_factory=Counter)
    present: dict[str, float] = field(default_factory=dict)
    recency: Floats32 | None = None
    theta: Floats | None = None
    due: int = 0


class Holdings:
    """The units that devices hold, as rows of one matrix (devices, units)."""

    def __init__(
        self, costs: CostModel, coverage_floor: int = 0, state: HoldingsState | None = None
    ) -> None:
        state = state or HoldingsState()
        unit_count = len(costs.table)
        self._costs = costs
        self._held, self._plans, self._choices = state.held, state.plans, state.choices
        self._present = state.present
        self.choice_count = state.choices.total()
        self._rows = {worker_id: row for row, worker_id in enumerate(self._held)}
        room = max(8, len(self._rows))
        self._masks = np.zeros((room, unit_count), np.uint8)
        for row, choice in enumerate(self._held.values()):
            self._masks[row, list(choice.trained)] = 1
        self._recency = np.zeros((room, unit_count), np.float32)
        if state.recency is not None:
            self._recency[: len(self._rows)] = state.recency
        present = [self._rows[worker_id] for worker_id in self._present]
        self._counts = self._masks[present].sum(axis=0, dtype=np.int64)
        """How many of the devices that count for the floor hold each unit."""
        self._all_counts = self._masks.sum(axis=0, dtype=np.int64)
        prunable = costs.table.prunable
        self.prices = FloorPrices(coverage_floor, prunable, state.theta, state.due)

    @property
    def state(self) -> HoldingsState:
        """What a snapshot holds of the holdings."""
        recency = self._recency[: len(self._rows)]
        theta, due = self.prices.theta, self.prices.due
        return HoldingsState(
            self._held, self._plans, self._choices, self._present, recency, theta, due
        )

    def issue(self, worker_id: str, choice: Choice) -> None:
        """Note that a plan with these units went to a device."""
        if self._held.get(worker_id) == choice and worker_id in self._present:
            self._plans[worker_id] += 1
            return
        self.release(worker_id)
        trained = list(choice.trained)
        row = self._row(worker_id)
        self._all_counts -= self._masks[row]
        self._masks[row] = 0
        self._masks[row, trained] = 1
        self._all_counts += self._masks[row]
        self._counts += self._masks[row]
        self._present[worker_id] = self._costs.share(trained)
        if self._held.get(worker_id) == choice:
            self._plans[worker_id] += 1
            return
        recency = self._recency[row]
        recency[recency > 0] *= RECENCY_DECAY
        recency -= ABSENCE_GAIN
        recency[trained] = 1.0
        self._held[worker_id] = choice
        self._plans[worker_id] = 1
        self._choices[worker_id] += 1
        self.choice_count += 1
        self.prices.step(self._counts, sum(self._present.values()))

    def release(self, worker_id: str) -> None:
        """Note that a device left or has a problem: until its next plan the floor ignores it."""
        if self._present.pop(worker_id, None) is not None:
            self._counts -= self._masks[self._rows[worker_id]]

    def held(self, worker_id: str) -> tuple[Choice, int]:
        """Return a device's units and its number of plans with them; none and 0 if it is new."""
        return self._held.get(worker_id, NO_CHOICE), self._plans.get(worker_id, 0)

    def turn(self, worker_id: str) -> tuple[int, int]:
        """Return a device's number, in the order of first plans, and its number of choices."""
        return self._rows.get(worker_id, len(self._rows)), self._choices[worker_id]

    def coverage(self, workers: Iterable[str]) -> NDArray[np.float64]:
        """Return how many of these devices hold each unit, shape (units,)."""
        wanted = np.zeros(len(self._masks), np.bool_)
        wanted[[self._rows[w] for w in workers if w in self._rows]] = True
        if 2 * np.count_nonzero(wanted) > len(self._rows):  # nearly all: count the others instead
            wanted[: len(self._rows)] ^= True
            counts = self._all_counts - self._masks[wanted].sum(axis=0, dtype=np.int64)
        else:
            counts = self._masks[wanted].sum(axis=0, dtype=np.int64)
        found: NDArray[np.float64] = counts.astype(np.float64)
        return found

    def recency(self, worker_id: str) -> NDArray[np.float64]:
        """Return 1 for units that the device holds now, lower the longer ago, shape (units,)."""
        row = self._rows.get(worker_id)
        if row is None:
            return np.zeros(self._recency.shape[1])
        recency: NDArray[np.float64] = self._recency[row].astype(np.float64)
        return recency

    def _row(self, worker_id: str) -> int:
        row = self._rows.setdefault(worker_id, len(self._rows))
        if row >= len(self._masks):
            self._masks = np.concatenate([self._masks, np.zeros_like(self._masks)])
            self._recency = np.concatenate([self._recency, np.zeros_like(self._recency)])
        return row
