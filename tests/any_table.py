"""Unit tables of any shape, for tests of properties."""

from hypothesis import strategies as st

from cos2p.model.units import Unit, UnitTable


@st.composite
def tables(draw: st.DrawFn) -> UnitTable:
    """Any model: blocks of unequal size, with one kind or two."""
    size = st.integers(1, 5000)
    units = [Unit("stem", "core", -1, draw(size), 10, draw(size))]
    for b in range(draw(st.integers(1, 5))):
        units.append(Unit(f"{b}.core", "core", b, draw(size), 10, draw(size)))
        if draw(st.booleans()):
            for i in range(draw(st.integers(1, 8))):
                units.append(Unit(f"{b}.channels{i}", "channels", b, draw(size), 10, draw(size)))
            continue
        for i in range(draw(st.integers(1, 4))):
            units.append(Unit(f"{b}.head{i}", "head", b, draw(size), 10, draw(size)))
        for i in range(draw(st.integers(1, 8))):
            units.append(Unit(f"{b}.neurons{i}", "neurons", b, draw(size), 10, draw(size)))
    return UnitTable(tuple(units))
