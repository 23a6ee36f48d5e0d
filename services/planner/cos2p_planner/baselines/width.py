"""Width rules: one rate for all rings of all blocks, the largest whose cut fits the budget.

They differ in which ceil(rate * n) of a ring's n units a device keeps: always the first (HeteroFL,
FjORD), some at random (Federated Dropout), or a window that moves (FedRolex).

Deviations from the papers, for all: the unit is a head, a group of neurons or of channels; inner
dimensions are cut, never the stream, the embedding or the classifier (HeteroFL and FedRolex cut all
three, HeteroFL's transformer inside each head); the rate is the largest that the device's bytes
allow, not one of five levels, and rounding up is paid for from the budget.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from cos2p.model.cost import CostModel
from cos2p_planner.choosers.question import Ask, Indices
from cos2p_planner.choosers.structure import Ring, Structure
from cos2p_planner.state.choice import Choice

Keep = Callable[[Ring, int, Ask], Indices]
"""Which `count` units of a ring the asking device keeps."""

FJORD_RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
DEVICE_PHASE, BLOCK_PHASE = 0.618, 0.37
"""Parts of a turn by which neighbouring devices, and neighbouring blocks, start apart."""


class WidthRule:
    """One rate everywhere.

    Args:
        costs: the model's costs.
        keep: which units of a ring are kept.
        rates: those allowed, ascending; None allows every one.
    """

    def __init__(self, costs: CostModel, keep: Keep, rates: Sequence[float] | None = None) -> None:
        self._costs, self._keep = costs, keep
        self._structure = Structure(costs)
        self._rates = tuple(rates or self._structure.rates)

    @property
    def least_bytes(self) -> int:
        """Peak of the dearest cut at the smallest rate, wherever the windows stand."""
        return self._dearest_bytes(self._structure.blocks)

    def _dearest_bytes(self, blocks: Iterable[int]) -> int:
        cost = self._costs.trained_bytes

        def dearest(ring: Ring) -> Indices:
            order = np.argsort(-cost[ring.units], kind="stable")
            return ring.units[order[: ring.count(self._rates[0])]]

        return self._costs.peak_bytes(self._structure.cut(blocks, dearest))

    def choose(self, ask: Ask) -> Choice | None:
        """The cut at the largest rate that fits."""
        cut = partial(self._units, ask, self._structure.blocks)
        units = self._structure.largest(self._rates, cut, ask.budget_bytes)
        return None if units is None else Choice(units)

    def _units(self, ask: Ask, blocks: Iterable[int], rate: float) -> tuple[int, ...]:
        return self._structure.cut(blocks, lambda r: self._keep(r, r.count(rate), ask))


class SkippingWidthRule(WidthRule):
    """A width rule that leaves blocks out where not even one unit of everything fits.

    No published rule: those have such devices stay away. The blocks are a window over the depth, as
    many as fit at `width_min`, one at least; it starts at frac(0.618 * device) of the depth and
    moves by its own length with each of the device's choices.
    """

    @property
    def least_bytes(self) -> int:
        """Peak of the dearest block, with the stem and one unit of each ring."""
        blocks = self._structure.blocks
        return max((self._dearest_bytes([b]) for b in blocks), default=self._dearest_bytes([]))

    def choose(self, ask: Ask) -> Choice | None:
        """The cut of all blocks where there is one, else of the most blocks that fit."""
        choice = super().choose(ask)
        if choice is not None or ask.budget_bytes < self.least_bytes:
            return choice
        wide = [ask.width_min, *(r for r in self._rates if r > ask.width_min)]
        count = len(self._structure.blocks)
        for depth in range(count - 1, 0, -1):
            cut = partial(self._units, ask, self._window(ask, depth))
            for rates in (wide,) if depth > 1 else (wide, self._rates):
                units = self._structure.largest(rates, cut, ask.budget_bytes)
                if units is not None:
                    return Choice(units)
        return None

    def _window(self, ask: Ask, depth: int) -> list[int]:
        count = len(self._structure.blocks)
        start = int(np.modf(DEVICE_PHASE * ask.device)[0] * count) + ask.choice * depth
        return sorted((start + i) % count for i in range(depth))


def first(ring: Ring, count: int, ask: Ask) -> Indices:
    """The first units, the same in every plan: HeteroFL (arXiv 2010.01264)."""
    return ring.units[:count]


def common_window(ring: Ring, count: int, ask: Ask) -> Indices:
    """One window for all devices, a unit further per version: FedRolex (arXiv 2212.01548).

    {(version + j) mod n : j < count}.
    """
    return _window(ring, ask.version, count)


def staggered_window(ring: Ring, count: int, ask: Ask) -> Indices:
    """A window per device and block, further by its own width with each of the device's choices.

    It starts at frac(0.618 * device + 0.37 * block) of the ring. Rolling as FedRolex's, but nearly
    even over the devices in every version: the opponent to beat.
    """
    turn = np.modf(DEVICE_PHASE * ask.device + BLOCK_PHASE * ring.block)[0]
    return _window(ring, int(turn * len(ring.units)) + ask.choice * count, count)


def random_units(seed: int) -> Keep:
    """Units drawn anew for each device, ring and plan: Federated Dropout (arXiv 1812.07210).

    The draw is a function of the run's seed, the plan's number and the ring's block and kind. The
    paper drops the same share in all clients; here each device's rate is its own.
    """

    def keep(ring: Ring, count: int, ask: Ask) -> Indices:
        first_unit = int(ring.units[0])
        order = np.random.default_rng([seed, ask.plan, first_unit]).permutation(ring.units)
        return order[:count]

    return keep


def heterofl(costs: CostModel) -> WidthRule:
    """HeteroFL (arXiv 2010.01264): the first units of every ring at the device's rate."""
    return WidthRule(costs, first)


def fjord(costs: CostModel) -> WidthRule:
    """FjORD's ordered dropout (arXiv 2102.13451): as HeteroFL, p_max on the grid 0.2, 0.4 .. 1.

    Which p <= p_max a local step trains is the local loss's part (`local.objective`).
    """
    return WidthRule(costs, first, FJORD_RATES)


def federated_dropout(costs: CostModel, seed: int) -> WidthRule:
    """Federated Dropout (arXiv 1812.07210) with per-device rates, as FedRolex's authors run it."""
    return WidthRule(costs, random_units(seed))


def fedrolex(costs: CostModel) -> WidthRule:
    """FedRolex (arXiv 2212.01548)."""
    return WidthRule(costs, common_window)


def fedrolex_staggered(costs: CostModel) -> WidthRule:
    """FedRolex (arXiv 2212.01548) with windows of the devices' own."""
    return WidthRule(costs, staggered_window)


def fedrolex_staggered_skip(costs: CostModel) -> WidthRule:
    """The same, with a window over the depth too for devices that could not take part else."""
    return SkippingWidthRule(costs, staggered_window)


def _window(ring: Ring, start: int, count: int) -> Indices:
    length = len(ring.units)
    return ring.units[(start + np.arange(min(count, length))) % length]
