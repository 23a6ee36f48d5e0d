"""The embedded bus's queries on its SQLite file: topics, records and retention.

This module is synchronous.
A value is in its row, or in a segment file (`segments.py`) that the row points into.
Only blob chunks in a run's folder are in segment files.
Every call may raise `LockedError` and the errors of `sqlite_file.named`.

Invariants:
An append is one transaction, so it is whole or absent.
Offsets are never reused.
`partitions.first_offset` stays when retention removes rows, and compaction keeps the newest row.
After every append, a compacted topic has at most one row of each key.
Reads see only committed rows.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import msgpack

from cos2p.errors import StorageError, TopicMismatchError, TopicMissingError
from cos2p.log.bus import NewRecord, Offsets, Record, TopicSpec
from cos2p.log.buses.sqlite_file import (
    OFFSET_BITS,
    LockedError,
    connect,
    create_file,
    named,
    open_file,
)
from cos2p.model.payload import Buffer

RECORDS_PER_READ = 2000
"""Limit that keeps a long log of small records from blocking the event loop."""

EXPIRED_PER_CALL = 2000
"""Rows of a partition that retention removes at once: other processes need the lock, too."""
WAL_BYTES_MAX = 8 << 20
_IN_RANGE = "place >= ? AND place < ?"


@dataclass(frozen=True)
class SegmentSlice:
    """The place of a value in a segment."""

    segment: int
    position: int
    byte_count: int

    def adjoins(self, after: "SegmentSlice") -> bool:
        """Whether `after` begins where this value ends."""
        return (self.segment, self.position + self.byte_count) == (after.segment, after.position)


@dataclass(frozen=True)
class Row:
    """A record as stored in the table; `value` is the bytes or their place in a segment."""

    offset: int
    timestamp_s: float
    key: bytes
    headers: dict[str, bytes]
    value: bytes | SegmentSlice

    @property
    def byte_count(self) -> int:
        """Number of bytes of the value."""
        return self.value.byte_count if isinstance(self.value, SegmentSlice) else len(self.value)


@dataclass(frozen=True)
class TopicEntry:
    """A topic and the ids of its partitions, in order."""

    spec: TopicSpec
    logs: tuple[int, ...]


class SqliteLog:
    """Two connections to one file: one writes, the other reads committed rows."""

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
        """Close both connections; the file's last connection copies the WAL into it."""
        with named(self.file):
            self._writer.close()
            self._reader.close()

    # ------------------------------------------------------------ topics

    def create_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Add the topics that are missing and store all limits, in one transaction.

        Raises:
            TopicMismatchError: a topic exists with a different number of partitions.
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
                db.execute("INSERT OR REPLACE INTO topics VALUES (?, ?, ?, ?, ?, ?)", astuple(spec))
                db.executemany(
                    "INSERT OR IGNORE INTO partitions (topic, partition) VALUES (?, ?)",
                    [(spec.name, p) for p in range(spec.partitions)],
                )

    def topic(self, name: str) -> TopicEntry:
        """Look a topic up.

        Raises:
            TopicMissingError: there is no topic with this name.
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

    # ------------------------------------------------------------ records

    def insert(
        self,
        log: int,
        timestamp_s: float,
        records: Sequence[NewRecord],
        places: Sequence[SegmentSlice | None],
        *,
        compacted: bool = False,
    ) -> int:
        """Append in one transaction and return the first record's offset.

        `log` is the partition's id, here and below. `places` gives where a segment holds each
        record's value; None puts it in the row. `compacted` removes older records of these keys.
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
        """Copy another log's records, with the same offsets, timestamps, keys and headers.

        The partition is empty, or earlier calls filled it. `first` is the oldest offset that the
        other log keeps; records below it are removed.
        """
        base = log << OFFSET_BITS
        with self._transaction() as db:
            _forget_before(db, log, first)
            _write(
                db,
                (
                    (base + r.offset, r.timestamp_s, bytes(r.key), _pack(r), *_columns(r.value))
                    for r in records
                ),
                compacted,
            )

    def select(self, log: int, offset: int, bytes_max: int) -> list[Row]:
        """Rows from `offset` on: at least one if there is any, at most about `bytes_max`."""
        base, end = _range(log)
        found: list[Row] = []
        size = 0
        with named(self.file):
            cursor = self._reader.execute(
                "SELECT place, timestamp_s, key, headers, value, segment, position, byte_count"
                f" FROM records WHERE {_IN_RANGE} ORDER BY place LIMIT ?",
                (base + offset, end, RECORDS_PER_READ),
            )
            with closing(cursor):
                for place, at, key, headers, value, *where in cursor:
                    held = value if where[0] is None else SegmentSlice(*where)
                    row = Row(place - base, at, key, msgpack.unpackb(headers), held)
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
        """Number of a partition's records, and the bytes of their values."""
        with named(self.file):
            count, size = self._reader.execute(
                "SELECT count(*), coalesce(sum(coalesce(byte_count, length(value))), 0)"
                f" FROM records WHERE {_IN_RANGE}",
                _range(log),
            ).fetchone()
        return count, size

    def changes(self) -> int:
        """A number that changes with each commit by any process."""
        with named(self.file):
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    def wal_bytes(self) -> int:
        """Size of the write-ahead log in bytes; 0 if there is none."""
        try:
            return os.stat(f"{self.file}-wal").st_size
        except OSError:
            return 0

    def checkpoint(self) -> None:
        """Copy the WAL's content into the file; it may wait for the disk.

        It is safe in a thread, because it has its own connection. If the WAL still grows, because
        some process always writes, writers are blocked while it is truncated.
        """
        # If another process does this already, there is nothing to do.
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
        """Make a number that no segment had before."""
        with self._transaction() as db:
            return int(db.execute("INSERT INTO segments DEFAULT VALUES").lastrowid or 0)

    def expire(self, now_s: float) -> bool:
        """Remove expired records; return whether some are left for another call.

        It takes the lock only if there is something to remove.
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
        """Numbers of the segments that no row points into."""
        with named(self.file):
            rows = self._writer.execute(
                "SELECT id FROM segments WHERE NOT EXISTS"
                " (SELECT 1 FROM records WHERE records.segment = segments.id) ORDER BY id"
            ).fetchall()
        return [i for (i,) in rows]

    def forget_segments(self, segments: Sequence[int]) -> None:
        """Remove the numbers of segments whose files were removed."""
        with self._transaction() as db:
            db.executemany("DELETE FROM segments WHERE id = ?", [(i,) for i in segments])

    # ------------------------------------------------------------ internals

    @staticmethod
    def _expire_log(db: sqlite3.Connection, log: int, oldest_s: float) -> bool:
        """Remove a partition's oldest rows, up to a limit; return whether there are more."""
        base, end = _range(log)
        rows = db.execute(
            f"SELECT place, timestamp_s FROM records WHERE {_IN_RANGE} ORDER BY place LIMIT ?",
            (base, end, EXPIRED_PER_CALL + 1),
        ).fetchall()
        kept = next((place for place, at in rows if at >= oldest_s), None)
        more = kept is None and len(rows) > EXPIRED_PER_CALL
        if more:
            kept = rows[-1][0]
        first = SqliteLog._ends(db, log).next if kept is None else int(kept) - base
        _forget_before(db, log, first)
        return more

    @staticmethod
    def _ends(db: sqlite3.Connection, log: int) -> Offsets:
        base, end = _range(log)
        first, last = db.execute(
            f"SELECT first_offset, (SELECT max(place) FROM records WHERE {_IN_RANGE})"
            " FROM partitions WHERE id = ?",
            (base, end, log),
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
    """The range of a partition's places: the first, and the one after the last."""
    return log << OFFSET_BITS, (log + 1) << OFFSET_BITS


def _forget_before(db: sqlite3.Connection, log: int, first: int) -> None:
    """Remove a partition's rows below an offset, where it begins from now on."""
    base = log << OFFSET_BITS
    db.execute(f"DELETE FROM records WHERE {_IN_RANGE}", (base, base + first))
    db.execute("UPDATE partitions SET first_offset = ? WHERE id = ?", (first, log))


def _oldest_s(db: sqlite3.Connection, log: int, empty: float) -> float:
    """Timestamp of a partition's oldest row; `empty` if it has none."""
    row = db.execute(
        f"SELECT timestamp_s FROM records WHERE {_IN_RANGE} ORDER BY place LIMIT 1", _range(log)
    ).fetchone()
    return empty if row is None else float(row[0])


def _write(db: sqlite3.Connection, rows: Iterable[tuple[object, ...]], compacted: bool) -> None:
    # REPLACE removes the row that violates the index `newest_by_key`: the key's older record.
    verb = "INSERT OR REPLACE" if compacted else "INSERT"
    mark = "1" if compacted else "NULL"
    db.executemany(f"{verb} INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, {mark})", rows)


def _pack(record: NewRecord | Record) -> bytes:
    return bytes(msgpack.packb({k: bytes(v) for k, v in record.headers.items()}))


def _columns(
    value: Buffer, place: SegmentSlice | None = None
) -> tuple[Buffer | None, int | None, int | None, int | None]:
    if place is None:
        return value, None, None, None
    return None, place.segment, place.position, place.byte_count
