"""Units: the smallest groups of parameters that are kept or dropped together.

Owns the table of a model's units and index arithmetic on it; knows no tensor and no model.
Invariants: a unit's place in the table is its id on the wire and in every flat array; the units of
a table are disjoint and cover the model; units are in the order of the forward pass, blocks
ascending, heads and exits last; block -1 is core and is in every submodel; a block's core unit (its
norms) is in a submodel exactly when any other unit of that block is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from cos2p.errors import SettingsError

Kind = Literal["core", "head", "neurons", "channels"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GATED: frozenset[Kind] = frozenset({"head", "neurons", "channels"})
"""Kinds whose units have an activation of their own inside a block, hence a gate to score."""
STEM = -1
"""The block number of what can't be dropped: embedding, final norm, classifier."""


@dataclass(frozen=True)
class Unit:
    """One unit of a model.

    Attributes:
        name: readable and unique, for instance ``block2.head.1``.
        kind: what it is; scores are normalised within a kind.
        block: the residual block that it belongs to, or `STEM`.
        size: parameters, float32 each.
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
class UnitTable:
    """All units of a model, in the one order that every part of the system uses."""

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
        """Parameters of each unit, shape (units,)."""
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
        """Where each unit starts in the flat model, shape (units + 1,); the last is the size."""
        return np.concatenate(([0], np.cumsum(self.sizes)))

    @property
    def parameter_count(self) -> int:
        """Parameters of the whole model."""
        return int(self.starts[-1])

    @property
    def block_count(self) -> int:
        """Residual blocks of the model."""
        return int(self.blocks.max()) + 1

    def close(self, chosen: Iterable[int]) -> tuple[int, ...]:
        """The submodel that holds `chosen`: they, the stem and the core of each block they touch.

        Raises:
            SettingsError: an index outside the table.
        """
        wanted = set(chosen)
        if any(not 0 <= i < len(self) for i in wanted):
            raise SettingsError(f"unit index outside 0..{len(self) - 1}")
        touched = {self.units[i].block for i in wanted} | {STEM}
        cores = {i for i, u in enumerate(self.units) if u.kind == "core" and u.block in touched}
        return tuple(sorted(wanted | cores))

    def columns(self) -> dict[str, Sequence[str] | Sequence[int]]:
        """The table as columns, the form it has in messages."""
        return {
            "name": [u.name for u in self.units],
            "kind": [u.kind for u in self.units],
            "block": [u.block for u in self.units],
            "size": [u.size for u in self.units],
            "flops": [u.flops for u in self.units],
            "activations": [u.activations for u in self.units],
        }

    def shard_of_block(self, shard_count: int) -> dict[int, int]:
        """Which aggregator shard owns each block, balanced by size, the same on every machine."""
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
        """Asked for with every version that a shard publishes, so worked out once."""
        return {}

    @cached_property
    def digest(self) -> bytes:
        """Digest of the table: two programs that agree on it agree on every index."""
        text = "\n".join(
            f"{u.name} {u.kind} {u.block} {u.size} {u.flops} {u.activations}" for u in self.units
        )
        return bytes(blake3(text.encode()).digest())


UNIT_DIGEST_BYTES = 8


def unit_digest(*states: NDArray[np.float32]) -> bytes:
    """Digest of a unit's bytes (its raw values, then its average where there is one)."""
    hasher = blake3()
    for state in states:
        hasher.update(np.ascontiguousarray(state).view(np.uint8).data)
    return bytes(hasher.digest(length=UNIT_DIGEST_BYTES))


def units_of_names(table: UnitTable, names: Sequence[str]) -> tuple[int, ...]:
    """Indices of the units named.

    Raises:
        SettingsError: a name that the table lacks.
    """
    place = {u.name: i for i, u in enumerate(table.units)}
    missing = [n for n in names if n not in place]
    if missing:
        raise SettingsError(f"no unit named {missing[0]!r} in this model")
    return tuple(place[n] for n in names)
