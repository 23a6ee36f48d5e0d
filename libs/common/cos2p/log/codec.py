"""Encodes messages as msgpack maps, with name and version in the headers, and decodes them.

Invariants:
Encoding is canonical: the same message gives the same bytes.
Decoding never runs code, bounds every length, and raises only `MessageError`.
An old version is lifted to the newest by its upcasts.
A version newer than this program's is refused.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgpack
from pydantic import ValidationError

from cos2p.errors import MessageError, UnknownMessageError
from cos2p.log.bus import NewRecord, Record
from cos2p.log.messages import Message
from cos2p.log.topics import CATALOGUE, RECORD_BYTES_MAX
from cos2p.run_config import plain_validation

NAME_HEADER = "cos2p-message"
VERSION_HEADER = "cos2p-version"

Upcast = Callable[[dict[str, Any]], dict[str, Any]]

REGISTRY: dict[str, type[Message]] = {
    message.__name__: message for topic in CATALOGUE for message in topic.messages
}
UPCASTS: dict[tuple[str, int], Upcast] = {}
"""(message name, n) -> function that lifts a body of version n to n + 1."""


def encode(message: Message) -> NewRecord:
    """Make the record of a message, with the message's key."""
    name = type(message).__name__
    return NewRecord(
        value=msgpack.packb(message.model_dump(mode="python"), use_bin_type=True),
        key=message.key.encode(),
        headers={NAME_HEADER: name.encode(), VERSION_HEADER: str(message.VERSION).encode()},
    )


def decode(
    record: Record,
    registry: Mapping[str, type[Message]] = REGISTRY,
    upcasts: Mapping[tuple[str, int], Upcast] = UPCASTS,
) -> Message:
    """Decode the message in a record.

    Raises:
        UnknownMessageError: there is no such message, or its version is newer than this program's.
        MessageError: the bytes are not a valid body.
    """
    name, version = _headers(record)
    kind = registry.get(name)
    if kind is None:
        raise UnknownMessageError(f"no message is named {name[:80]!r}")
    if version > kind.VERSION:
        raise UnknownMessageError(
            f"{name} version {version} is newer than this program's {kind.VERSION}"
        )
    body = _body(record.value)
    try:
        for step in range(version, kind.VERSION):
            body = upcasts[name, step](body)
        return kind.model_validate(body)
    except ValidationError as error:
        raise MessageError(f"{name}: {plain_validation(error)}"[:2000]) from error
    except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError) as error:
        # Upcasts work on bodies that are not validated yet, so they may fail in many ways.
        raise MessageError(f"{name} version {version} can't be upgraded: {error!r}") from error


def _headers(record: Record) -> tuple[str, int]:
    try:
        return _named(bytes(record.headers[NAME_HEADER]), bytes(record.headers[VERSION_HEADER]))
    except KeyError as error:
        raise MessageError(f"the record's headers are missing: {error!r}") from error


@lru_cache(256)  # a log has millions of records, but few such pairs
def _named(name_header: bytes, version_header: bytes) -> tuple[str, int]:
    try:
        name = name_header.decode("ascii")
        version = int(version_header.decode("ascii"))
    except (UnicodeDecodeError, ValueError) as error:
        raise MessageError(f"the record's headers are wrong: {error!r}") from error
    if not 1 <= version <= 1_000_000:
        raise MessageError(f"version {version} is impossible")
    return name, version


def _body(value: bytes | memoryview) -> dict[str, Any]:
    if len(value) > RECORD_BYTES_MAX:
        raise MessageError(f"a body of {len(value)} bytes is over the limit {RECORD_BYTES_MAX}")
    try:
        body = msgpack.unpackb(
            value,
            raw=False,
            strict_map_key=True,
            max_str_len=100_000,
            max_bin_len=RECORD_BYTES_MAX,
            max_array_len=200_000,
            max_map_len=10_000,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MessageError(f"the body is not msgpack: {error!r}") from error
    if not isinstance(body, dict):
        raise MessageError("the body is not a map")
    return body
