"""Layouts: which slices of which parameters each unit of a model is.

Owns the index arithmetic between flat per-unit arrays (the wire's form) and the parameters of a
module that holds only some of the units (a really smaller one, not a masked one).
Invariants: the slices are disjoint and cover every parameter; a parameter is sliced along one
dimension at most; a kept parameter's slices stay in ascending order; `cut` and `scatter` are
inverse. numpy only: tensors come in through the arrays that they share memory with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import SettingsError
from cos2p.model.units import Unit, UnitTable

Shape = tuple[int, ...]
Arrays = Mapping[str, NDArray[np.float32]]
UnitArrays = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True)
class Slice:
    """`parameter[..., start:stop, ...]` along dimension `dim`."""

    parameter: str
    dim: int
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """A slice's place in a submodel's parameter and in its unit's flat array."""

    unit: int
    parameter: str
    index: tuple[slice, ...]
    shape: Shape
    flat: slice


@dataclass(frozen=True)
class Layout:
    """A model's parameters and units.

    Attributes:
        shapes: shape of each parameter of the whole model, by its name.
        units: the units, in the table's order; sizes are checked against the slices.
        slices: of each unit, in the order of its flat array.
    """

    shapes: Mapping[str, Shape]
    units: tuple[Unit, ...]
    slices: tuple[tuple[Slice, ...], ...]

    def __post_init__(self) -> None:
        if len(self.units) != len(self.slices):
            raise SettingsError("a layout needs one group of slices per unit")
        taken: dict[str, list[Slice]] = {name: [] for name in self.shapes}
        for unit, group in zip(self.units, self.slices, strict=True):
            for piece in group:
                if piece.parameter not in taken:
                    raise SettingsError(f"unit {unit.name} names {piece.parameter!r}: no parameter")
                taken[piece.parameter].append(piece)
            size = sum(prod(self._shape_of(piece)) for piece in group)
            if size != unit.size:
                raise SettingsError(f"unit {unit.name} says {unit.size} values, slices {size}")
        for name, found in taken.items():
            _check_cover(name, self.shapes[name], found)

    @cached_property
    def table(self) -> UnitTable:
        """The units without their slices: what planner and aggregator know."""
        return UnitTable(self.units)

    def shapes_of(self, units: Sequence[int]) -> dict[str, Shape]:
        """Shapes of the parameters of the submodel that holds `units`.

        A parameter none of whose slices is kept has length 0 along the sliced dimension when its
        block is kept, and is absent where the whole block is.
        """
        kept: dict[str, int] = {}
        for unit in units:
            for piece in self.slices[unit]:
                kept[piece.parameter] = kept.get(piece.parameter, 0) + piece.stop - piece.start
        blocks = {self.units[u].block for u in units}
        return {
            name: _resized(shape, self._dims[name], kept.get(name, 0))
            for name, shape in self.shapes.items()
            if self._blocks[name] & blocks
        }

    def pieces(self, units: Sequence[int]) -> Iterator[Piece]:
        """Where each slice of `units` lies in the submodel that holds exactly those units."""
        starts: dict[tuple[str, int], int] = {}
        fill: dict[str, int] = {}
        chosen = [s for unit in units for s in self.slices[unit]]
        for piece in sorted(chosen, key=lambda s: s.start):
            place = fill.get(piece.parameter, 0)
            starts[piece.parameter, piece.start] = place
            fill[piece.parameter] = place + piece.stop - piece.start
        for unit in units:
            offset = 0
            for piece in self.slices[unit]:
                shape = self._shape_of(piece)
                place = starts[piece.parameter, piece.start]
                span = slice(place, place + piece.stop - piece.start)
                index = (slice(None),) * piece.dim + (span,)
                flat = slice(offset, offset + prod(shape))
                offset = flat.stop
                yield Piece(unit, piece.parameter, index, shape, flat)

    def places_within(
        self, outer: Sequence[int], inner: Sequence[int]
    ) -> dict[str, tuple[int, NDArray[np.int64]]]:
        """Where the parameters of submodel `inner` lie in those of `outer`, which holds it.

        Returns:
            By parameter: the dimension that is cut, and the indices along it, ascending.
        """
        wide = {(p.unit, p.flat.start): p.index[-1] for p in self.pieces(outer)}
        found: dict[str, tuple[int, NDArray[np.int64]]] = {
            name: (self._dims[name], np.empty(shape[self._dims[name]], np.int64))
            for name, shape in self.shapes_of(inner).items()
        }
        for piece in self.pieces(inner):
            span = wide[piece.unit, piece.flat.start]
            found[piece.parameter][1][piece.index[-1]] = np.arange(span.start, span.stop)
        return found

    def cut(self, values: UnitArrays, units: Sequence[int], out: Arrays) -> None:
        """Write the flat arrays of `units` into the parameters of their submodel.

        Args:
            values: flat float32 array of each unit (more units are ignored); read only.
            units: the submodel's units.
            out: writable arrays with the shapes of `shapes_of(units)`.

        Raises:
            SettingsError: a unit's array is missing or has the wrong size.
        """
        for unit in units:
            found = values.get(unit)
            if found is None or found.shape != (self.units[unit].size,):
                shape = "nothing" if found is None else f"shape {found.shape}"
                name = self.units[unit].name
                raise SettingsError(f"unit {name}: {shape}, expected {self.units[unit].size}")
        for piece in self.pieces(units):
            source = values[piece.unit][piece.flat]
            out[piece.parameter][piece.index] = source.reshape(piece.shape)

    def scatter(self, parameters: Arrays, units: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """The flat arrays of `units` out of the parameters of their submodel (copies)."""
        values = {u: np.empty(self.units[u].size, np.float32) for u in units}
        for piece in self.pieces(units):
            target = values[piece.unit][piece.flat].reshape(piece.shape)
            target[...] = parameters[piece.parameter][piece.index]
        return values

    def parameters_of(self, units: Sequence[int]) -> frozenset[str]:
        """Names of the parameters that hold a slice of any of `units`."""
        return frozenset(piece.parameter for unit in units for piece in self.slices[unit])

    @cached_property
    def _dims(self) -> dict[str, int]:
        return {s.parameter: s.dim for group in self.slices for s in group}

    @cached_property
    def _blocks(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {name: set() for name in self.shapes}
        for unit, group in zip(self.units, self.slices, strict=True):
            for piece in group:
                found[piece.parameter].add(unit.block)
        return found

    def _shape_of(self, piece: Slice) -> Shape:
        return _resized(self.shapes[piece.parameter], piece.dim, piece.stop - piece.start)


@dataclass(frozen=True)
class UnitSpec:
    """A unit as a model declares it: its size follows from its slices."""

    name: str
    kind: str
    block: int
    slices: tuple[Slice, ...]
    flops: int
    activations: int


def layout_of(shapes: Mapping[str, Shape], specs: Sequence[UnitSpec]) -> Layout:
    """A layout whose units' sizes are counted from their slices.

    Raises:
        SettingsError: the slices overlap, leave something out, or cut one parameter twice.
    """
    units = []
    for spec in specs:
        sizes = [
            prod(_resized(shapes.get(s.parameter, (0,)), s.dim, s.stop - s.start))
            for s in spec.slices
        ]
        rest = (spec.block, sum(sizes), spec.flops, spec.activations)
        units.append(Unit(spec.name, spec.kind, *rest))  # type: ignore[arg-type]
    return Layout(dict(shapes), tuple(units), tuple(spec.slices for spec in specs))


def whole(shapes: Mapping[str, Shape], *names: str) -> tuple[Slice, ...]:
    """Slices that hold whole parameters."""
    return tuple(Slice(name, 0, 0, shapes[name][0]) for name in names)


def _resized(shape: Shape, dim: int, length: int) -> Shape:
    return (*shape[:dim], length, *shape[dim + 1 :])


def _check_cover(name: str, shape: Shape, found: Sequence[Slice]) -> None:
    if len({piece.dim for piece in found}) != 1:
        raise SettingsError(f"parameter {name} must be cut along exactly one dimension")
    dim, end = found[0].dim, 0
    for piece in sorted(found, key=lambda s: s.start):
        if piece.start != end or piece.stop <= piece.start:
            raise SettingsError(f"parameter {name}: units overlap or leave a gap at {end}")
        end = piece.stop
    if not 0 <= dim < len(shape) or end != shape[dim]:
        raise SettingsError(f"parameter {name}: units cover {end} of its shape {shape}")
