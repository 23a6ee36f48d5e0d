"""Snapshots: the newest states of a run's folds, so that a start need not read the whole log.

This module owns the topic `snapshots`.
The topic is compacted, so reading it from its start costs only the few snapshots that are kept.

Invariants:
A snapshot counts only if all of its parts are present and have their digest.
Its run and protocol must be those of the reader.
The log must reach the positions up to which it was folded.
The log must not contradict the last records that it was folded from.
Any other snapshot is skipped with a reason.
A snapshot is derived data.
Without one, a reader folds the log from its start and reaches the same state.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgpack
from blake3 import blake3

from cos2p.errors import MessageError, OffsetExpiredError, TopicMissingError
from cos2p.log import codec
from cos2p.log.bus import Bus, records_between
from cos2p.log.mailbox import Outbox
from cos2p.log.messages import PROTOCOL, SnapshotPart
from cos2p.log.topics import SNAPSHOTS

PART_BYTES_MAX = 900_000
FORMAT = 1
"""Version of the envelope that `parts_of` makes. The state's own format is checked when it is
unpacked."""

Fold = Literal["planner", "history"]
FOLDS: tuple[Fold, ...] = ("planner", "history")
Skipped = Callable[[int, str], None]
"""Receives a snapshot's number and the reason why it does not count."""


@dataclass(frozen=True)
class Position:
    """How far a topic was folded: the next offset, and the last record's digest, if any."""

    offset: int
    tail: bytes = b""


@dataclass(frozen=True)
class Snapshot:
    """A fold's state after all records below some offsets.

    Attributes:
        number: rises with each snapshot of one fold.
        positions: by the topic's name without prefix.
        state: the state's bytes (`cos2p.log.state_codec`).
    """

    of: Fold
    number: int
    run_id: str
    positions: Mapping[str, Position] = field(repr=False)
    state: bytes = field(repr=False)


def tail_of(value: bytes | memoryview) -> bytes:
    """The digest by which a position recognises its last record."""
    return blake3(value).digest(length=8)


def parts_of(snapshot: Snapshot) -> list[SnapshotPart]:
    """Split a snapshot into the messages that hold it."""
    plain = {
        "format": FORMAT,
        "positions": {name: [p.offset, p.tail] for name, p in snapshot.positions.items()},
        "state": snapshot.state,
    }
    whole = bytes(msgpack.packb(plain, use_bin_type=True))
    cuts = range(0, len(whole), PART_BYTES_MAX)
    return [
        SnapshotPart(
            run_id=snapshot.run_id,
            of=snapshot.of,
            number=snapshot.number,
            part=i,
            part_count=len(cuts),
            protocol=PROTOCOL,
            digest=blake3(whole).digest(),
            body=whole[start : start + PART_BYTES_MAX],
        )
        for i, start in enumerate(cuts)
    ]


async def write_snapshot(bus: Bus, prefix: str, snapshot: Snapshot) -> None:
    """Append a snapshot; a crash or an error of the bus leaves the previous one whole."""
    outbox = Outbox(bus, prefix, SNAPSHOTS)
    for part in parts_of(snapshot):
        await outbox.send(part)


async def snapshots_of(bus: Bus, prefix: str, of: Fold, skipped: Skipped) -> list[Snapshot]:
    """Read the whole snapshots of a fold in the log, of any run, newest first."""
    return whole_snapshots([part async for part in _parts(bus, prefix) if part.of == of], skipped)


async def fitting_snapshots(
    bus: Bus, prefix: str, of: Fold, run_id: str, skipped: Skipped
) -> AsyncIterator[Snapshot]:
    """Give the snapshots of a fold that fit the run and its log, newest first."""
    for snapshot in await snapshots_of(bus, prefix, of, skipped):
        fault = f"it belongs to run {snapshot.run_id}" if snapshot.run_id != run_id else ""
        fault = fault or await _misfit(bus, prefix, snapshot.positions)
        if fault:
            skipped(snapshot.number, fault)
        else:
            yield snapshot


async def next_number(bus: Bus, prefix: str) -> int:
    """The number of the next snapshot: above all in the log, whether they count or not."""
    return max([part.number + 1 async for part in _parts(bus, prefix)], default=0)


async def _parts(bus: Bus, prefix: str) -> AsyncIterator[SnapshotPart]:
    name = SNAPSHOTS.full_name(prefix)
    try:
        ends = (await bus.end_offsets(name))[0]
    except TopicMissingError:
        return
    async for record in records_between(bus, name, ends.first, ends.next):
        try:
            message = codec.decode(record)
        except MessageError:
            continue
        if isinstance(message, SnapshotPart):
            yield message


def whole_snapshots(parts: Iterable[SnapshotPart], skipped: Skipped) -> list[Snapshot]:
    """Join the parts of snapshots, and return those that count, newest first."""
    found: dict[tuple[int, bytes], dict[int, SnapshotPart]] = {}
    for part in parts:
        found.setdefault((part.number, part.digest), {})[part.part] = part
    whole = []
    for (number, _), of_one in sorted(found.items(), reverse=True):
        try:
            whole.append(_joined(next(iter(of_one.values())), of_one))
        except MessageError as error:
            skipped(number, str(error))
    return whole


def _joined(head: SnapshotPart, parts: Mapping[int, SnapshotPart]) -> Snapshot:
    if head.protocol != PROTOCOL:
        raise MessageError(f"it is of protocol {head.protocol}, this program's is {PROTOCOL}")
    if set(parts) != set(range(head.part_count)):
        raise MessageError(f"only {len(parts)} of its {head.part_count} parts are present")
    whole = b"".join(parts[i].body for i in range(head.part_count))
    if blake3(whole).digest() != head.digest:
        raise MessageError("its bytes do not match its digest")
    try:
        plain = msgpack.unpackb(whole, max_ext_len=0)
        if plain["format"] != FORMAT:
            raise MessageError(f"it has the format {plain['format']}, this program's is {FORMAT}")
        positions = {str(n): Position(int(o), bytes(t)) for n, (o, t) in plain["positions"].items()}
        return Snapshot(head.of, head.number, head.run_id, positions, bytes(plain["state"]))
    except (LookupError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
        raise MessageError(f"it can't be read: {error!r}") from error


async def _misfit(bus: Bus, prefix: str, positions: Mapping[str, Position]) -> str:
    """Why a snapshot does not fit this log; empty if it fits."""
    for name, position in positions.items():
        topic = f"{prefix}-{name}"
        ends = (await bus.end_offsets(topic))[0]
        if position.offset > ends.next:
            return f"it is ahead of {topic}: at {position.offset}, the log ends at {ends.next}"
        if not position.tail or position.offset - 1 < ends.first:
            continue  # retention removed the record, so nothing contradicts the snapshot
        try:
            last = (await bus.read(topic, 0, position.offset - 1, bytes_max=1))[0]
        except OffsetExpiredError:
            continue
        if last.offset == position.offset - 1 and tail_of(last.value) != position.tail:
            return f"record {last.offset} of {topic} is not the one that it was folded from"
    return ""
