"""The codec: canonical bytes out; in, a valid message or a MessageError, whatever the bytes are."""

from typing import Any, ClassVar

import msgpack
import pytest
from contract.golden_messages import EXAMPLES
from hypothesis import given, settings
from hypothesis import strategies as st

from cos2p.errors import MessageError, UnknownMessageError
from cos2p.log import codec
from cos2p.log.bus import NewRecord, Record
from cos2p.log.messages import Goodbye, Heartbeat, Message, PlanIssued, UpdateAdmitted
from cos2p.log.topics import RECORD_BYTES_MAX

NAMES = sorted(EXAMPLES)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


def record(value: bytes, name: str | bytes = "Goodbye", version: str | bytes = "1") -> Record:
    headers = {
        codec.NAME_HEADER: name if isinstance(name, bytes) else name.encode(),
        codec.VERSION_HEADER: version if isinstance(version, bytes) else version.encode(),
    }
    return Record("t", 0, 0, 0.0, b"", value, headers)


def as_read(new: NewRecord) -> Record:
    return Record("t", 0, 0, 0.0, new.key, bytes(new.value), new.headers)


def goodbye(**changed: object) -> bytes:
    body = {"run_id": "r", "worker_id": "w", "incarnation": 1, "reason": "x", **changed}
    packed: bytes = msgpack.packb(body)
    return packed


def message_or_error(read: Record) -> None:
    try:
        message = codec.decode(read)
    except MessageError:
        return
    assert message == codec.decode(as_read(codec.encode(message)))


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", NAMES)
def test_a_message_comes_back_equal(name: str) -> None:
    assert EXAMPLES[name] == codec.decode(as_read(codec.encode(EXAMPLES[name])))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_message_gives_the_same_bytes(name: str) -> None:
    again = type(EXAMPLES[name]).model_validate(EXAMPLES[name].model_dump())

    assert codec.encode(EXAMPLES[name]) == codec.encode(again)


def test_a_value_may_be_a_view_into_a_larger_buffer() -> None:
    new = codec.encode(EXAMPLES["Hello"])
    padded = memoryview(b"__" + bytes(new.value) + b"__")[2:-2]

    assert EXAMPLES["Hello"] == codec.decode(Record("t", 0, 0, 0.0, b"", padded, new.headers))


def test_the_key_is_the_worker_that_a_record_is_about() -> None:
    keys = {
        name: codec.encode(EXAMPLES[name]).key for name in ("Heartbeat", "PlanIssued", "RunEnded")
    }

    assert {"Heartbeat": b"worker-3", "PlanIssued": b"worker-3", "RunEnded": b""} == keys


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "changed",
    [
        {"run_id": "Not/A Name"},
        {"run_id": "../../etc"},
        {"worker_id": ""},
        {"worker_id": "w" * 64},
        {"worker_id": None},
        {"incarnation": -1},
        {"incarnation": 2**63},
        {"incarnation": 0.5},
        {"reason": "x" * 2001},
        {"reason": b"\xff\xfe"},
    ],
)
def test_a_field_out_of_bounds_is_an_error_that_names_it(changed: dict[str, object]) -> None:
    (field,) = changed
    with pytest.raises(MessageError, match=f"Goodbye: {field}"):
        codec.decode(record(goodbye(**changed)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_weight_is_finite_and_positive(value: float) -> None:
    body = EXAMPLES["UpdateAdmitted"].model_dump(mode="python") | {"weight": value}
    with pytest.raises(MessageError, match="UpdateAdmitted: weight"):
        codec.decode(record(msgpack.packb(body, default=str), "UpdateAdmitted"))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        b"\x80\x80",
        b"\x90",
        b"\x07",
        b"\x81\x01\x02",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa1a\xd4\x01\x00",
        b"\x81\xa1a" * 2000,
        b"\x91" * 100_000,
        bytes(RECORD_BYTES_MAX + 1),
    ],
    ids=lambda value: f"{value[:6].hex()}-{len(value)}",
)
def test_a_body_that_is_no_sound_map_is_an_error(value: bytes) -> None:
    with pytest.raises(MessageError, match=r"body|Goodbye"):
        codec.decode(record(value))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("Farewell", "1"),
        ("Message", "1"),
        ("", "1"),
        ("Goodbye", "2"),
        ("Goodbye", "999999"),
    ],
)
def test_an_unknown_message_or_version_is_told_apart(name: str, version: str) -> None:
    with pytest.raises(UnknownMessageError, match=name or "no message"):
        codec.decode(record(goodbye(), name, version))


@pytest.mark.parametrize(
    "version", ["", "0", "-1", "1.0", "one", "1000001", "9" * 5000, b"\xff", b"\xc2\xb2"]
)
def test_an_impossible_version_is_an_error(version: str | bytes) -> None:
    with pytest.raises(MessageError, match=r"version|headers"):
        codec.decode(record(goodbye(), version=version))


def test_missing_headers_are_an_error() -> None:
    with pytest.raises(MessageError, match="headers"):
        codec.decode(Record("t", 0, 0, 0.0, b"", goodbye(), {}))


# ---------------------------------------------------------------- anything at all


@settings(max_examples=400, deadline=None)
@given(value=st.binary(max_size=200), name=st.sampled_from(NAMES))
def test_random_bytes_are_a_message_or_an_error(value: bytes, name: str) -> None:
    message_or_error(record(value, name))


@settings(max_examples=300, deadline=None)
@given(body=VALUES, name=st.sampled_from(NAMES))
def test_a_random_body_is_a_message_or_an_error(body: object, name: str) -> None:
    message_or_error(record(msgpack.packb(body), name))


@settings(max_examples=400, deadline=None)
@given(data=st.data(), name=st.sampled_from(NAMES), value=VALUES)
def test_one_wrong_field_is_a_message_or_an_error(
    data: st.DataObject, name: str, value: object
) -> None:
    body: dict[str, Any] = msgpack.unpackb(codec.encode(EXAMPLES[name]).value)
    place = body
    field = data.draw(st.sampled_from(sorted(place)))
    while isinstance(place[field], dict) and place[field] and data.draw(st.booleans()):
        place = place[field]
        field = data.draw(st.sampled_from(sorted(place)))
    place[field] = value

    message_or_error(record(msgpack.packb(body), name))


@settings(max_examples=400, deadline=None)
@given(data=st.data(), name=st.sampled_from(NAMES))
def test_a_few_flipped_bits_are_a_message_or_an_error(data: st.DataObject, name: str) -> None:
    value = bytearray(codec.encode(EXAMPLES[name]).value)
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    message_or_error(record(bytes(value), name))


@settings(max_examples=200, deadline=None)
@given(
    headers=st.dictionaries(
        st.sampled_from([codec.NAME_HEADER, codec.VERSION_HEADER, "other"]),
        st.binary(max_size=12) | st.sampled_from([b"Goodbye", b"1", b"2", b"1_0", b" 1 "]),
    )
)
def test_random_headers_are_a_message_or_an_error(headers: dict[str, bytes]) -> None:
    message_or_error(Record("t", 0, 0, 0.0, b"", goodbye(), headers))


# ---------------------------------------------------------------- versions


class Farewell(Message):
    """A message that is in its third version here."""

    VERSION: ClassVar[int] = 3

    worker_id: str
    reasons: tuple[str, ...]
    is_final: bool


def _split(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "reasons": body["reason"].split(";")}


def _finish(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "is_final": "for good" in body["reasons"]}


KINDS = {"Farewell": Farewell}
LIFTS: dict[tuple[str, int], codec.Upcast] = {("Farewell", 1): _split, ("Farewell", 2): _finish}


def lifted(body: dict[str, object], version: int) -> Message:
    read = record(
        msgpack.packb({"run_id": "r", "worker_id": "w", **body}), "Farewell", str(version)
    )
    return codec.decode(read, KINDS, LIFTS)


def test_an_old_version_is_lifted_step_by_step() -> None:
    expected = Farewell(run_id="r", worker_id="w", reasons=("tired", "for good"), is_final=True)

    assert expected == lifted({"reason": "tired;for good"}, 1)
    assert expected == lifted({"reasons": ["tired", "for good"]}, 2)
    assert expected == lifted({"reasons": ["tired", "for good"], "is_final": True}, 3)


def test_a_version_after_the_newest_is_refused_and_not_guessed_at() -> None:
    with pytest.raises(UnknownMessageError, match="version 4 is newer than this program's 3"):
        lifted({"reasons": [], "is_final": True}, 4)


@pytest.mark.parametrize("body", [{}, {"reason": 3}, {"reason": None}, {"reason": b"x"}])
def test_an_old_body_that_cant_be_lifted_is_an_error(body: dict[str, object]) -> None:
    with pytest.raises(MessageError, match="Farewell version 1 can't be upgraded"):
        lifted(body, 1)


def test_a_missing_upcast_is_an_error() -> None:
    with pytest.raises(MessageError, match="can't be upgraded"):
        codec.decode(record(goodbye(), "Farewell"), KINDS, {})


def test_every_old_version_of_the_catalogue_has_an_upcast() -> None:
    old = {(name, v) for name, kind in codec.REGISTRY.items() for v in range(1, kind.VERSION)}

    assert old == set(codec.UPCASTS)


def test_encoding_names_the_newest_version() -> None:
    message = Farewell(run_id="r", worker_id="w", reasons=(), is_final=False)

    assert b"3" == codec.encode(message).headers[codec.VERSION_HEADER]


@pytest.mark.parametrize("kind", [Goodbye, Heartbeat, PlanIssued, UpdateAdmitted])
def test_messages_cant_be_changed(kind: type[Message]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        EXAMPLES[kind.__name__].run_id = "other"  # type: ignore[misc]
