"""What an update counts: its share of the mean, and the factor on its delta. Pure functions.

Sources: s(tau) = (1 + tau) ** -a from FedAsync (arXiv 1903.03934) and FedBuff (arXiv 2106.06639),
which put it on the delta: 1/K sum s(tau) delta; normalisation by steps done from FedNova (arXiv
2007.07481), here towards E instead of the mean of steps, and upwards only.
"""

from dataclasses import dataclass

from cos2p.run_config import LocalConfig, RoundConfig

SCALE_MAX = 2.0
"""A delta of few steps is not blown up further: its first steps are mostly noise."""


@dataclass(frozen=True)
class Arrival:
    """What an update is weighed by.

    Attributes:
        sample_count: samples trained on.
        steps_done: local steps.
        staleness: versions made since its base.
    """

    sample_count: int
    steps_done: int
    staleness: int


@dataclass(frozen=True)
class Weight:
    """What the aggregator does with an update: sum of weight * scale * delta / sum of weight."""

    weight: float
    scale: float


def weigh(arrival: Arrival, rounds: RoundConfig, local: LocalConfig) -> Weight:
    """The weight samples ** sample_exponent; s(tau) on it or on the delta."""
    fresh = staleness_factor(arrival.staleness, rounds.staleness_exponent)
    weight = float(arrival.sample_count**rounds.sample_exponent)
    scale = step_factor(arrival.steps_done, local) if rounds.normalise_steps else 1.0
    if rounds.staleness_on == "weight":
        return Weight(weight * fresh, scale)
    return Weight(weight, scale * fresh)


def staleness_factor(staleness: int, exponent: float) -> float:
    """s(tau) = (1 + tau) ** -exponent."""
    return float((1 + staleness) ** -exponent)


def step_factor(steps_done: int, local: LocalConfig) -> float:
    """Factor on a delta so that few steps count as the run's E, within `SCALE_MAX`."""
    return min(SCALE_MAX, max(1.0, local.steps / steps_done))
