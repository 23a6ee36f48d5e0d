"""Copies a run's topics from any bus into one SQLite file, from which the run can be replayed.

Invariants:
Each record keeps its offset, timestamp, key and headers.
So every reference in the log still holds.
No partition goes beyond the extent.
From a partition's first record on, only records that compaction removes are missing.
The file appears under its name only when it is complete.
Retention and compaction may run during the copy.
A record that retention removes before it was copied is left out, with all records before it.
Compacted topics are copied first, before much of them can be removed.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cos2p.errors import BlobError, OffsetExpiredError, StorageError
from cos2p.log.bus import Bus, Offsets
from cos2p.log.buses.sqlite_log import SqliteLog
from cos2p.log.topics import CATALOGUE, DECISIONS, FLEET, HEARTBEATS, MODELS, SNAPSHOTS, specs

READ_BYTES = 4 << 20
_EFFECTS_FIRST = tuple(dict.fromkeys((SNAPSHOTS, HEARTBEATS, MODELS, DECISIONS, FLEET, *CATALOGUE)))
"""The order in which ends are read. The run goes on meanwhile, so topics whose records refer to
other topics come first."""

Extent = Mapping[str, Mapping[int, Offsets]]
"""The ends of each topic's partitions, by the topic's full name and the partition."""
OnCopied = Callable[[int], None]
"""Receives the number of records copied since its last call."""


@dataclass(frozen=True)
class Copied:
    """The result of copying one topic partition: what the file holds of it.

    `topic` is the full name. `byte_count` counts values only.
    """

    topic: str
    partition: int
    first_offset: int
    record_count: int
    byte_count: int


async def extent_of(bus: Bus, prefix: str) -> dict[str, dict[int, Offsets]]:
    """The current extent of the run's topics; it includes whatever its records refer to."""
    ends = {topic: await bus.end_offsets(topic.full_name(prefix)) for topic in _EFFECTS_FIRST}
    return {topic.full_name(prefix): ends[topic] for topic in CATALOGUE}


async def copy(
    bus: Bus, prefix: str, extent: Extent, out: Path, on_copied: OnCopied = lambda _: None
) -> list[Copied]:
    """Copy the records in the extent into the new file `out`.

    Raises:
        StorageError: the disk is full, or the file can't be written.
        BlobError: a record in the extent can't be read, and has not expired.
        OffsetExpiredError: a segment file was removed or cut by hand.
    """
    unfinished = out.with_name(f".{out.stem}.unfinished.sqlite")
    _remove(unfinished)
    partitions = max(len(parts) for parts in extent.values())
    try:
        with closing(SqliteLog(unfinished, create=True)) as log:
            log.create_topics(specs(prefix, partitions))
            names = sorted(extent, key=lambda name: not log.topic(name).spec.compacted)
            copied = [
                await _copy_partition(bus, log, name, partition, extent[name][partition], on_copied)
                for name in names
                for partition in extent[name]
            ]
        unfinished.rename(out)
    except OSError as error:
        raise StorageError(f"can't write {out}: {error.strerror}") from error
    finally:
        _remove(unfinished)
    return copied


async def _copy_partition(
    bus: Bus, log: SqliteLog, topic: str, partition: int, ends: Offsets, on_copied: OnCopied
) -> Copied:
    entry = log.topic(topic)
    place, compacted = entry.logs[partition], entry.spec.compacted
    first = offset = ends.first
    log.place(place, first, [])
    while offset < ends.next:
        try:
            read = await bus.read(topic, partition, offset, bytes_max=READ_BYTES, wait_s=5.0)
        except OffsetExpiredError:
            first = min((await bus.end_offsets(topic))[partition].first, ends.next)
            if first <= offset:
                raise  # the record has not expired, so its bytes are lost
            offset = first
            log.place(place, first, [])
            continue
        if not read:
            raise BlobError(
                f"{topic}[{partition}] ends at {offset}, not at {ends.next} as reported before"
            )
        found = [r for r in read if r.offset < ends.next]
        log.place(place, first, found, compacted=compacted)
        offset = read[-1].offset + 1
        on_copied(len(found))
    return Copied(topic, partition, first, *log.held(place))


def _remove(file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
