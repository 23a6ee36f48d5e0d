"""A small transformer whose blocks may have different widths, or be missing.

Its stem (`stems.py`) decides what it reads, images or text. It has pre-LN, learned positions, and
mean pooling or a class token.

The units are `embed` and `head` (core) and, per block, a core, attention heads and groups of MLP
neurons. A block's core is two LayerNorms and the biases that write to the stream. Exits are as in
`exits.py`.

Invariants: the residual stream has one width. A submodel's parameters have the whole model's names.
A block without its core is skipped. Padding changes nothing.

Costs: parameters are counted exactly. Activations are the elements that autograd keeps with torch's
fused attention (checked against saved-tensor hooks). FLOPs count a multiply-add as two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cos2p.errors import SettingsError
from cos2p.model.units import STEM
from cos2p_worker.layout import Layout, Shape, Slice, UnitSpec, inner_slices, whole
from cos2p_worker.models.architecture import Architecture, BlockTap, Tapped, widths_of
from cos2p_worker.models.exits import NO_EXITS, Exits
from cos2p_worker.models.stems import Stem

NORM_FLOPS = 8
"""Operations per element of a LayerNorm: mean, variance, scale, shift."""
LABEL_ELEMENTS = 2
"""A kept label is an int64: as large as two float32."""
POSITION_STD = 0.2
"""Standard deviation of the initial positions: near the embedding's own spread."""


@dataclass(frozen=True)
class BlockShape:
    """Attention heads and MLP neurons of one block."""

    heads: int
    neurons: int


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the whole model."""

    stem: Stem
    width: int
    blocks: tuple[BlockShape, ...]
    head_width: int
    neuron_group: int
    classes: int
    pool: Literal["mean", "token"] = "mean"

    def __post_init__(self) -> None:
        for shape in self.blocks:
            if shape.neurons % self.neuron_group or shape.heads < 1 or shape.neurons < 1:
                raise SettingsError(f"{shape}: needs heads, and whole groups of neurons")

    @property
    def tokens(self) -> int:
        """Length of the residual stream."""
        return self.stem.length + (self.pool == "token")


class Linear(nn.Linear):
    """A linear layer that may have no inputs or no outputs."""

    def reset_parameters(self) -> None:
        """Initialise uniformly in +-1/sqrt(inputs), as `nn.Linear` does; no values, no warning."""
        bound = max(self.in_features, 1) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TransformerConfig, shape: BlockShape) -> None:
        super().__init__()
        self.heads, self.head_width = shape.heads, config.head_width
        inner = shape.heads * config.head_width
        self.norm1 = nn.LayerNorm(config.width)
        self.qkv = Linear(config.width, 3 * inner)
        self.out = Linear(inner, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.fc1 = Linear(config.width, shape.neurons)
        self.fc2 = Linear(shape.neurons, config.width)

    def forward(self, x: Tensor, tap: BlockTap | None = None, mask: Tensor | None = None) -> Tensor:
        """Map float (batch, tokens, width) to its like; `mask` is added to attention's logits."""
        mixed = self._attend(self.norm1(x), mask)
        x = x + self.out(tap("head", mixed) if tap else mixed)
        hidden = functional.gelu(self.fc1(self.norm2(x)))
        y: Tensor = x + self.fc2(tap("neurons", hidden) if tap else hidden)
        return y

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, _ = x.shape
        if not self.heads:
            return x.new_zeros(batch, tokens, 0)
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_width)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, mask)
        return mixed.transpose(1, 2).reshape(batch, tokens, -1)


class TransformerExit(nn.Module):
    """A classifier after an inner block; it reads the stream as the final head does."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pool = config.pool
        self.norm = nn.LayerNorm(config.width)
        self.head = Linear(config.width, config.classes)

    def forward(self, x: Tensor, shares: Tensor | None) -> Tensor:
        """Map float (batch, tokens, width) to logits (batch, classes); `shares` as in `_mean`."""
        read = self.norm(x[:, 0]) if self.pool == "token" else _mean(self.norm(x), shares)
        logits: Tensor = self.head(read)
        return logits


class Transformer(Tapped):
    """The model, or a submodel: `shapes` names the blocks that are present."""

    def __init__(
        self, config: TransformerConfig, shapes: Mapping[int, BlockShape], exits: Exits
    ) -> None:
        super().__init__()
        self.config = config
        self.has_exits = bool(exits)
        inner, final = exits.kept(set(shapes), len(config.blocks) - 1)
        self.embed = config.stem.module(config.width)
        self.positions = nn.Parameter(torch.empty(config.tokens, config.width))
        nn.init.normal_(self.positions, std=POSITION_STD)
        if config.pool == "token":
            self.token = nn.Parameter(torch.zeros(1, config.width))
        self.blocks = nn.ModuleDict(
            {str(i): TransformerBlock(config, s) for i, s in sorted(shapes.items())}
        )
        self.norm = nn.LayerNorm(config.width) if final else None
        self.head = Linear(config.width, config.classes) if final else None
        self.exits = nn.ModuleDict({str(b): TransformerExit(config) for b in inner})

    def forward(self, samples: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map the stem's samples, (batch, ...), to float logits (batch, classes) of each head."""
        x = self.embed(samples)
        present = self.config.stem.present(samples)
        if self.config.pool == "token":
            x = torch.cat([self.token.expand(len(x), 1, -1), x], dim=1)
            present = functional.pad(present, (1, 0), value=True) if present is not None else None
        x = x + self.positions
        mask = _mask(present) if present is not None else None
        shares = present / present.sum(1, keepdim=True) if present is not None else None
        heads: list[Tensor] = []
        for i in range(len(self.config.blocks)):
            if (name := str(i)) in self.blocks:
                x = self.blocks[name](x, self.tap_of(i), mask)
            if name in self.exits:
                heads.append(self.exits[name](x, shares))
        if self.norm is not None and self.head is not None:
            x = self.norm(x)
            heads.append(self.head(x[:, 0] if self.config.pool == "token" else _mean(x, shares)))
        return tuple(heads) if self.has_exits else heads[0]


def _mean(x: Tensor, shares: Tensor | None) -> Tensor:
    """Average (batch, tokens, width) to (batch, width).

    The weights are float (batch, tokens); None weights all tokens equally.
    """
    return x.mean(1) if shares is None else torch.einsum("bn,bnd->bd", shares.to(x.dtype), x)


def transformer(config: TransformerConfig, exits: Exits = NO_EXITS) -> Architecture:
    """Make the architecture of a transformer."""
    layout = _layout(config, exits)

    def build(units: tuple[int, ...]) -> nn.Module:
        shapes = {
            block: BlockShape(width["head"], config.neuron_group * width["neurons"])
            for block, width in widths_of(layout, units).items()
        }
        exits.check_blocks(set(shapes), len(config.blocks) - 1)
        return Transformer(config, shapes, exits)

    ends = ("out.weight", "out.bias", "fc2.weight", "fc2.bias")
    outputs = frozenset(f"blocks.{i}.{end}" for i in range(len(config.blocks)) for end in ends)
    return Architecture(layout, build, exits, partial(transformer, config), outputs)


def _mask(present: Tensor) -> Tensor:
    """Map bool (batch, tokens) to an addend for attention's logits: float (batch, 1, 1, tokens)."""
    zeros = torch.zeros(present.shape, device=present.device)
    return zeros.masked_fill(~present, -torch.inf)[:, None, None]


def _layout(config: TransformerConfig, exits: Exits) -> Layout:
    with torch.device("meta"):
        module = Transformer(config, dict(enumerate(config.blocks)), exits)
    shapes: dict[str, Shape] = {n: tuple(p.shape) for n, p in module.named_parameters()}
    specs = [_embed(config, shapes, exits)]
    for index, shape in enumerate(config.blocks):
        specs += _block(config, shapes, index, shape)
    last = len(config.blocks) - 1
    specs += [_head(config, shapes, exits, block) for block in (last, *exits.after)]
    return Layout(shapes, specs)


def _embed(config: TransformerConfig, shapes: Mapping[str, Shape], exits: Exits) -> UnitSpec:
    n, d = config.tokens, config.width
    names = [x for x in shapes if x.split(".")[0] in ("embed", "positions", "token")]
    flops, kept = config.stem.flops(d) + n * d, config.stem.kept
    if not exits.shared:  # any head may be the deepest: its input counts here, which all have
        kept += n * d + LABEL_ELEMENTS
    return UnitSpec("embed", "core", STEM, whole(shapes, *names), flops, kept)


def _head(
    config: TransformerConfig, shapes: Mapping[str, Shape], exits: Exits, block: int
) -> UnitSpec:
    """Return the unit of the final head (after the last block), or of an exit before it."""
    n, d, last = config.tokens, config.width, len(config.blocks) - 1
    normed = n if block == last or config.pool == "mean" else 1
    # Kept: the norm's statistics, the pooled vector, the log-softmax. With a class token the pooled
    # vector is a view of the norm's output. An exit's input counts with the layer after it.
    pooled = normed * d if config.pool == "token" else d
    kept = 2 * normed + pooled + config.classes
    if block == last and exits.shared:
        kept += n * d + LABEL_ELEMENTS
    flops = (NORM_FLOPS + 1) * normed * d + 2 * d * config.classes
    return exits.head(shapes, block, last, flops, kept)


def _block(
    config: TransformerConfig, shapes: Mapping[str, Shape], index: int, shape: BlockShape
) -> Sequence[UnitSpec]:
    n, d, h = config.tokens, config.width, config.head_width
    at, name = f"blocks.{index}.", f"block{index}"
    ends = ("norm1.weight", "norm1.bias", "out.bias", "norm2.weight", "norm2.bias", "fc2.bias")
    core = whole(shapes, *(at + end for end in ends))
    # Kept per norm: input, mean and deviation; its output is kept by the linear layer after it.
    cost = ((2 * NORM_FLOPS + 2) * n * d, 4 * n * d + 4 * n)
    specs = [UnitSpec(f"{name}.core", "core", index, core, *cost)]
    inner = shape.heads * h
    for i in range(shape.heads):
        rows = [
            Slice(at + f"qkv.{end}", 0, part * inner + i * h, part * inner + (i + 1) * h)
            for end in ("weight", "bias")
            for part in range(3)
        ]
        slices = (*rows, Slice(at + "out.weight", 1, i * h, (i + 1) * h))
        # Kept by fused attention: q, k, v, the result, and one log-sum per token.
        cost = (8 * n * d * h + 4 * n * n * h, 4 * n * h + n)
        specs.append(UnitSpec(f"{name}.head.{i}", "head", index, slices, *cost))
    for i in range(shape.neurons // config.neuron_group):
        start, stop = i * config.neuron_group, (i + 1) * config.neuron_group
        slices = inner_slices(at, ("fc1.weight", "fc1.bias"), "fc2.weight", start, stop)
        cost = (4 * n * d * config.neuron_group, 2 * n * config.neuron_group)
        specs.append(UnitSpec(f"{name}.neurons.{i}", "neurons", index, slices, *cost))
    return specs
