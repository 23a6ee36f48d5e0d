"""The SQLite file of the embedded bus: schema, creation, opening and errors.

Records of all partitions are in one table, ordered by `place` = partition's id << 40 | offset.
So reading from an offset on is one scan along the table.
The view `log` shows the records to people.
Rows of compacted topics have `compacted` set.
An index of these rows alone keeps their keys unique.
The file does not shrink: pages that compaction and retention free are written again first.

Invariants:
A file is made whole or not at all.
Connections never wait for a lock.
A locked file raises `LockedError` at once, and the caller decides how long to retry.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from cos2p.errors import BusError, BusUnreachableError, StorageError

APPLICATION_ID = 0xC052
SCHEMA_VERSION = 2
OFFSET_BITS = 40

_SCHEMA = f"""
CREATE TABLE topics (
    name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, record_bytes_max INTEGER NOT NULL,
    retention_s REAL, bulk INTEGER NOT NULL, compacted INTEGER NOT NULL
);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition)
);
CREATE TABLE segments (id INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE records (
    place INTEGER PRIMARY KEY, timestamp_s REAL NOT NULL, key BLOB NOT NULL,
    headers BLOB NOT NULL, value BLOB, segment INTEGER, position INTEGER, byte_count INTEGER,
    compacted INTEGER
);
CREATE UNIQUE INDEX newest_by_key ON records (place >> {OFFSET_BITS}, key)
    WHERE compacted IS NOT NULL;
CREATE INDEX records_by_segment ON records (segment) WHERE segment IS NOT NULL;
CREATE VIEW log AS
    SELECT topic, partition, place & {(1 << OFFSET_BITS) - 1} AS offset, timestamp_s, key, headers,
        coalesce(byte_count, length(value)) AS byte_count, segment, position, value
    FROM records JOIN partitions ON partitions.id = place >> {OFFSET_BITS};
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_CANT_WRITE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)


class LockedError(Exception):
    """Another process holds the file's lock: try again."""


def create_file(file: Path) -> None:
    """Make the file and the folders above it; a run's existing file stays unchanged.

    Raises:
        BusUnreachableError: the file exists, but is not SQLite or belongs to another program.
        StorageError: the file can't be made.
    """
    with named(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(open_file(file, "rwc")) as db:
            if db.execute("PRAGMA user_version").fetchone()[0]:
                return
            if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise BusUnreachableError(f"{file} is another program's SQLite file")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("BEGIN IMMEDIATE")
            # Under the lock, check again: another process may have made the schema meanwhile.
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
            db.execute("COMMIT")


def connect(file: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a connection to an existing run; return it and whether it may write.

    Raises:
        BusUnreachableError: the file does not exist, or is not a run's.
    """
    if not file.exists():
        raise BusUnreachableError(
            f"no run at {file}: the file does not exist; start one with `cos2p init`"
        )
    with named(file):
        for mode in ("rw", "ro", "ro&immutable=1"):
            try:
                db = open_file(file, mode)
            except sqlite3.OperationalError as error:
                # In a read-only folder, SQLite can't make the WAL's index next to the file.
                if _primary(error) in _CANT_WRITE and "immutable" not in mode:
                    continue
                raise
            try:
                _check(db, file)
                if mode != "rw" or _is_writable(db):
                    return db, mode == "rw"
            except BaseException:
                db.close()
                raise
            db.close()
    raise AssertionError("the last mode returns or raises")


def open_file(file: Path, mode: str) -> sqlite3.Connection:
    """Open a connection with this bus's settings; `mode` is that of SQLite's file URIs."""
    db = sqlite3.connect(
        f"file:{quote(str(file.absolute()))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=0,
    )
    try:
        # NORMAL survives the crash of any process; a power cut may lose the last seconds.
        db.execute("PRAGMA synchronous = NORMAL")
        # Checkpoints wait for the disk, so the bus does them off the event loop.
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # This first reads the file itself, so that errors appear here and not later.
        db.execute("PRAGMA user_version").fetchone()
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def named(file: Path) -> Iterator[None]:
    """Turn errors of SQLite and the system into those of `cos2p.errors`, with the file's name.

    Raises:
        LockedError: another process holds the lock.
        StorageError: the disk is full, or can't be read or written.
        BusUnreachableError: the file is not an SQLite file.
        BusError: the file is damaged, or the bus was closed meanwhile.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _translated(error, file) from error
    except OSError as error:
        raise StorageError(f"can't use {file}: {error.strerror}") from error


def _check(db: sqlite3.Connection, file: Path) -> None:
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        raise BusUnreachableError(
            f"no run at {file}: the file is empty; start one with `cos2p init`"
        )
    if application != APPLICATION_ID:
        raise BusUnreachableError(f"{file} is another program's SQLite file")
    if version != SCHEMA_VERSION:
        raise BusUnreachableError(
            f"{file} has the format {version}, this program reads {SCHEMA_VERSION}: "
            "install the cos2p release that wrote it"
        )


def _is_writable(db: sqlite3.Connection) -> bool:
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return _primary(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return True


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translated(error: sqlite3.DatabaseError, file: Path) -> Exception:
    code = _primary(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LockedError(str(error))
    if code == sqlite3.SQLITE_NOTADB:
        return BusUnreachableError(f"{file} is not a run: it is not an SQLite file")
    if code == sqlite3.SQLITE_CORRUPT:
        return BusError(f"{file} is damaged ({error}): go on from an archive of the run")
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"the disk that holds {file} is full: make room and start again")
    if code == sqlite3.SQLITE_READONLY:
        return StorageError(f"{file} can't be written: it, or its folder, is read-only")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return StorageError(
            f"{file} can't be read or written ({error}): check space and permissions"
        )
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return BusError(f"the bus on {file} was closed while it was in use")
    return error
