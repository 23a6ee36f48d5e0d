"""Width rules: one rate for all rings of all blocks, the largest whose cut fits the budget.

The rules differ in which ceil(rate * n) of a ring's n units a device keeps. HeteroFL and FjORD
always keep the first units. Federated Dropout keeps random units. FedRolex keeps a window that
moves.

Deviations from the papers, for all rules:
- The unit is a head, a group of neurons or a group of channels.
- Inner dimensions are cut, never the stream, the embedding or the classifier. HeteroFL and FedRolex
  cut all three, and HeteroFL's transformer also cuts inside each head.
- The rate is the largest that the device's bytes allow, not one of five levels.
- Rounding up is paid for from the budget.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from cos2p.model.basket import Choice
from cos2p.model.cost import CostModel
from cos2p.model.units import Indices, Ring
from cos2p_planner.choosers.choice_request import ChoiceRequest

Keep = Callable[[Ring, int, ChoiceRequest], Indices]
"""Returns which `count` units of a ring the asking device keeps."""

DEVICE_PHASE, BLOCK_PHASE = 0.618, 0.37
"""Fractions of a turn between the windows of neighbouring devices, and neighbouring blocks."""


class WidthRule:
    """Cuts all rings at one rate of `rates`, which ascend; None allows every rate."""

    def __init__(self, costs: CostModel, keep: Keep, rates: Sequence[float] | None = None) -> None:
        self._costs, self._table, self._keep = costs, costs.table, keep
        self._rates = tuple(rates or self._table.rates)

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the most expensive cut at the smallest rate."""
        return self._largest_peak(range(self._table.block_count))

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the cut at the largest rate that fits."""
        blocks = range(self._table.block_count)
        return self._widest(request, blocks, self._rates, request.budget_bytes)

    def _largest_peak(self, blocks: Iterable[int]) -> int:
        """Return the peak bytes of these blocks' most expensive cut at the smallest rate."""
        gain, rate = -self._costs.trained_bytes, self._rates[0]
        return self._costs.peak_bytes(self._table.cut(blocks, lambda r: r.lowest(gain, rate)))

    def _cut(self, request: ChoiceRequest, blocks: Iterable[int], rate: float) -> tuple[int, ...]:
        return self._table.cut(blocks, lambda r: self._keep(r, r.count(rate), request))

    def _widest(
        self,
        request: ChoiceRequest,
        blocks: Iterable[int],
        rates: Sequence[float],
        budget_bytes: int,
    ) -> Choice | None:
        """Return the cut of these blocks at the largest of the ascending rates that fits.

        It is exact where the cost of a cut grows with the rate. The result fits in any case.
        """

        def peak_bytes(rate: float) -> int:
            return self._costs.peak_bytes(self._cut(request, blocks, rate))

        count = bisect_right(rates, budget_bytes, key=peak_bytes)
        return Choice(self._cut(request, blocks, rates[count - 1])) if count else None

    def _deepest(
        self, request: ChoiceRequest, windows: Sequence[Sequence[int]], budget_bytes: int
    ) -> Choice | None:
        """Return the first window of blocks that fits at `width_min`; else the last at any rate."""
        wide = [request.width_min, *(r for r in self._rates if r > request.width_min)]
        tries = [(window, wide) for window in windows] + [(w, [*self._rates]) for w in windows[-1:]]
        choices = (self._widest(request, blocks, rates, budget_bytes) for blocks, rates in tries)
        return next((choice for choice in choices if choice is not None), None)


class SkippingWidthRule(WidthRule):
    """A width rule that leaves blocks out where one unit of every ring does not fit.

    This rule is not published: the published rules leave such devices out. The blocks are a window
    over the depth. It has as many blocks as fit at `width_min`, but at least one. It starts at
    frac(0.618 * device) of the depth. It moves by its own length with each of the device's choices.
    """

    @property
    def least_bytes(self) -> int:
        """Peak bytes of the most expensive block, with the stem and one unit of each ring."""
        blocks = range(self._table.block_count)
        return max((self._largest_peak([b]) for b in blocks), default=self._largest_peak([]))

    def choose(self, request: ChoiceRequest) -> Choice | None:
        """Choose the cut of all blocks where one fits, else of the most blocks that fit."""
        choice = super().choose(request)
        if choice is not None or request.budget_bytes < self.least_bytes:
            return choice
        depths = range(self._table.block_count - 1, 0, -1)
        return self._deepest(
            request, [self._window(request, d) for d in depths], request.budget_bytes
        )

    def _window(self, request: ChoiceRequest, depth: int) -> list[int]:
        count = self._table.block_count
        start = int(np.modf(DEVICE_PHASE * request.device)[0] * count) + request.choice * depth
        return sorted((start + i) % count for i in range(depth))


def first(ring: Ring, count: int, request: ChoiceRequest) -> Indices:
    """The first units, the same in every plan: HeteroFL (arXiv 2010.01264)."""
    return ring.units[:count]


def common_window(ring: Ring, count: int, request: ChoiceRequest) -> Indices:
    """One window for all devices, one unit further per version: FedRolex (arXiv 2212.01548).

    {(version + j) mod n : j < count}.
    """
    return _window(ring, request.version, count)


def staggered_window(ring: Ring, count: int, request: ChoiceRequest) -> Indices:
    """A window per device and block, which moves by its own width with each choice of the device.

    It starts at frac(0.618 * device + 0.37 * block) of the ring. It rolls like FedRolex's window,
    but is nearly even over the devices in every version. It is the baseline to beat.
    """
    turn = np.modf(DEVICE_PHASE * request.device + BLOCK_PHASE * ring.block)[0]
    return _window(ring, int(turn * len(ring.units)) + request.choice * count, count)


def random_units(seed: int) -> Keep:
    """Make a `Keep` that draws units again for each plan: Federated Dropout (arXiv 1812.07210).

    The draw is a function of the run's seed, the plan's number and the ring's block and kind. The
    paper drops the same share in all clients. Here each device has its own rate.
    """

    def keep(ring: Ring, count: int, request: ChoiceRequest) -> Indices:
        first_unit = int(ring.units[0])
        order = np.random.default_rng([seed, request.plan, first_unit]).permutation(ring.units)
        return order[:count]

    return keep


def _window(ring: Ring, start: int, count: int) -> Indices:
    length = len(ring.units)
    return ring.units[(start + np.arange(min(count, length))) % length]
