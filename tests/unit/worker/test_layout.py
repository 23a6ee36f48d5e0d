"""Layouts: index arithmetic between units and the parameters of smaller modules."""

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cos2p.errors import SettingsError
from cos2p.model.units import Kind
from cos2p_worker.layout import Layout, Slice, UnitSpec, whole
from cos2p_worker.models.architecture import Architecture

Make = Callable[[Architecture, int], dict[int, NDArray[np.float32]]]

SHAPES = {"a": (6, 4), "b": (3, 6), "c": (5,)}


def spec(name: str, kind: Kind, block: int, *slices: Slice) -> UnitSpec:
    return UnitSpec(name, kind, block, slices, 1, 1)


def rows_and_columns() -> Layout:
    """`a` cut by rows and `b` by columns, two and four wide; `c` is core."""
    return Layout(
        SHAPES,
        [
            UnitSpec("core", "core", -1, whole(SHAPES, "c"), 1, 1),
            spec("x", "neurons", 0, Slice("a", 0, 0, 2), Slice("b", 1, 0, 2)),
            spec("y", "neurons", 0, Slice("a", 0, 2, 6), Slice("b", 1, 2, 6)),
        ],
    )


def units_of(layout: Layout, seed: int) -> tuple[int, ...]:
    """A random submodel."""
    table = layout.table
    rng = np.random.default_rng(seed)
    prunable = np.flatnonzero(table.prunable)
    count = int(rng.integers(1, len(prunable) + 1))
    return table.close(int(u) for u in rng.choice(prunable, count, replace=False))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_cut_then_scatter_gives_the_units_back(seed: int) -> None:
    layout = random_layout(seed)
    rng = np.random.default_rng(seed)
    values = {
        u: rng.standard_normal(unit.size).astype(np.float32) for u, unit in enumerate(layout.units)
    }
    units = units_of(layout, seed)
    parameters = {n: np.empty(s, np.float32) for n, s in layout.shapes_of(units).items()}

    layout.cut(values, units, parameters)
    found = layout.scatter(parameters, units)

    assert set(units) == set(found)
    assert all(np.array_equal(values[u], found[u]) for u in units)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_scatter_then_cut_gives_the_parameters_back(seed: int) -> None:
    layout = random_layout(seed)
    rng = np.random.default_rng(seed)
    units = units_of(layout, seed)
    shapes = layout.shapes_of(units)
    parameters = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    back = {n: np.empty(s, np.float32) for n, s in shapes.items()}

    layout.cut(layout.scatter(parameters, units), units, back)

    assert all(np.array_equal(parameters[n], back[n]) for n in shapes)


def random_layout(seed: int) -> Layout:
    """Two or three blocks, each a pair of matrices cut into units of random widths."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"stem": (int(rng.integers(1, 5)),)}
    specs = [UnitSpec("stem", "core", -1, whole({"stem": shapes["stem"]}, "stem"), 1, 1)]
    for block in range(int(rng.integers(2, 4))):
        widths = rng.integers(1, 4, size=int(rng.integers(1, 5)))
        total, d = int(widths.sum()), int(rng.integers(1, 5))
        into, out, bias = (f"{block}.{n}" for n in ("in", "out", "bias"))
        # `into` holds two stacked groups of rows, as q and k are in a fused projection.
        shapes |= {into: (2 * total, d, 2), out: (d, total), bias: (d,)}
        specs.append(UnitSpec(bias, "core", block, whole(shapes, bias), 1, 1))
        ends = np.cumsum(widths)
        for i, (start, stop) in enumerate(zip(ends - widths, ends, strict=True)):
            a, b = int(start), int(stop)
            slices = (Slice(into, 0, total + a, total + b), Slice(into, 0, a, b))
            specs.append(spec(f"{block}.{i}", "neurons", block, *slices, Slice(out, 1, a, b)))
    return Layout(shapes, specs)


def test_the_units_of_a_model_cover_each_value_exactly_once(model: Architecture) -> None:
    layout = model.layout
    total = sum(prod(shape) for shape in layout.shapes.values())
    marks = {
        u: np.arange(start, start + unit.size, dtype=np.float32)
        for u, (unit, start) in enumerate(zip(layout.units, layout.table.starts, strict=False))
    }
    parameters = {n: np.full(s, -1, np.float32) for n, s in layout.shapes.items()}

    layout.cut(marks, tuple(range(len(layout.units))), parameters)

    found = np.sort(np.concatenate([p.ravel() for p in parameters.values()]))
    assert np.array_equal(np.arange(total, dtype=np.float32), found)


def test_a_cut_parameter_is_the_whole_one_without_the_left_out_rows(
    vit_model: Architecture, values_of: Make
) -> None:
    layout, values = vit_model.layout, values_of(vit_model, 1)
    names = [u.name for u in layout.units]
    without = names.index("block1.head.1")
    every = tuple(range(len(names)))
    units = tuple(u for u in every if u != without)
    whole_model = {n: np.empty(s, np.float32) for n, s in layout.shapes_of(every).items()}
    part = {n: np.empty(s, np.float32) for n, s in layout.shapes_of(units).items()}

    layout.cut(values, every, whole_model)
    layout.cut(values, units, part)

    rows = [r for third in range(3) for r in range(24 * third + 8, 24 * third + 16)]
    expected = np.delete(whole_model["blocks.1.qkv.weight"], rows, axis=0)
    assert np.array_equal(expected, part["blocks.1.qkv.weight"])
    columns = np.delete(whole_model["blocks.1.out.weight"], range(8, 16), axis=1)
    assert np.array_equal(columns, part["blocks.1.out.weight"])


def test_a_skipped_block_has_no_parameters(vit_model: Architecture) -> None:
    table = vit_model.layout.table
    units = tuple(u for u, unit in enumerate(table.units) if unit.block != 1)

    shapes = vit_model.layout.shapes_of(units)

    assert not any(name.startswith("blocks.1.") for name in shapes)
    assert any(name.startswith("blocks.2.") for name in shapes)


def test_cutting_needs_every_unit_of_the_submodel() -> None:
    layout = rows_and_columns()
    out = {n: np.empty(s, np.float32) for n, s in layout.shapes_of((0, 1)).items()}

    with pytest.raises(SettingsError, match="unit x: nothing, expected 14"):
        layout.cut({0: np.zeros(5, np.float32)}, (0, 1), out)
    with pytest.raises(SettingsError, match=r"unit x: shape \(3,\), expected 14"):
        layout.cut({0: np.zeros(5, np.float32), 1: np.zeros(3, np.float32)}, (0, 1), out)


@pytest.mark.parametrize(
    ("slices", "text"),
    [
        ((Slice("a", 0, 0, 2), Slice("a", 0, 1, 6)), "overlap"),
        ((Slice("a", 0, 0, 2), Slice("a", 0, 3, 6)), "gap at 2"),
        ((Slice("a", 0, 0, 5),), "cover 5"),
        ((Slice("a", 0, 0, 6), Slice("a", 1, 0, 4)), "exactly one dimension"),
        ((Slice("a", 0, 0, 6), Slice("z", 0, 0, 4)), "no parameter"),
        ((), "exactly one dimension"),
    ],
)
def test_a_layout_that_does_not_cover_its_parameters_is_refused(
    slices: tuple[Slice, ...], text: str
) -> None:
    shapes = {"a": (6, 4), "c": (1,)}
    core = UnitSpec("core", "core", -1, (Slice("c", 0, 0, 1), *slices), 1, 1)

    with pytest.raises(SettingsError, match=text):
        Layout(shapes, [core])
