"""The wire format of every message, byte by byte, and of every version that there has ever been."""

import msgpack
import pytest
from contract.golden_messages import EXAMPLES, FOLDER, golden

from cos2p.log import codec
from cos2p.log.bus import NewRecord, Record
from cos2p.log.messages import Message
from cos2p.log.topics import CATALOGUE, RECORD_BYTES_MAX

ADVICE = "run tests/contract/golden_messages.py and commit what it writes"
VERSIONS = [
    (name, version)
    for name, kind in codec.REGISTRY.items()
    for version in range(1, kind.VERSION + 1)
]


def as_read(new: NewRecord) -> Record:
    return Record("t", 0, 0, 0.0, new.key, bytes(new.value), new.headers)


def stored(name: str, version: int) -> Record:
    headers = {codec.NAME_HEADER: name.encode(), codec.VERSION_HEADER: str(version).encode()}
    return Record("t", 0, 0, 0.0, b"", golden(name, version).read_bytes(), headers)


def test_the_catalogue_and_the_examples_name_the_same_messages() -> None:
    assert {m.__name__ for topic in CATALOGUE for m in topic.messages} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_sets_every_field_to_something_else_than_its_default(name: str) -> None:
    example = EXAMPLES[name]
    fields = type(example).model_fields.items()

    assert [] == [n for n, f in fields if getattr(example, n) == f.default]


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_every_version_has_its_golden_bytes(name: str, version: int) -> None:
    assert golden(name, version).exists(), ADVICE


def test_no_golden_bytes_belong_to_nothing() -> None:
    found = {(p.parent.name, int(p.stem[1:])) for p in FOLDER.glob("*/v*.msgpack")}

    assert set() == found - set(VERSIONS)
    assert len(found) == sum(1 for p in FOLDER.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_is_written_as_its_golden_bytes(name: str) -> None:
    """Other bytes mean another format: raise the message's VERSION instead of the golden file."""
    example = EXAMPLES[name]

    assert golden(name, example.VERSION).read_bytes() == codec.encode(example).value


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_newest_golden_bytes_are_read_as_the_example(name: str) -> None:
    example = EXAMPLES[name]

    assert example == codec.decode(stored(name, example.VERSION))


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_every_version_ever_written_is_read(name: str, version: int) -> None:
    assert codec.REGISTRY[name] is type(codec.decode(stored(name, version)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_headers_and_key_go_with_the_body(name: str) -> None:
    example = EXAMPLES[name]
    record = codec.encode(example)

    assert {
        codec.NAME_HEADER: name.encode(),
        codec.VERSION_HEADER: str(example.VERSION).encode(),
    } == record.headers
    about_a_worker = {"worker_id", "plan"} & set(type(example).model_fields)
    other = b"planner/1/1" if name == "SnapshotPart" else b""
    assert (b"worker-3" if about_a_worker else other) == record.key


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_far_below_the_limit_of_a_record(name: str) -> None:
    assert len(codec.encode(EXAMPLES[name]).value) < RECORD_BYTES_MAX // 100


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_of_a_later_program_with_more_fields_is_read(name: str) -> None:
    """Unknown fields are ignored: a field with a default may be added without a new version."""
    new = codec.encode(EXAMPLES[name])
    value = msgpack.packb(msgpack.unpackb(new.value) | {"extra": [1, 2, None]})

    read: Message = codec.decode(as_read(NewRecord(value, new.key, new.headers)))

    assert EXAMPLES[name] == read
