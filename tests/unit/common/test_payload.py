"""Payloads: any cut of the bytes gives the same units; what is wrong with them is told apart."""

from collections.abc import Sequence

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cos2p.errors import BlobError
from cos2p.model.payload import (
    MAGIC,
    Header,
    PayloadReader,
    encode_header,
    expected_bytes,
    header_of,
    parts,
)
from cos2p.model.units import STEM, Unit, UnitTable, unit_digest

TABLE = UnitTable(
    (
        Unit("stem", "core", STEM, 7, 1, 1),
        Unit("block0.core", "core", 0, 1, 1, 1),
        Unit("block0.head.0", "head", 0, 33, 1, 1),
        Unit("block0.head.1", "head", 0, 33, 1, 1),
        Unit("block0.neurons.0", "neurons", 0, 128, 1, 1),
    )
)
UNITS = (0, 1, 3, 4)

Found = list[tuple[int, NDArray[np.float32], bool]]


def values_of(units: Sequence[int], states: int = 1) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(int(TABLE.sizes[u]) * states, dtype=np.float32) for u in units]


VALUES = values_of(UNITS)


def payload(states: int = 1) -> bytes:
    values = values_of(UNITS, states)
    header = header_of("p1", UNITS, values)
    header = Header(header.owner, header.units, states, header.digests)
    return b"".join(bytes(p) for p in parts(header, values))


PAYLOAD = payload()


def read(chunks: Sequence[bytes], reader: PayloadReader | None = None) -> Found:
    reader = reader or PayloadReader(TABLE, "p1", UNITS)
    found = [
        (got.unit, got.values.copy(), got.intact) for chunk in chunks for got in reader.feed(chunk)
    ]
    reader.finish()
    return found


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({min(p, len(data)) for p in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def check(found: Found, values: Sequence[NDArray[np.float32]], units: Sequence[int]) -> None:
    assert list(units) == [unit for unit, _, _ in found]
    for (_, got, intact), value in zip(found, values, strict=True):
        assert intact
        assert value.tobytes() == got.tobytes()


@settings(max_examples=100, deadline=None)
@given(places=st.lists(st.integers(0, len(PAYLOAD)), max_size=20))
def test_any_cut_of_the_bytes_gives_the_same_units(places: list[int]) -> None:
    check(read(cut(PAYLOAD, places)), VALUES, UNITS)


def test_one_byte_at_a_time_gives_the_same_units() -> None:
    check(read([bytes([b]) for b in PAYLOAD]), VALUES, UNITS)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_a_chunk(kind: type[bytes]) -> None:
    check(read([kind(PAYLOAD)]), VALUES, UNITS)


def test_two_states_of_a_unit_come_together() -> None:
    found = read([payload(2)], PayloadReader(TABLE, "p1", UNITS, states=2))

    check(found, values_of(UNITS, 2), UNITS)


def test_a_digest_over_two_arrays_is_that_of_the_two_in_a_row() -> None:
    raw, average = VALUES[0], VALUES[0] + 1

    assert unit_digest(raw, average) == unit_digest(np.concatenate([raw, average]))


@settings(max_examples=30, deadline=None)
@given(
    wanted=st.frozensets(st.sampled_from(UNITS)),
    places=st.lists(st.integers(0, len(PAYLOAD)), max_size=9),
)
def test_units_not_wanted_are_skipped(wanted: frozenset[int], places: list[int]) -> None:
    found = read(cut(PAYLOAD, places), PayloadReader(TABLE, "p1", UNITS, wanted=wanted))

    mine = [i for i, unit in enumerate(UNITS) if unit in wanted]
    check(found, [VALUES[i] for i in mine], [UNITS[i] for i in mine])


def test_the_size_of_a_payload_is_known_before_it_is_made() -> None:
    assert len(PAYLOAD) == expected_bytes(TABLE, "p1", UNITS)
    assert len(payload(2)) == expected_bytes(TABLE, "p1", UNITS, states=2)


def test_values_travel_uncopied() -> None:
    header = header_of("p1", UNITS, VALUES)

    for value, part in zip(VALUES, list(parts(header, VALUES))[1:], strict=True):
        assert np.shares_memory(value, np.frombuffer(part, np.uint8))


# ---------------------------------------------------------------- what is wrong


def test_flipped_bits_spoil_their_unit_alone() -> None:
    start = len(PAYLOAD) - 4 * (33 + 128)
    for place, spoilt in [(start, 3), (len(PAYLOAD) - 1, 4)]:
        data = bytearray(PAYLOAD)
        data[place] ^= 1

        assert [u != spoilt for u in UNITS] == [intact for _, _, intact in read([bytes(data)])]


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, len(PAYLOAD) - 1))
def test_a_payload_cut_short_says_how_far_it_came(length: int) -> None:
    reader = PayloadReader(TABLE, "p1", UNITS)
    found = list(reader.feed(PAYLOAD[:length]))

    with pytest.raises(BlobError, match=f"ends after {len(found)} of 4 units"):
        reader.finish()


@settings(max_examples=30, deadline=None)
@given(extra=st.binary(min_size=1, max_size=50))
def test_bytes_after_the_last_unit_are_an_error(extra: bytes) -> None:
    with pytest.raises(BlobError, match="bytes after its last unit"):
        read([PAYLOAD, extra])


def headed(**changed: object) -> bytes:
    body = {
        "owner": "p1",
        "units": list(UNITS),
        "states": 1,
        "digests": bytes(8 * len(UNITS)),
        **changed,
    }
    packed: bytes = msgpack.packb({k: v for k, v in body.items() if v is not None})
    return MAGIC + len(packed).to_bytes(4, "little") + packed


WRONG = {
    "another owner": headed(owner="p2"),
    "an owner that is no text": headed(owner=b"\xff"),
    "fewer units": headed(units=[0, 1, 3]),
    "other units": headed(units=[0, 1, 2, 4]),
    "units in another order": headed(units=[1, 0, 3, 4]),
    "more units than asked for": headed(units=list(range(1000))),
    "units that are no list": headed(units=7),
    "more states": headed(states=2),
    "states without end": headed(states=float("inf")),
    "states that are no number": headed(states=float("nan")),
    "too few digests": headed(digests=bytes(8)),
    "digests that are no bytes": headed(digests=3),
    "no digests": headed(digests=None),
    "no owner": headed(owner=None),
    "a body that is no map": MAGIC + (1).to_bytes(4, "little") + b"\x07",
    "an empty body": MAGIC + bytes(4),
    "another magic": b"C2P2" + headed()[4:],
    "a length beyond reason": MAGIC + b"\xff\xff\xff\xff" + headed()[8:],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_header_that_is_not_as_expected_is_a_blob_error(case: str) -> None:
    with pytest.raises(BlobError, match="p1"):
        read([WRONG[case] + PAYLOAD[-4 * int(TABLE.sizes[list(UNITS)].sum()) :]])


def test_a_header_of_absurd_length_is_refused_before_it_is_collected() -> None:
    reader = PayloadReader(TABLE, "p1", UNITS)
    with pytest.raises(BlobError):
        list(reader.feed(MAGIC + (2**31).to_bytes(4, "little")))


def length_only(length: int) -> bytes:
    return MAGIC + length.to_bytes(4, "little")


@pytest.mark.parametrize("count", [0, 4, 1000])
def test_a_header_may_have_sixteen_bytes_a_unit_beside_what_is_fixed_and_no_more(
    count: int,
) -> None:
    limit = 264 + 16 * count
    units = (0,) * count

    list(PayloadReader(TABLE, "p1", units).feed(length_only(limit)))
    with pytest.raises(BlobError, match="these bytes are not the payload of p1"):
        list(PayloadReader(TABLE, "p1", units).feed(length_only(limit + 1)))


def test_no_number_of_units_lets_a_header_be_over_four_mib() -> None:
    units = (0,) * 300_000

    list(PayloadReader(TABLE, "p1", units).feed(length_only(4 << 20)))
    with pytest.raises(BlobError, match="these bytes are not the payload of p1"):
        list(PayloadReader(TABLE, "p1", units).feed(length_only((4 << 20) + 1)))


@pytest.mark.parametrize("count", [1, 4, 65_536])
def test_the_longest_honest_header_is_taken(count: int) -> None:
    """The owner is as long as an id may be, and every unit takes five bytes."""
    owner, units = "p" * 200, tuple(range(100_000, 100_000 + count))
    header = Header(owner, units, 2, (b"digested",) * count)
    reader = PayloadReader(TABLE, owner, units, states=2, wanted=frozenset())

    list(reader.feed(encode_header(header)))

    assert header == reader.header


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), as_header=st.booleans())
def test_garbage_is_a_blob_error(data: bytes, as_header: bool) -> None:
    if as_header:
        data = MAGIC + len(data).to_bytes(4, "little") + data
    with pytest.raises(BlobError):
        read([data])


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(PAYLOAD) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_is_an_error_or_spoils_a_unit(place: int, bit: int) -> None:
    data = bytearray(PAYLOAD)
    data[place] ^= 1 << bit
    try:
        found = read([bytes(data)])
    except BlobError:
        return
    assert not all(intact for _, _, intact in found)


def test_a_header_round_trips() -> None:
    reader = PayloadReader(TABLE, "p1", UNITS)
    list(reader.feed(PAYLOAD))

    assert header_of("p1", UNITS, VALUES) == reader.header
    assert encode_header(header_of("p1", UNITS, VALUES)) == PAYLOAD[: -4 * (7 + 1 + 33 + 128)]
