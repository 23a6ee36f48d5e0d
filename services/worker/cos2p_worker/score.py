"""Gate scores: how much each trained unit matters to the loss on this device's data, by label.

Put a factor gamma_u = 1 on a unit's activation a_u. Its gradient for one sample x is

    s_u(x) = <a_u(x), dl/da_u(x)>

(Molchanov et al. 2019, arXiv 1906.10771; for heads Michel et al. 2019, arXiv 1905.10650). It is
what the loss loses, to first order, if the unit's output becomes zero. Here s_u(x) squared is
summed over the samples of a label. It is read from the training pass itself, by a tap in the
forward pass and a gradient hook in the backward pass. It needs no separate pass.

Invariants: scoring does not change what is trained. A step counts for all units or for none. No
reference to an activation outlives its gradient. So a step's peak grows by little more than
`PRODUCT_ELEMENTS`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from cos2p.model.units import Kind, UnitTable
from cos2p_worker.models.architecture import CHANNEL_DIM, Tapped
from cos2p_worker.trainer import GateScores

PRODUCT_ELEMENTS = 2**15
"""A product of activation and gradient is made for this many elements at a time, or more (see
`PRODUCT_SHARE`). It is 128 KB: it stays in the cache, and is negligible next to what a step keeps.
"""
PRODUCT_SHARE = 8
"""A product covers at least 1 / PRODUCT_SHARE of the batch: few kernels on a GPU."""

BlockKind = tuple[int, Kind]
"""A block and a kind: what one call of a tap shows."""


class GateScorer:
    """Scores the trained units of one plan; of a block, all present units are trained or none.

    `classes` is the number of labels to separate; None where labels are not classes.
    """

    def __init__(
        self, table: UnitTable, trained: Sequence[int], classes: int | None, device: torch.device
    ) -> None:
        self._members: dict[BlockKind, list[int]] = {}
        for unit in trained:
            if table.gated[unit]:
                place = (table.units[unit].block, table.units[unit].kind)
                self._members.setdefault(place, []).append(unit)
        units = [unit for members in self._members.values() for unit in members]
        self._order = np.argsort(units)
        self._by_label = classes is not None
        self._sums = torch.zeros(classes or 1, len(units), device=device)
        self._counts = torch.zeros(classes or 1, dtype=torch.int64, device=device)
        self._seen: dict[BlockKind, Tensor] = {}

    @contextmanager
    def scoring(self, module: nn.Module, labels: Tensor) -> Iterator[None]:
        """Score the forward and backward passes of `module` made inside; without taps, do nothing.

        The loss must be a mean over the batch's labels (first dimension the samples). A sample's
        share of it must be a function of that sample alone (so no batch norm).
        """
        if not isinstance(module, Tapped):
            yield
            return
        inner = module.tap

        def tap(block: int, kind: Kind, activation: Tensor) -> Tensor:
            shown = activation if inner is None else inner(block, kind, activation)
            return self._watched((block, kind), shown)

        module.tap = tap
        try:
            yield
            self._count(labels)
        finally:
            module.tap = inner
            self._seen = {}

    def scores(self) -> GateScores | None:
        """Return what was collected; None where nothing was, or it is not finite."""
        sums = self._sums.T.cpu().numpy()[self._order]
        if not self._counts.any() or not np.isfinite(sums).all():
            return None
        return GateScores(np.ascontiguousarray(sums), self._counts.cpu().numpy())

    def _watched(self, place: BlockKind, activation: Tensor) -> Tensor:
        if place not in self._members or not activation.requires_grad:
            return activation
        waiting = [activation.detach()]  # released in the hook; detached, or it would hold itself

        def contract(gradient: Tensor) -> None:
            channels = _per_channel(waiting.pop(), gradient, CHANNEL_DIM[place[1]])
            seen = self._seen.get(place)
            self._seen[place] = channels if seen is None else seen + channels

        activation.register_hook(contract)  # type: ignore[no-untyped-call]
        return activation

    def _count(self, labels: Tensor) -> None:
        if self._seen.keys() != self._members.keys():
            return
        batch = len(labels)
        gates = torch.cat(
            [
                self._seen[place].view(batch, len(members), -1).sum(-1)
                for place, members in self._members.items()
            ],
            dim=1,
        )
        rows = labels if self._by_label else torch.zeros(batch, dtype=torch.int64)
        rows = rows.to(gates.device)
        # The loss is a mean: a sample's own gradient is `batch` times what reached its activation.
        self._sums.index_add_(0, rows, gates.square(), alpha=batch**2)
        self._counts += torch.bincount(rows, minlength=len(self._counts))


def _per_channel(activation: Tensor, gradient: Tensor, dim: int) -> Tensor:
    """Return <activation, gradient> per sample and channel, shape (batch, channels)."""
    batch, rest = len(activation), max(1, activation[0].numel())
    size = max(-(-batch // PRODUCT_SHARE), PRODUCT_ELEMENTS // rest)
    others = [d for d in range(1, activation.ndim) if d != dim % activation.ndim]
    if not others:
        return activation * gradient
    if size >= batch:
        return (activation * gradient).sum(others)
    pairs = zip(torch.split(activation, size), torch.split(gradient, size), strict=True)
    return torch.cat([(a * g).sum(others) for a, g in pairs])
