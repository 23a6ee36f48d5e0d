"""What the embedded bus asks of its SQLite file: topics, records, retention. No await here.

A value is in its row or, for blob chunks in a run's folder, in a segment file (`segments.py`)
that the row points into. Invariants: an append is one transaction, so it is there whole or not at
all; offsets are never reused, for `partitions.first_offset` outlives the rows that retention takes,
and compaction leaves the newest row; of a compacted topic there is one row of each key at most,
after every append; what is read was committed. Everything here may raise `LockedError` and what
`sqlite_file.named` makes of SQLite's errors.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgpack

from cos2p.errors import StorageError, TopicMismatchError, TopicMissingError
from cos2p.log.bus import Buffer, NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.sqlite_file import (
    OFFSET_BITS,
    LockedError,
    connect,
    create_file,
    named,
    open_file,
)

RECORDS_PER_READ = 2000
"""So that a long log of small records does not hold up the event loop."""

EXPIRED_PER_CALL = 2000
"""Rows of a partition that retention takes at one go: others want the lock, too."""
WAL_BYTES_MAX = 8 << 20


@dataclass(frozen=True)
class Place:
    """Where a segment holds a value."""

    segment: int
    position: int
    byte_count: int


@dataclass(frozen=True)
class Row:
    """A record as the table has it; `value` is the bytes or where they are."""

    offset: int
    timestamp_s: float
    key: bytes
    headers: dict[str, bytes]
    value: bytes | Place

    @property
    def byte_count(self) -> int:
        """Bytes of the value."""
        return self.value.byte_count if isinstance(self.value, Place) else len(self.value)


@dataclass(frozen=True)
class TopicEntry:
    """A topic and the ids of its partitions, in order."""

    spec: TopicSpec
    logs: tuple[int, ...]


class SqliteLog:
    """Two connections to one file: one that writes, one that reads what is committed."""

    def __init__(self, file: Path, *, create: bool) -> None:
        self.file = file
        if create:
            create_file(file)
        self._reader, self.is_writable = connect(file)
        self._writer = self._reader
        if self.is_writable:
            try:
                self._writer, self.is_writable = connect(file)
            except BaseException:
                self._reader.close()
                raise

    def close(self) -> None:
        """Close both connections; the last to leave the file folds the WAL into it."""
        with named(self.file):
            self._writer.close()
            self._reader.close()

    # ------------------------------------------------------------ topics

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Add what is missing and take over the limits, all or nothing.

        Raises:
            TopicMismatchError: one exists with another number of partitions.
        """
        with self._transaction() as db:
            for spec in specs:
                row = db.execute(
                    "SELECT partitions FROM topics WHERE name = ?", (spec.name,)
                ).fetchone()
                if row is not None and row[0] != spec.partitions:
                    raise TopicMismatchError(
                        f"topic {spec.name} in {self.file} has {row[0]} partitions, "
                        f"not {spec.partitions}: use another prefix or another folder"
                    )
                db.execute(
                    "INSERT OR REPLACE INTO topics VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        spec.name,
                        spec.partitions,
                        spec.record_bytes_max,
                        spec.retention_s,
                        spec.bulk,
                        spec.compacted,
                    ),
                )
                db.executemany(
                    "INSERT OR IGNORE INTO partitions (topic, partition) VALUES (?, ?)",
                    [(spec.name, p) for p in range(spec.partitions)],
                )

    def topic(self, name: str) -> TopicEntry:
        """Look a topic up.

        Raises:
            TopicMissingError: there is none of this name.
        """
        with named(self.file):
            row = self._reader.execute("SELECT * FROM topics WHERE name = ?", (name,)).fetchone()
            logs = self._reader.execute(
                "SELECT id FROM partitions WHERE topic = ? ORDER BY partition", (name,)
            ).fetchall()
        if row is None:
            raise TopicMissingError(
                f"there is no topic {name} in {self.file}: run `cos2p topics create`"
            )
        spec = TopicSpec(row[0], row[1], row[2], row[3], bool(row[4]), bool(row[5]))
        return TopicEntry(spec, tuple(i for (i,) in logs))

    def topic_names(self) -> list[str]:
        """All topics, sorted."""
        with named(self.file):
            rows = self._reader.execute("SELECT name FROM topics ORDER BY name").fetchall()
        return [name for (name,) in rows]

    # ------------------------------------------------------------ records

    def insert(
        self,
        log: int,
        timestamp_s: float,
        records: Sequence[NewRecord],
        places: Sequence[Place | None],
        *,
        compacted: bool = False,
    ) -> int:
        """Append in one transaction; the offset of the first.

        Args:
            log: the partition's id.
            timestamp_s: of all of them.
            records: what is appended.
            places: where a segment holds each record's value; None puts it in the row.
            compacted: what is there of the same keys goes.
        """
        with self._transaction() as db:
            first = self._ends(db, log).next
            base = (log << OFFSET_BITS) + first
            _write(
                db,
                (
                    (base + i, timestamp_s, bytes(new.key), _pack(new), *_columns(new.value, place))
                    for i, (new, place) in enumerate(zip(records, places, strict=True))
                ),
                compacted,
            )
        return first

    def place(
        self, log: int, first: int, records: Sequence[Record], *, compacted: bool = False
    ) -> None:
        """Put another log's records where they were: same offsets, timestamps, keys and headers.

        Args:
            log: an empty partition, or one that was filled by earlier calls.
            first: the oldest offset that the other log keeps; what was placed below it goes.
            records: in its order, values whole.
            compacted: what is there of the same keys goes.
        """
        base = log << OFFSET_BITS
        with self._transaction() as db:
            db.execute("DELETE FROM records WHERE place >= ? AND place < ?", (base, base + first))
            db.execute("UPDATE partitions SET first_offset = ? WHERE id = ?", (first, log))
            _write(
                db,
                (
                    (
                        base + r.offset,
                        r.timestamp_s,
                        bytes(r.key),
                        _pack(NewRecord(b"", headers=r.headers)),
                        *_columns(r.value, None),
                    )
                    for r in records
                ),
                compacted,
            )

    def select(self, log: int, offset: int, bytes_max: int) -> list[Row]:
        """Rows from `offset` on: one at least if there is any, about `bytes_max` at most."""
        base = log << OFFSET_BITS
        found: list[Row] = []
        size = 0
        with named(self.file):
            cursor = self._reader.execute(
                "SELECT place, timestamp_s, key, headers, value, segment, position, byte_count"
                " FROM records WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
                (base + offset, base + (1 << OFFSET_BITS), RECORDS_PER_READ),
            )
            with closing(cursor):
                for place, at, key, headers, value, segment, position, byte_count in cursor:
                    where = value if segment is None else Place(segment, position, byte_count)
                    row = Row(place - base, at, key, msgpack.unpackb(headers), where)
                    size += row.byte_count
                    if found and size > bytes_max:
                        break
                    found.append(row)
        return found

    def ends(self, log: int) -> Offsets:
        """Both ends of a partition."""
        with named(self.file):
            return self._ends(self._reader, log)

    def held(self, log: int) -> tuple[int, int]:
        """How many records a partition holds, and the bytes of their values."""
        with named(self.file):
            count, size = self._reader.execute(
                "SELECT count(*), coalesce(sum(coalesce(byte_count, length(value))), 0)"
                " FROM records WHERE place >= ? AND place < ?",
                _range(log),
            ).fetchone()
        return count, size

    def changes(self) -> int:
        """A number that is another one after each commit by anyone."""
        with named(self.file):
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    def wal_bytes(self) -> int:
        """Size of the write-ahead log; 0 where there is none."""
        try:
            return os.stat(f"{self.file}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self) -> None:
        """Fold what the WAL holds into the file. May wait for the disk.

        Safe in a thread beside anything else: it has a connection of its own. A WAL that grows
        none the less, because someone is always writing, is cut with writers held off.
        """
        # Where another process is at it already, there is nothing left to do.
        with (
            suppress(LockedError),
            named(self.file),
            closing(open_file(self.file, "rw")) as db,
        ):
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if self.wal_bytes() > WAL_BYTES_MAX:
                db.execute("PRAGMA busy_timeout = 1000")
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    # ------------------------------------------------------------ segments and retention

    def new_segment(self) -> int:
        """A number that no segment had before."""
        with self._transaction() as db:
            return int(db.execute("INSERT INTO segments DEFAULT VALUES").lastrowid or 0)

    def expire(self, now_s: float) -> bool:
        """Drop records over their topic's retention; whether some are left for another call.

        Takes the lock only where there is something to drop.
        """
        with named(self.file):
            limits = self._writer.execute(
                "SELECT partitions.id, ? - retention_s FROM partitions"
                " JOIN topics ON topics.name = topic WHERE retention_s IS NOT NULL",
                (now_s,),
            ).fetchall()
            due = [(log, at) for log, at in limits if _oldest_s(self._writer, log, at) < at]
        if not due:
            return False
        with self._transaction() as db:
            left = [self._expire_log(db, log, oldest_s) for log, oldest_s in due]
        return any(left)

    def unused_segments(self) -> list[int]:
        """The segments that no row points into."""
        with named(self.file):
            rows = self._writer.execute(
                "SELECT id FROM segments WHERE NOT EXISTS"
                " (SELECT 1 FROM records WHERE records.segment = segments.id) ORDER BY id"
            ).fetchall()
        return [i for (i,) in rows]

    def forget_segments(self, segments: Sequence[int]) -> None:
        """Strike segments whose files are gone."""
        with self._transaction() as db:
            db.executemany("DELETE FROM segments WHERE id = ?", [(i,) for i in segments])

    # ------------------------------------------------------------ inside

    @staticmethod
    def _expire_log(db: sqlite3.Connection, log: int, oldest_s: float) -> bool:
        """Drop the oldest rows of a partition; whether there are more."""
        base, end = _range(log)
        rows = db.execute(
            "SELECT place, timestamp_s FROM records WHERE place >= ? AND place < ?"
            " ORDER BY place LIMIT ?",
            (base, end, EXPIRED_PER_CALL + 1),
        ).fetchall()
        kept = next((place for place, at in rows if at >= oldest_s), None)
        more = kept is None and len(rows) > EXPIRED_PER_CALL
        if more:
            kept = rows[-1][0]
        first = base + SqliteLog._ends(db, log).next if kept is None else int(kept)
        db.execute("DELETE FROM records WHERE place >= ? AND place < ?", (base, first))
        db.execute("UPDATE partitions SET first_offset = ? WHERE id = ?", (first - base, log))
        return more

    @staticmethod
    def _ends(db: sqlite3.Connection, log: int) -> Offsets:
        base = log << OFFSET_BITS
        first, last = db.execute(
            "SELECT first_offset, (SELECT max(place) FROM records WHERE place >= ? AND place < ?)"
            " FROM partitions WHERE id = ?",
            (base, base + (1 << OFFSET_BITS), log),
        ).fetchone()
        return Offsets(first, first if last is None else last - base + 1)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if not self.is_writable:
            raise StorageError(f"{self.file} can't be written: it, or its folder, is read-only")
        with named(self.file):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise


def _range(log: int) -> tuple[int, int]:
    """The places of a partition: the first, and the one behind the last."""
    return log << OFFSET_BITS, (log + 1) << OFFSET_BITS


def _oldest_s(db: sqlite3.Connection, log: int, empty: float) -> float:
    """Time of a partition's oldest row; `empty` where it has none."""
    row = db.execute(
        "SELECT timestamp_s FROM records WHERE place >= ? AND place < ? ORDER BY place LIMIT 1",
        _range(log),
    ).fetchone()
    return empty if row is None else float(row[0])


def _write(db: sqlite3.Connection, rows: Iterable[tuple[object, ...]], compacted: bool) -> None:
    # REPLACE drops the row with which the index of newest keys is at odds: the key's older one.
    verb = "INSERT OR REPLACE" if compacted else "INSERT"
    mark = "1" if compacted else "NULL"
    db.executemany(f"{verb} INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, {mark})", rows)


def _pack(new: NewRecord) -> bytes:
    return bytes(msgpack.packb({k: bytes(v) for k, v in new.headers.items()}))


def _columns(
    value: Buffer, place: Place | None
) -> tuple[Buffer | None, int | None, int | None, int | None]:
    if place is None:
        return value, None, None, None
    return None, place.segment, place.position, place.byte_count
