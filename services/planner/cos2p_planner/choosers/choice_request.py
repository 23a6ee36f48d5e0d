"""The question that a rule receives, and the interface of a rule.

Invariant: a `ChoiceRequest` is a function of the decision log, the devices' messages and what the
aggregator has published. So a restarted planner asks the same question.
"""

from dataclasses import dataclass
from typing import Protocol

from cos2p.model.basket import Choice, Floats


@dataclass(frozen=True)
class ChoiceRequest:
    """One device's question. Arrays are float64, shape (units,).

    Attributes:
        budget_bytes: largest forecast peak allowed.
        coverage: how many other devices hold each unit now.
        recency: 1 for a unit that this device trained just now, lower the longer ago; below 0 for a
            unit that it has left out for long.
        value: what each unit is worth to this device beyond coverage, in devices. It holds
            importance scores and the worth of nested units. Zeros rotate on coverage alone.
        phase: number of the run's choice; breaks ties differently each time.
        width_min: share of each kind that a block keeps before another block is kept.
        device: number of this device, in the order of first plans.
        choice: number of choices that this device has had before.
        version: the newest version.
        plan: number of the plan to be made, from 1.
        fleet_budgets: budgets of all devices that may train, with this one's.
        prices: what the coverage floor adds to each unit's worth, in devices; None for no floor.
        seconds: what each unit adds to a plan of the fewest steps; None where time is not a limit.
        seconds_max: the largest sum of `seconds` allowed.
        norms: L2 norm of each unit's weights in the newest version; None before it is known.
    """

    budget_bytes: int
    coverage: Floats
    recency: Floats
    value: Floats
    phase: int
    width_min: float
    device: int = 0
    choice: int = 0
    version: int = 0
    plan: int = 1
    fleet_budgets: tuple[int, ...] = ()
    prices: Floats | None = None
    seconds: Floats | None = None
    seconds_max: float = 0.0
    norms: Floats | None = None


class ChoiceRule(Protocol):
    """A rule that chooses a device's units."""

    @property
    def least_bytes(self) -> int:
        """Budget with which every question has an answer; devices below it get no plans."""
        ...

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the units; None where none fit."""
        ...
