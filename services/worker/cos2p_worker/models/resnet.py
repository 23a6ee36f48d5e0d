"""A small residual CNN with GroupNorm whose blocks may have different inner widths, or be missing.

Stages have equal stream width. Between stages there is a strided convolution (core). A block is

    x + conv2(relu(norm2(conv1(relu(norm1(x)))))).

The units are the stem and the transitions (core) and, per block, a core and groups of inner
channels. The core is norm1 and the bias that writes to the stream. A group is rows of conv1, their
part of norm2 and columns of conv2.

Invariants: norm2 has one group per unit, so leaving channels out changes no other unit's
statistics. The stream's width is never cut. Where exits are part of their blocks, so are the
transitions, and a submodel is a prefix of the blocks. Costs and exits are as in `transformer.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from cos2p.errors import SettingsError
from cos2p.model.units import STEM
from cos2p_worker.layout import Layout, Shape, UnitSpec, inner_slices, whole
from cos2p_worker.models.architecture import Architecture, BlockTap, Tapped, widths_of
from cos2p_worker.models.exits import NO_EXITS, Exits
from cos2p_worker.models.transformer import LABEL_ELEMENTS, NORM_FLOPS

KERNEL = 3


@dataclass(frozen=True)
class Stage:
    """Blocks with the same stream width and image side."""

    blocks: int
    width: int
    inner: int
    """Channels between a block's two convolutions."""
    stride: int = 1
    """Stride of the convolution that leads into the stage."""


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of the whole model; images are square."""

    image_size: int
    channels: int
    stages: tuple[Stage, ...]
    channel_group: int
    """Inner channels of a unit."""
    classes: int
    stream_groups: int = 4
    """Groups of the norms on the stream."""
    pool: int = 1
    """A head reads the means over pool x pool tiles. Where objects lie in the middle of the image,
    2 learns several times faster than 1."""

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= self.sides[-1]:
            raise SettingsError(f"pool {self.pool}: the last stage is {self.sides[-1]} wide")
        for stage in self.stages:
            if stage.inner % self.channel_group or stage.width % self.stream_groups:
                raise SettingsError(f"{stage}: channels must be whole groups")

    @property
    def block_stages(self) -> tuple[int, ...]:
        """The stage of each block."""
        return tuple(i for i, stage in enumerate(self.stages) for _ in range(stage.blocks))

    @property
    def sides(self) -> tuple[int, ...]:
        """The image side in each stage."""
        found: list[int] = []
        side = self.image_size
        for stage in self.stages:
            side = -(-side // stage.stride)
            found.append(side)
        return tuple(found)


class ResidualBlock(nn.Module):
    """A residual block with `groups` units of inner channels."""

    def __init__(self, config: ResNetConfig, stage: Stage, groups: int) -> None:
        super().__init__()
        inner = groups * config.channel_group
        self.groups = groups
        self.norm1 = nn.GroupNorm(config.stream_groups, stage.width)
        self.conv1 = nn.Conv2d(stage.width, inner, KERNEL, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, inner)
        self.conv2 = nn.Conv2d(inner, stage.width, KERNEL, padding=1)

    def forward(self, x: Tensor, tap: BlockTap | None = None) -> Tensor:
        """Map float (batch, channels, side, side) to the same shape."""
        y = functional.relu(self.norm2(self.conv1(functional.relu(self.norm1(x)))))
        z: Tensor = x + self.conv2(tap("channels", y) if tap else y)
        return z


class ResidualExit(nn.Module):
    """A classifier after an inner block of a stage."""

    def __init__(self, config: ResNetConfig, stage: Stage) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.stream_groups, stage.width)
        self.head = nn.Linear(stage.width * config.pool**2, config.classes)
        self.pool = config.pool

    def forward(self, x: Tensor) -> Tensor:
        """Map the float stream (batch, channels, side, side) to logits (batch, classes)."""
        logits: Tensor = self.head(_tiles(functional.relu(self.norm(x)), self.pool))
        return logits


class ResNet(Tapped):
    """The model, or a submodel: `groups` has the number of units of each block that is present."""

    def __init__(self, config: ResNetConfig, groups: Mapping[int, int], exits: Exits) -> None:
        super().__init__()
        self.config = config
        self.has_exits = bool(exits)
        stages = config.block_stages
        inner, final = exits.kept(set(groups), len(stages) - 1)
        widths = (config.channels, *(stage.width for stage in config.stages))
        reached = config.stages if final else config.stages[: stages[max(groups)] + 1]
        self.entries = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], KERNEL, stage.stride, padding=1)
            for i, stage in enumerate(reached)
        )
        self.blocks = nn.ModuleDict(
            {
                str(i): ResidualBlock(config, config.stages[stages[i]], n)
                for i, n in sorted(groups.items())
            }
        )
        self.norm = nn.GroupNorm(config.stream_groups, widths[-1]) if final else None
        self.head = nn.Linear(widths[-1] * config.pool**2, config.classes) if final else None
        self.exits = nn.ModuleDict(
            {str(b): ResidualExit(config, config.stages[stages[b]]) for b in inner}
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map float images (batch, channels, side, side) to each head's logits (batch, classes)."""
        x = images
        heads: list[Tensor] = []
        block = 0
        for entry, stage in zip(self.entries, self.config.stages, strict=False):
            x = entry(x)
            for _ in range(stage.blocks):
                if (name := str(block)) in self.blocks:
                    x = self.blocks[name](x, self.tap_of(block))
                if name in self.exits:
                    heads.append(self.exits[name](x))
                block += 1
        if self.norm is not None and self.head is not None:
            tiles = _tiles(functional.relu(self.norm(x)), self.config.pool)
            heads.append(self.head(tiles))
        return tuple(heads) if self.has_exits else heads[0]


def resnet(config: ResNetConfig, exits: Exits = NO_EXITS) -> Architecture:
    """Make the architecture of a residual CNN."""
    layout = _layout(config, exits)

    def build(units: tuple[int, ...]) -> nn.Module:
        groups = {b: width["channels"] for b, width in widths_of(layout, units).items()}
        if empty := [block for block, count in groups.items() if not count]:
            raise SettingsError(f"block {empty[0]} has a core but no channels: leave it out")
        exits.check_blocks(set(groups), len(config.block_stages) - 1, prefix=True)
        return ResNet(config, groups, exits)

    ends = ("conv2.weight", "conv2.bias")
    outputs = frozenset(f"blocks.{i}.{x}" for i in range(len(config.block_stages)) for x in ends)
    return Architecture(layout, build, exits, partial(resnet, config), outputs)


def _tiles(x: Tensor, pool: int) -> Tensor:
    """Return means over tiles: (batch, channels, side, side) to (batch, channels * pool * pool)."""
    return functional.adaptive_avg_pool2d(x, pool).flatten(1)


def _layout(config: ResNetConfig, exits: Exits) -> Layout:
    stages = config.block_stages
    full = {i: config.stages[s].inner // config.channel_group for i, s in enumerate(stages)}
    with torch.device("meta"):
        module = ResNet(config, full, exits)
    shapes: dict[str, Shape] = {n: tuple(p.shape) for n, p in module.named_parameters()}
    specs: list[UnitSpec] = []
    for number, entry in enumerate(_entries(config, shapes, exits)):
        specs.append(entry)
        for index in (i for i, stage in enumerate(stages) if stage == number):
            specs += _block(config, shapes, index, number)
    last = len(stages) - 1
    specs += [_head(config, shapes, exits, block) for block in (last, *exits.after)]
    return Layout(shapes, specs)


def _entries(config: ResNetConfig, shapes: Mapping[str, Shape], exits: Exits) -> list[UnitSpec]:
    """Return the units of the strided convolutions.

    Each keeps its input. Where exits are part of their blocks, the stream counts with the unit that
    made it instead: the deepest block has no convolution after it.
    """
    taps = KERNEL**2
    specs: list[UnitSpec] = []
    channels, side_in = config.channels, config.image_size
    for i, (stage, side) in enumerate(zip(config.stages, config.sides, strict=True)):
        slices = whole(shapes, f"entries.{i}.weight", f"entries.{i}.bias")
        flops = 2 * taps * channels * stage.width * side**2
        kept, block = channels * side_in**2, STEM
        if not exits.shared:
            kept = (0 if i else kept + LABEL_ELEMENTS) + stage.width * side**2
            block = next(b for b, s in enumerate(config.block_stages) if s >= i) if i else STEM
        specs.append(UnitSpec(f"entry{i}", "core", block, slices, flops, kept))
        channels, side_in = stage.width, side
    return specs


def _head(config: ResNetConfig, shapes: Mapping[str, Shape], exits: Exits, block: int) -> UnitSpec:
    """Return the unit of the final head (after the last block), or of an exit before it."""
    last = len(config.block_stages) - 1
    stage = -1 if block == last else config.block_stages[block]
    channels, area = config.stages[stage].width, config.sides[stage] ** 2
    # Kept: relu's output, the norm's statistics, the pooled vector, the log-softmax. The norm's
    # input is also the next layer's input and counts there; nothing comes after the final head.
    pooled = channels * config.pool**2
    kept = channels * area + 2 * config.stream_groups + pooled + config.classes
    if block == last and exits.shared:
        kept += channels * area + LABEL_ELEMENTS
    flops = (NORM_FLOPS + 2) * channels * area + 2 * pooled * config.classes
    return exits.head(shapes, block, last, flops, kept)


def _block(
    config: ResNetConfig, shapes: Mapping[str, Shape], index: int, stage_index: int
) -> Sequence[UnitSpec]:
    stage, area = config.stages[stage_index], config.sides[stage_index] ** 2
    at, name, taps, g = f"blocks.{index}.", f"block{index}", KERNEL**2, config.channel_group
    core = whole(shapes, at + "norm1.weight", at + "norm1.bias", at + "conv2.bias")
    # Kept: norm1's input and statistics, relu's output (conv1's input).
    kept = 2 * stage.width * area + 2 * config.stream_groups
    flops = (NORM_FLOPS + 2) * stage.width * area
    specs = [UnitSpec(f"{name}.core", "core", index, core, flops, kept)]
    for i in range(stage.inner // g):
        start, stop = i * g, (i + 1) * g
        rows = ("conv1.weight", "norm2.weight", "norm2.bias")
        slices = inner_slices(at, rows, "conv2.weight", start, stop)
        flops = 4 * taps * stage.width * g * area + (NORM_FLOPS + 1) * g * area
        cost = (flops, 2 * g * area + 2)
        specs.append(UnitSpec(f"{name}.channels.{i}", "channels", index, slices, *cost))
    return specs
