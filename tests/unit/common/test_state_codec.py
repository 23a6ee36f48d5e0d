"""States to bytes and back: dataclasses by their types, whatever their fields are."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cos2p.log import messages as m
from cos2p.log.state_codec import Counts, Floats, StateError, pack, unpack


@dataclass
class Inner:
    counts: Counts
    name: str = ""


@dataclass
class State:
    values: Floats
    inner: list[Inner] = field(default_factory=list)
    numbers: dict[int, float] = field(default_factory=dict)
    ends: Counter[m.Outcome] = field(default_factory=Counter)
    names: set[str] = field(default_factory=set)
    pair: tuple[int, bytes] = (0, b"")
    left_out: m.LeftOut | None = None
    limit: float = float("inf")


def whole() -> State:
    left_out = m.LeftOut(plan_id="p", worker_id="w", unit=1, reason="size")
    return State(
        np.array([[1.5, -0.0], [np.nan, np.inf]]),
        [Inner(np.arange(3), "a"), Inner(np.zeros(0, np.int64))],
        {3: 0.1, 1: 0.2},
        Counter({m.Outcome.STALE: 2}),
        {"b", "a"},
        (7, b"\x00"),
        left_out,
    )


def test_a_state_comes_back_as_it_was() -> None:
    state = whole()

    found = unpack(State, pack(State, state))

    np.testing.assert_array_equal(state.values, found.values)
    assert np.float64 == found.values.dtype
    assert [0, 1, 2] == found.inner[0].counts.tolist()
    assert [3, 1] == list(found.numbers)
    assert 2 == found.ends[m.Outcome.STALE]
    assert (state.names, state.pair, state.left_out) == (found.names, found.pair, found.left_out)
    assert found.limit == float("inf")


def test_the_same_state_has_the_same_bytes() -> None:
    packed = pack(State, whole())

    assert packed == pack(State, unpack(State, packed))


def test_arrays_of_a_state_that_was_read_can_be_written_to() -> None:
    found = unpack(State, pack(State, whole()))

    found.values += 1.0

    assert 2.5 == found.values[0, 0]


@dataclass
class Longer(Inner):
    more: int = 0


def test_a_program_with_another_field_refuses_the_state() -> None:
    """A default in its place would not be what the log says."""
    with pytest.raises(StateError, match="other fields"):
        unpack(Longer, pack(Inner, Inner(np.arange(3))))


@given(st.binary(max_size=200))
def test_bytes_that_are_not_a_state_are_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(StateError):
        unpack(State, data)


@given(st.integers(0, 400), st.integers(1, 255))
def test_an_altered_byte_is_an_error_of_ours_or_another_state(at: int, by: int) -> None:
    data = bytearray(pack(State, whole()))
    data[at % len(data)] ^= by
    try:
        unpack(State, bytes(data))
    except StateError:
        return
