"""FjORD's ordered dropout: each step trains a nested width of the submodel.

A narrower width is a really smaller module. It runs with the slices of the submodel's own
parameters that belong to its units. So gradients reach these slices alone, and a step costs what
the narrower model costs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cos2p.model.nested import nested_widths
from cos2p.run_config import ExitConfig
from cos2p_worker.loss import Loss
from cos2p_worker.models.architecture import Architecture
from cos2p_worker.objectives.batch import Batch
from cos2p_worker.objectives.divergence import soft


class Narrow:
    """A width of a submodel that has `units`."""

    def __init__(self, model: Architecture, units: Sequence[int], width: Sequence[int]) -> None:
        with torch.device("meta"):  # its own parameters are never used, nor allocated
            self._module = model.build(tuple(width))
        places = model.layout.places_within(units, width)
        self._places = {name: (dim, torch.from_numpy(at)) for name, (dim, at) in places.items()}

    def outputs(self, wide: nn.Module, inputs: Tensor) -> Tensor:
        """Return the output of this width of `wide`, with gradients to the parameters of `wide`."""
        cut = {
            name: _cut(parameter, *self._places[name])
            for name, parameter in wide.named_parameters()
            if name in self._places
        }
        found: Tensor = torch.func.functional_call(self._module, cut, (inputs,))
        return found


def _cut(parameter: Tensor, dim: int, places: Tensor) -> Tensor:
    if len(places) == parameter.shape[dim]:
        return parameter
    return parameter.index_select(dim, places.to(parameter.device))


class OrderedDropout:
    """CE(f_p, y) with p drawn uniformly at each step; with distillation CE(f_pmax, y) + KD.

    From Horvath et al., arXiv 2102.13451. KD is T^2 * CE(f_p, softmax(f_pmax / T)), with the
    teacher detached. As published, T = 1 and its weight ("distillation") is 1. Widths are as in
    `cos2p.model.nested`. With KD, a step that draws p = p_max has no second pass.

    Deviations: only inner dimensions are cut. All widths share one norm. An optimiser with momentum
    also moves what a step doesn't train.
    """

    def __init__(
        self,
        loss: Loss,
        config: ExitConfig,
        model: Architecture,
        trained: Sequence[int],
        frozen: Sequence[int],
        seed: int,
    ) -> None:
        self._loss, self._config, self._seed = loss, config, seed
        units = sorted({*trained, *frozen})
        widths = [sorted({*w, *frozen}) for w in nested_widths(model.layout.table, trained)]
        self._narrow = [Narrow(model, units, width) for width in widths[:-1]]

    def drawn(self, step: int) -> int:
        """Return the width of a step, 0 the narrowest; a function of the plan's seed."""
        return int(np.random.default_rng([self._seed, step]).integers(len(self._narrow) + 1))

    def parts(self, module: nn.Module, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield one pass at the drawn width, or (with distillation) one at full width before it."""
        width = self.drawn(batch.step)
        narrow = self._narrow[width] if width < len(self._narrow) else None
        weight, temperature = self._config.distillation, self._config.temperature
        if narrow is not None and not weight:
            outputs = narrow.outputs(module, batch.inputs)
            yield self._loss(outputs, batch.labels), outputs
            return
        outputs = module(batch.inputs)
        taught = soft(outputs.detach(), temperature).exp()
        yield self._loss(outputs, batch.labels), outputs
        if narrow is not None:
            outputs = narrow.outputs(module, batch.inputs)
            apart = -(taught * soft(outputs, temperature)).sum(-1).mean()
            yield weight * temperature**2 * apart, outputs
