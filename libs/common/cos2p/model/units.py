"""Units: the smallest groups of parameters that are kept or dropped together.

This module owns the table of a model's units, and index arithmetic on it: its stem, its blocks,
and in each block a ring of units for each kind.
It uses no tensors and no model.

Invariants:
A unit's index in the table is its id on the wire and in every flat array.
The units of a table are disjoint and cover the model.
Units are in the order of the forward pass: blocks ascending, heads and exits last.
Block -1 is core and is in every submodel.
A block's core unit (its norms) is in a submodel exactly if another unit of that block is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from cos2p.errors import SettingsError

Indices = NDArray[np.int64]
Kind = Literal["core", "head", "neurons", "channels"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GATED: frozenset[Kind] = frozenset({"head", "neurons", "channels"})
"""Kinds whose units have their own activation inside a block, and so a gate to score."""
STEM = -1
"""Block number of the parts that can't be dropped: embedding, final norm, classifier."""
ROUNDING = 1e-9
"""Tolerance for floating point: a share this close to a whole number of units is that number."""


@dataclass(frozen=True)
class Unit:
    """One unit of a model.

    Attributes:
        name: readable, unique name, for instance ``block2.head.1``.
        kind: the unit's kind; scores are normalised within a kind.
        block: the residual block that it belongs to, or `STEM`.
        size: number of parameters, float32 each.
        flops: forward floating-point operations per sample.
        activations: elements per sample kept for the backward pass when the unit is trained.
    """

    name: str
    kind: Kind
    block: int
    size: int
    flops: int
    activations: int


@dataclass(frozen=True)
class Ring:
    """The prunable units of one kind in one block, in table order."""

    block: int
    kind: Kind
    units: Indices

    def count(self, rate: float) -> int:
        """Return ceil(rate * units), at least one."""
        return max(1, int(np.ceil(rate * len(self.units) - ROUNDING)))

    def lowest(self, rank: NDArray[np.float64] | Indices, rate: float) -> Indices:
        """Return this share of the units: those of the lowest rank; `rank` has shape (all units,).

        Among equal ranks, table order decides.
        """
        return self.units[np.argsort(rank[self.units], kind="stable")[: self.count(rate)]]


@dataclass(frozen=True)
class UnitTable:
    """All units of a model, in the order that every part of the system uses."""

    units: tuple[Unit, ...]

    def __post_init__(self) -> None:
        names = [u.name for u in self.units]
        if len(set(names)) != len(names):
            raise SettingsError("unit names must be unique within a model")
        if not any(u.block == STEM for u in self.units):
            raise SettingsError("a model needs at least one core unit (block -1)")
        for u in self.units:
            if u.size < 1 or u.flops < 0 or u.activations < 0 or u.block < STEM:
                raise SettingsError(f"unit {u.name}: size, costs and block must not be negative")
            if u.block == STEM and u.kind != "core":
                raise SettingsError(f"unit {u.name}: only core units live outside blocks")

    def __len__(self) -> int:
        return len(self.units)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Number of parameters of each unit, shape (units,)."""
        return np.array([u.size for u in self.units], np.int64)

    @cached_property
    def flops(self) -> NDArray[np.int64]:
        """Forward FLOPs per sample of each unit, shape (units,)."""
        return np.array([u.flops for u in self.units], np.int64)

    @cached_property
    def activations(self) -> NDArray[np.int64]:
        """Saved elements per sample of each unit, shape (units,)."""
        return np.array([u.activations for u in self.units], np.int64)

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Block of each unit, shape (units,)."""
        return np.array([u.block for u in self.units], np.int64)

    @cached_property
    def prunable(self) -> NDArray[np.bool_]:
        """True where a plan may choose to leave the unit out, shape (units,)."""
        return np.array([u.kind != "core" for u in self.units], np.bool_)

    @cached_property
    def gated(self) -> NDArray[np.bool_]:
        """True where a unit's gate can be scored (`GATED`), shape (units,)."""
        return np.array([u.kind in GATED for u in self.units], np.bool_)

    @cached_property
    def exits(self) -> tuple[int, ...]:
        """Blocks after which the model has an exit (a core unit named ``exit<block>``)."""
        names = (u.name.removeprefix("exit") for u in self.units if u.name.startswith("exit"))
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Start of each unit in the flat model, shape (units + 1,); the last is the size."""
        return np.concatenate(([0], np.cumsum(self.sizes)))

    @property
    def parameter_count(self) -> int:
        """Number of parameters of the whole model."""
        return int(self.starts[-1])

    @property
    def block_count(self) -> int:
        """Number of residual blocks of the model."""
        return int(self.blocks.max()) + 1

    def close(self, chosen: Iterable[int]) -> tuple[int, ...]:
        """Make the submodel of these units: they, the stem and the cores of their blocks.

        Raises:
            SettingsError: an index is outside the table.
        """
        wanted = set(chosen)
        if any(not 0 <= i < len(self) for i in wanted):
            raise SettingsError(f"unit index outside 0..{len(self) - 1}")
        touched = {self.units[i].block for i in wanted} | {STEM}
        return tuple(sorted(wanted.union(*(self.cores[block].tolist() for block in touched))))

    @cached_property
    def cores(self) -> dict[int, Indices]:
        """Core units of the stem and of each block."""
        numbers = range(STEM, self.block_count)
        return {b: np.flatnonzero((self.blocks == b) & ~self.prunable) for b in numbers}

    @cached_property
    def rings(self) -> dict[int, tuple[Ring, ...]]:
        """Rings of each block."""
        return {block: tuple(self._rings_of(block)) for block in range(self.block_count)}

    def _rings_of(self, block: int) -> Iterator[Ring]:
        members = np.flatnonzero((self.blocks == block) & self.prunable).tolist()
        for kind in dict.fromkeys(self.units[i].kind for i in members):
            yield Ring(block, kind, np.array([i for i in members if self.units[i].kind == kind]))

    @cached_property
    def rates(self) -> tuple[float, ...]:
        """The shares at which ceil(rate * units) of some ring changes, ascending; the last is 1."""
        lengths = {len(r.units) for rings in self.rings.values() for r in rings}
        return tuple(sorted({j / n for n in lengths for j in range(1, n + 1)} | {1.0}))

    def part(self, block: int, kept: Callable[[Ring], Indices]) -> Indices:
        """Return the core of a block and `kept(ring)` of each of its rings, in this order."""
        return np.concatenate([self.cores[block], *(kept(ring) for ring in self.rings[block])])

    def cut(self, blocks: Iterable[int], kept: Callable[[Ring], Indices]) -> tuple[int, ...]:
        """Return the submodel of the stem and these blocks that keeps `kept(ring)` of each ring."""
        parts = [self.cores[STEM], *(self.part(block, kept) for block in blocks)]
        return tuple(np.sort(np.concatenate(parts)).tolist())

    def shard_of_block(self, shard_count: int) -> dict[int, int]:
        """Map each block to the aggregator shard that owns it.

        Shards are balanced by size, and every machine computes the same map.
        """
        load = [0] * shard_count
        weight = {int(b): int(self.sizes[self.blocks == b].sum()) for b in np.unique(self.blocks)}
        owner: dict[int, int] = {}
        for block in sorted(weight, key=lambda b: (-weight[b], b)):
            shard = min(range(shard_count), key=lambda s: (load[s], s))
            owner[block] = shard
            load[shard] += weight[block]
        return owner

    def owned_by(self, shard: int, shard_count: int) -> tuple[int, ...]:
        """The units that aggregator `shard` of `shard_count` owns."""
        found = self._owned.get((shard, shard_count))
        if found is None:
            owner = self.shard_of_block(shard_count)
            found = tuple(i for i, u in enumerate(self.units) if owner[u.block] == shard)
            self._owned[shard, shard_count] = found
        return found

    @cached_property
    def _owned(self) -> dict[tuple[int, int], tuple[int, ...]]:
        """Cache of `owned_by`, which is called for every version that a shard publishes."""
        return {}

    @cached_property
    def digest(self) -> bytes:
        """Digest of the table; programs with the same digest agree on every index."""
        text = "\n".join(
            f"{u.name} {u.kind} {u.block} {u.size} {u.flops} {u.activations}" for u in self.units
        )
        return bytes(blake3(text.encode()).digest())


UNIT_DIGEST_BYTES = 8


def unit_digest(*states: NDArray[np.float32]) -> bytes:
    """Digest of a unit's bytes (its raw values, then its average if there is one)."""
    hasher = blake3()
    for state in states:
        hasher.update(np.ascontiguousarray(state).view(np.uint8).data)
    return bytes(hasher.digest(length=UNIT_DIGEST_BYTES))


def units_of_names(table: UnitTable, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the units with these names.

    Raises:
        SettingsError: the table does not have a name.
    """
    place = {u.name: i for i, u in enumerate(table.units)}
    missing = [n for n in names if n not in place]
    if missing:
        raise SettingsError(f"no unit named {missing[0]!r} in this model")
    return tuple(place[n] for n in names)
