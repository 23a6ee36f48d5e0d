"""Snapshots: the newest states of a run's folds, so that a start needs not the whole log.

Owns the topic `snapshots`. It is compacted, so reading it from its start costs as much as the few
snapshots that are kept. Invariants: a snapshot counts only when all of its parts are there and have
their digest, when it is of this run and protocol, and when the log still has the records that it
was folded from as its last; any other is skipped with a reason. A snapshot is derived data: without
one a reader folds the log from its start and comes to the same state.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgpack
from blake3 import blake3

from cos2p.errors import MessageError, OffsetExpiredError, TopicMissingError
from cos2p.log import codec
from cos2p.log.bus import Bus
from cos2p.log.mailbox import Outbox
from cos2p.log.messages import PROTOCOL, SnapshotPart
from cos2p.log.topics import SNAPSHOTS

PART_BYTES_MAX = 900_000
FORMAT = 1
"""Of the envelope below; a state's own form is checked when it is unpacked."""

Fold = Literal["planner", "history"]
FOLDS: tuple[Fold, ...] = ("planner", "history")
Skipped = Callable[[int, str], None]
"""Called with a snapshot's number and the reason for which it does not count."""


@dataclass(frozen=True)
class Position:
    """How far a topic was folded.

    Attributes:
        offset: the next record to fold.
        tail: digest of the last one folded; empty where there was none.
    """

    offset: int
    tail: bytes = b""


@dataclass(frozen=True)
class Snapshot:
    """A fold's state after all records below some offsets.

    Attributes:
        of: whose.
        number: rises with each snapshot of one fold.
        run_id: the run's.
        positions: by the topic's name without prefix.
        state: its bytes (`cos2p.log.state_codec`).
    """

    of: Fold
    number: int
    run_id: str
    positions: Mapping[str, Position] = field(repr=False)
    state: bytes = field(repr=False)


def tail_of(value: bytes | memoryview) -> bytes:
    """The digest by which a position knows its last record again."""
    return blake3(value).digest(length=8)


def parts_of(snapshot: Snapshot) -> list[SnapshotPart]:
    """The records of a snapshot."""
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
    """Append a snapshot; a crash in between leaves the one before it whole.

    Raises:
        What the bus raises.
    """
    outbox = Outbox(bus, prefix, SNAPSHOTS)
    for part in parts_of(snapshot):
        await outbox.send(part)


async def snapshots_of(bus: Bus, prefix: str, of: Fold, skipped: Skipped) -> list[Snapshot]:
    """The whole snapshots of a fold in the log, newest first, whatever their run."""
    found: dict[tuple[int, bytes], dict[int, SnapshotPart]] = {}
    async for part in _parts(bus, prefix):
        if part.of == of:
            found.setdefault((part.number, part.digest), {})[part.part] = part
    whole = (whole_snapshot(parts, skipped) for _, parts in sorted(found.items(), reverse=True))
    return [snapshot for snapshot in whole if snapshot is not None]


async def fitting_snapshots(
    bus: Bus, prefix: str, of: Fold, run_id: str, skipped: Skipped
) -> AsyncIterator[Snapshot]:
    """The snapshots of a fold that fit the run and its log, newest first."""
    for snapshot in await snapshots_of(bus, prefix, of, skipped):
        fault = f"it is of run {snapshot.run_id}" if snapshot.run_id != run_id else ""
        fault = fault or await _misfit(bus, prefix, snapshot.positions)
        if fault:
            skipped(snapshot.number, fault)
        else:
            yield snapshot


async def newest_snapshot(
    bus: Bus, prefix: str, of: Fold, run_id: str, skipped: Skipped
) -> Snapshot | None:
    """The newest snapshot that fits the run and its log; None where there is none."""
    async for snapshot in fitting_snapshots(bus, prefix, of, run_id, skipped):
        return snapshot
    return None


async def next_number(bus: Bus, prefix: str) -> int:
    """The number of the next snapshot: above all that are there, whether they count or not."""
    return max([part.number + 1 async for part in _parts(bus, prefix)], default=0)


async def _parts(bus: Bus, prefix: str) -> AsyncIterator[SnapshotPart]:
    name = SNAPSHOTS.full_name(prefix)
    try:
        ends = (await bus.end_offsets(name))[0]
    except TopicMissingError:
        return
    offset = ends.first
    while offset < ends.next:
        records = await bus.read(name, 0, offset, wait_s=1.0)
        if not records:
            return
        for record in records:
            offset = record.offset + 1
            try:
                message = codec.decode(record)
            except MessageError:
                continue
            if isinstance(message, SnapshotPart):
                yield message


def whole_snapshot(parts: Mapping[int, SnapshotPart], skipped: Skipped) -> Snapshot | None:
    """The snapshot of these parts; None where it does not count."""
    head = next(iter(parts.values()))
    if head.protocol != PROTOCOL:
        skipped(head.number, f"it is of protocol {head.protocol}, this program's is {PROTOCOL}")
        return None
    if set(parts) != set(range(head.part_count)):
        skipped(head.number, f"only {len(parts)} of its {head.part_count} parts are there")
        return None
    whole = b"".join(parts[i].body for i in range(head.part_count))
    if blake3(whole).digest() != head.digest:
        skipped(head.number, "its bytes don't have its digest")
        return None
    try:
        plain = msgpack.unpackb(whole, max_ext_len=0)
        if plain["format"] != FORMAT:
            skipped(head.number, f"it has the format {plain['format']}, this program's is {FORMAT}")
            return None
        positions = {str(n): Position(int(o), bytes(t)) for n, (o, t) in plain["positions"].items()}
        return Snapshot(head.of, head.number, head.run_id, positions, bytes(plain["state"]))
    except (LookupError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
        skipped(head.number, f"it can't be read: {error!r}")
        return None


async def _misfit(bus: Bus, prefix: str, positions: Mapping[str, Position]) -> str:
    """Why a snapshot is not one of this log; empty where it is."""
    for name, position in positions.items():
        topic = f"{prefix}-{name}"
        ends = (await bus.end_offsets(topic))[0]
        if position.offset > ends.next:
            return f"it is ahead of {topic}: at {position.offset}, the log ends at {ends.next}"
        if not position.tail or position.offset - 1 < ends.first:
            continue  # retention took the record: nothing contradicts the snapshot
        try:
            last = (await bus.read(topic, 0, position.offset - 1, bytes_max=1))[0]
        except OffsetExpiredError:
            continue
        if last.offset == position.offset - 1 and tail_of(last.value) != position.tail:
            return f"record {last.offset} of {topic} is not the one that it was folded from"
    return ""
