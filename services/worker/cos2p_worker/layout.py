"""Layouts: which slices of which parameters form each unit of a model.

Owns the index arithmetic between flat per-unit arrays (the wire's form) and the parameters of a
module that holds only some of the units. That module is really smaller, not masked.

Invariants: the slices are disjoint and cover every parameter. A parameter is sliced along at most
one dimension. A kept parameter's slices stay in ascending order. `cut` and `scatter` are inverse.
It uses numpy only: tensors come in through the arrays that they share memory with.
The layouts of the two model families are in `models/`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from cos2p.errors import SettingsError
from cos2p.model.units import Kind, Unit, UnitTable

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
class UnitSpec:
    """A unit as a model declares it: its size follows from its slices."""

    name: str
    kind: Kind
    block: int
    slices: tuple[Slice, ...]
    """In the order of the unit's flat array."""
    flops: int
    activations: int


@dataclass(frozen=True)
class Layout:
    """A model's parameters, by name their shapes, and its units, in the table's order.

    Raises:
        SettingsError: the slices overlap, leave something out, or cut one parameter twice.
    """

    shapes: Mapping[str, Shape]
    specs: Sequence[UnitSpec]

    def __post_init__(self) -> None:
        taken: dict[str, list[Slice]] = {name: [] for name in self.shapes}
        for spec in self.specs:
            for piece in spec.slices:
                if piece.parameter not in taken:
                    raise SettingsError(f"unit {spec.name} names {piece.parameter!r}: no parameter")
                taken[piece.parameter].append(piece)
        for name, found in taken.items():
            _check_cover(name, self.shapes[name], found)

    @cached_property
    def table(self) -> UnitTable:
        """The units without their slices: what planner and aggregator know."""
        units = []
        for spec in self.specs:
            size = sum(prod(self._shape_of(piece)) for piece in spec.slices)
            costs = (size, spec.flops, spec.activations)
            units.append(Unit(spec.name, spec.kind, spec.block, *costs))
        return UnitTable(tuple(units))

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units, with their sizes."""
        return self.table.units

    def shapes_of(self, units: Sequence[int]) -> dict[str, Shape]:
        """Return the shapes of the parameters of the submodel that holds `units`.

        Take a parameter with no kept slice. If its block is kept, it has length 0 along the sliced
        dimension. If the whole block is left out, it is absent.
        """
        kept: dict[str, int] = {}
        for unit in units:
            for piece in self.specs[unit].slices:
                kept[piece.parameter] = kept.get(piece.parameter, 0) + piece.stop - piece.start
        blocks = {self.specs[u].block for u in units}
        return {
            name: _resized(shape, self._dims[name], kept.get(name, 0))
            for name, shape in self.shapes.items()
            if self._blocks[name] & blocks
        }

    def pieces(self, units: Sequence[int]) -> Iterator[Piece]:
        """Yield where each slice of `units` lies in the submodel that holds exactly those units."""
        starts: dict[tuple[str, int], int] = {}
        fill: dict[str, int] = {}
        chosen = [s for unit in units for s in self.specs[unit].slices]
        for piece in sorted(chosen, key=lambda s: s.start):
            place = fill.get(piece.parameter, 0)
            starts[piece.parameter, piece.start] = place
            fill[piece.parameter] = place + piece.stop - piece.start
        for unit in units:
            offset = 0
            for piece in self.specs[unit].slices:
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
        """Return where the parameters of submodel `inner` lie in those of `outer`, which holds it.

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

        `values` may hold more units; they are ignored. `out` has the shapes of `shapes_of(units)`.

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
        """Return the flat arrays of `units` from the parameters of their submodel (copies)."""
        values = {u: np.empty(self.units[u].size, np.float32) for u in units}
        for piece in self.pieces(units):
            target = values[piece.unit][piece.flat].reshape(piece.shape)
            target[...] = parameters[piece.parameter][piece.index]
        return values

    def parameters_of(self, units: Sequence[int]) -> frozenset[str]:
        """Return the names of the parameters that hold a slice of any of `units`."""
        return frozenset(piece.parameter for unit in units for piece in self.specs[unit].slices)

    @cached_property
    def _dims(self) -> dict[str, int]:
        return {s.parameter: s.dim for spec in self.specs for s in spec.slices}

    @cached_property
    def _blocks(self) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {name: set() for name in self.shapes}
        for spec in self.specs:
            for piece in spec.slices:
                found[piece.parameter].add(spec.block)
        return found

    def _shape_of(self, piece: Slice) -> Shape:
        return _resized(self.shapes[piece.parameter], piece.dim, piece.stop - piece.start)


def whole(shapes: Mapping[str, Shape], *names: str) -> tuple[Slice, ...]:
    """Return slices that hold whole parameters."""
    return tuple(Slice(name, 0, 0, shapes[name][0]) for name in names)


def inner_slices(
    at: str, rows: Sequence[str], columns: str, start: int, stop: int
) -> tuple[Slice, ...]:
    """Return a range of a block's inner width: rows of what makes it, columns of what reads it."""
    made = (Slice(at + name, 0, start, stop) for name in rows)
    return (*made, Slice(at + columns, 1, start, stop))


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
