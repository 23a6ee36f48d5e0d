"""Writes docs/protocol.md from the catalogue: `make docs`. A test compares the two."""

import inspect
import types
import typing
from collections.abc import Iterator

from pydantic import BaseModel

from cos2p.log import messages
from cos2p.log.topics import CATALOGUE, CHUNK_BYTES_MAX, DAY_S, RECORD_BYTES_MAX, Topic
from cos2p.model import unit_wire

HEAD = f"""# The protocol

Generated from `libs/common/cos2p/log/topics.py` and `messages.py` by `make docs`; a test fails
when it is out of date.

A record's headers name the message (`cos2p-message`) and its version (`cos2p-version`); its value
is one msgpack map with the fields below, at most {RECORD_BYTES_MAX:,} bytes. Unknown fields are
ignored, missing new ones take their default, an older version is lifted by its upcasts, and a
newer one goes to `dead-letters`, is counted, and stops nothing. Times are seconds, sizes bytes.

Blobs are runs of records of at most {CHUNK_BYTES_MAX:,} bytes in one partition, with the headers
`cos2p-blob` (the blob's id) and `cos2p-chunk` (the index, from 0). A `BlobRef` in a small record
says where they lie. A blob's bytes are described in `payload.py`.
"""


def retention(topic: Topic) -> str:
    """How long its records stay, for people."""
    which = "the newest of each key, " if topic.compacted else ""
    if topic.retention_s is None:
        return which + "for ever"
    if topic.retention_s > DAY_S:
        return which + f"{topic.retention_s / DAY_S:g} days"
    return which + f"{topic.retention_s / 3600:g} hours"


def type_name(annotation: object) -> str:
    """A field's type without module names and constraints."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(inner[0])
    if origin is typing.Literal:
        return " or ".join(f'"{getattr(v, "value", v)}"' for v in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(a) for a in inner)
    if origin is tuple:
        return f"list of {type_name(inner[0])}"
    if annotation is type(None):
        return "nil"
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def fields(kind: type[BaseModel]) -> Iterator[str]:
    """A table row per field."""
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, info in kind.model_fields.items():
        nested = isinstance(info.default, BaseModel)
        default = "" if info.is_required() or nested else f"`{info.default!r}`"
        yield f"| `{name}` | {type_name(info.annotation)} | {default} | {cell(info.description)} |"


def cell(text: str | None) -> str:
    """A field's docstring as a cell of a table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def about(kind: type) -> str:
    """A class's docstring on one line."""
    return " ".join((inspect.getdoc(kind) or "").split())


def page() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    yield "## Topics\n"
    yield "| topic | holds | written by | read by | key | partitions | kept |"
    yield "|---|---|---|---|---|---|---|"
    for topic in CATALOGUE:
        holds = ", ".join(m.__name__ for m in topic.messages) or "blob chunks"
        partitions = "P (a setting of the run)" if topic.partitioned else "1"
        yield (
            f"| `PREFIX-{topic.name}` | {holds} | {', '.join(topic.writers)} | "
            f"{', '.join(topic.readers)} | {topic.key} | {partitions} | {retention(topic)} |"
        )
    for topic in CATALOGUE:
        if topic.messages:
            yield f"\n## {topic.name}\n\n{topic.about}"
        for message in topic.messages:
            yield f"\n### {message.__name__} (version {message.VERSION})\n\n{about(message)}\n"
            yield from fields(message)
    yield "\n## Values inside messages"
    for value in (
        messages.BlobRef,
        messages.DeviceProfile,
        unit_wire.UnitColumns,
        unit_wire.UnitScores,
        messages.Plan,
        messages.LeftOut,
    ):
        yield f"\n### {value.__name__}\n\n{about(value)}\n"
        yield from fields(value)
    yield "\n## Settings of a run\n"
    yield "They travel in RunStarted: see [settings.md](settings.md#settings-of-a-run)."
    yield "\n## Outcomes\n"
    yield ", ".join(f"`{o.value}`" for o in messages.Outcome)


if __name__ == "__main__":
    print("\n".join(page()))
