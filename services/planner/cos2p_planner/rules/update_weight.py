"""What an update counts: its share of the mean, and the factor on its delta. Pure functions.

Sources: s(tau) = (1 + tau) ** -a is from FedAsync (arXiv 1903.03934) and FedBuff (arXiv
2106.06639). Both put it on the delta: 1/K sum s(tau) delta. Normalisation by steps done is from
FedNova (arXiv 2007.07481). Here it normalises to E instead of the mean of steps, and only upwards.
"""

from dataclasses import dataclass

from cos2p.run_config import LocalConfig, RunConfig

SCALE_MAX = 2.0
"""Largest factor on a delta of few steps: its first steps are mostly noise."""


@dataclass(frozen=True)
class Weight:
    """How the aggregator uses an update: sum of weight * scale * delta / sum of weight."""

    weight: float
    scale: float


def weigh(sample_count: int, steps_done: int, staleness: int, config: RunConfig) -> Weight:
    """Return the weight samples ** sample_exponent, with s(tau) on it or on the delta.

    `staleness` is the number of versions made since the update's base.
    """
    rounds = config.rounds
    fresh = staleness_factor(staleness, rounds.staleness_exponent)
    weight = float(sample_count**rounds.sample_exponent)
    scale = step_factor(steps_done, config.local) if rounds.normalise_steps else 1.0
    if rounds.staleness_on == "weight":
        return Weight(weight * fresh, scale)
    return Weight(weight, scale * fresh)


def staleness_factor(staleness: int, exponent: float) -> float:
    """Return s(tau) = (1 + tau) ** -exponent."""
    return float((1 + staleness) ** -exponent)


def step_factor(steps_done: int, local: LocalConfig) -> float:
    """Return the factor on a delta so that few steps count as the run's E, within `SCALE_MAX`."""
    return min(SCALE_MAX, max(1.0, local.steps / steps_done))
