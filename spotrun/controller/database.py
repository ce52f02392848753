"""The journal's tables, and how its database is opened and made.

SQLite runs in WAL with synchronous=FULL: of SQLite's settings that allow readers beside a writer, the one that loses no
acknowledged transaction to a power cut. A new database is made aside and linked into place whole, so that an empty file
under the journal's name is always damage and never mistaken for a journal without jobs.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    inspect,
)
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.pool import NullPool

from spotrun.errors import JournalCorrupt, JournalError

__all__ = [
    "SCHEMA_VERSION",
    "check_version",
    "events_table",
    "jobs_table",
    "lease_table",
    "make_sqlite",
    "open_engine",
    "prepare",
    "schema_table",
]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x5350_4F54  # "SPOT", in the header of the file: no other program's database is ever changed
BUSY_TIMEOUT_MS = 10_000  # a writer holds the database for one fsync; ten seconds is a disk in trouble

_metadata = MetaData()

schema_table = Table("schema", _metadata, Column("version", Integer, nullable=False))

jobs_table = Table(
    "jobs",
    _metadata,
    Column("job_id", String(128), primary_key=True),
    Column("submitted_at", String(40), nullable=False),  # ISO 8601, UTC: sorts as text
    Column("head", BigInteger, nullable=False),  # number of the job's last event
    Column("settled", Boolean, nullable=False),  # over for so long that no controller need look at it again
)

events_table = Table(
    "events",
    _metadata,
    Column("job_id", String(128), ForeignKey("jobs.job_id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("at", String(40), nullable=False),
    Column("digest", String(32), nullable=False),  # of job, number and body
    sqlite_with_rowid=False,
)

lease_table = Table(
    "lease",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("owner", String(128), nullable=False),  # empty: nobody
    Column("epoch", BigInteger, nullable=False),
    Column("expires", String(40), nullable=False),
)


def open_engine(where: Path | str) -> Engine:
    """An engine for a SQLite file or, for text with `://`, any database that SQLAlchemy knows."""
    if isinstance(where, str):
        return create_engine(where)
    engine = create_engine(URL.create("sqlite", database=str(where)))
    _guard(engine, fresh=False)
    return engine


def make_sqlite(path: Path) -> None:
    """Makes an empty journal at `path` unless there is one; its directory, if missing, is for the user only.

    Raises:
        JournalError: the directory or the file cannot be made.
    """
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    before = os.umask(0o077)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_engine(URL.create("sqlite", database=str(fresh)), poolclass=NullPool)
        _guard(engine, fresh=True)
        with engine.begin() as connection:
            prepare(connection)
        engine.dispose()
        _publish(fresh, path)
    except OSError as error:
        raise JournalError(
            f"cannot make a journal at {path}: {error.strerror or error}. Nothing was launched; "
            "choose another home with --home or SPOTRUN_HOME"
        ) from error
    finally:
        os.umask(before)


def prepare(connection: Connection) -> None:
    """Makes the tables of an empty database, with nobody holding the lease."""
    if inspect(connection).has_table("schema"):
        return
    _metadata.create_all(connection)
    connection.execute(insert(schema_table).values(version=SCHEMA_VERSION))
    connection.execute(insert(lease_table).values(id=1, owner="", epoch=0, expires=""))


def check_version(version: int | None, where: str) -> None:
    """Refuses a database that this release cannot read.

    Raises:
        JournalError: it was written by a newer release.
        JournalCorrupt: it holds no version.
    """
    if not isinstance(version, int):  # none, or what somebody has written there
        raise JournalCorrupt(f"{where} is not a journal of spotrun: it holds no schema version. Nothing was launched.")
    if version > SCHEMA_VERSION:
        raise JournalError(
            f"{where} was written by a newer spotrun (schema {version}; this one reads up to {SCHEMA_VERSION}). "
            "Nothing was launched; upgrade spotrun to use it."
        )


def _publish(fresh: Path, path: Path) -> None:
    """Moves a whole database file to its name, durably, without replacing one that is there."""
    _fsync(fresh)
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass  # another process made it first, and it is as empty as ours
    finally:
        for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm")):
            leftover.unlink(missing_ok=True)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _guard(engine: Engine, *, fresh: bool) -> None:
    """Sets what durability rests on for each connection, and starts transactions that say whether they write."""

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are ours: see `begin`
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        if fresh:
            cursor.execute(f"PRAGMA application_id={APPLICATION_ID}")
        elif cursor.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise JournalCorrupt(
                f"{engine.url.database} is a database, but no journal of spotrun. Nothing was changed in it, and nothing is "
                "launched; choose another home with --home or SPOTRUN_HOME."
            )
        mode = cursor.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise JournalError(
                f"{engine.url.database} cannot be put in WAL mode (it stays in {mode!r}); use a local disk"
            )
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get("spotrun_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
