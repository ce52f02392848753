"""The journal: each job's append-only list of events, and the lease that says which controller acts on them.

Any process may append: the event's number is the condition. A writer that has seen *n* events offers event *n + 1*; if
somebody was faster it gets JournalConflict, loads what is new and decides again. A controller also names the epoch of its
lease, checked in the same transaction: one that was paused and replaced can write nothing.

What is acknowledged is durable (see `spotrun.controller.database`), and each event carries a digest of its job, number
and body, so that what is read back is what was written, or an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError

from spotrun.controller.database import (
    check_version,
    events_table,
    jobs_table,
    lease_table,
    make_sqlite,
    open_engine,
    prepare,
    schema_table,
)
from spotrun.errors import JournalConflict, JournalCorrupt, JournalError, LeaseLost
from spotrun.job.event import Event, Submitted, decode, encode
from spotrun.job.spec import JobSpec

__all__ = ["Journal", "Recorded", "Tenure"]

SUFFIX_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # no 0/o or 1/l: people type job ids
SUFFIX_LENGTH = 5
SUBMIT_TRIES = 8  # 33 million suffixes for each name: eight clashes in a row are a broken random source


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An event as the journal holds it, the `seq`-th of its job, counted from 1."""

    seq: int
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenure:
    """Who holds the lease, since which epoch, until when (wall time)."""

    owner: str
    epoch: int
    expires: datetime


class Journal:
    """The journal at a path (SQLite) or a database URL. Thread-safe; open one per process, also after a fork.

    Raises:
        JournalCorrupt: the file is no journal, or is damaged.
        JournalError: it cannot be opened, or was written by a newer spotrun.
    """

    def __init__(self, where: Path | str) -> None:
        if isinstance(where, str) and "://" not in where:
            where = Path(where)
        self.where = str(where)
        if isinstance(where, Path):
            _check_file(where)
            if not where.exists():
                make_sqlite(where)
        self._engine = open_engine(where)
        if isinstance(where, str):
            with self._write() as connection:
                prepare(connection)
        with self._read() as connection:
            version = connection.execute(select(schema_table.c.version)).scalar()
        check_version(version, self.where)

    def submit(
        self,
        spec: JobSpec,
        *,
        at: datetime,
        chance: random.Random,
        workdir: str = "",
        submitted_by: str = "",
        furnish: Callable[[str], dict[str, Any] | None] = lambda _: None,
    ) -> str:
        """Journals a new job and returns its id: the spec's name, a dash and a few characters of chance.

        Args:
            furnish: called with the id before it is journaled, to make the job's place ready; gives the bundle left there.
        """
        for _ in range(SUBMIT_TRIES):
            job_id = f"{spec.name}-" + "".join(chance.choices(SUFFIX_ALPHABET, k=SUFFIX_LENGTH))
            submitted = Submitted(
                at=at,
                job_id=job_id,
                spec=spec.to_json(),
                submitted_by=submitted_by,
                workdir=workdir,
                bundle=furnish(job_id),
            )
            try:
                self.append(job_id, 0, submitted)
            except JournalConflict:
                continue
            return job_id
        raise JournalError(f"no free job id for {spec.name!r} in {SUBMIT_TRIES} tries; nothing was submitted")

    def append(self, job_id: str, expected_seq: int, event: Event, *, lease_epoch: int | None = None) -> int:
        """Makes `event` the job's next one, durably, and returns its number.

        Args:
            job_id: the job.
            expected_seq: the number of the last event the caller has seen; 0 for none.
            event: what happened.
            lease_epoch: the epoch of the controller's lease; None for writers that only ask, like `spotrun stop`.

        Raises:
            JournalConflict: the job has newer events; nothing was written.
            LeaseLost: the lease has passed to another controller; nothing was written.
        """
        seq, body = expected_seq + 1, encode(event)
        at = event.at.astimezone(timezone.utc).isoformat()
        try:
            with self._write() as connection:
                if lease_epoch is not None:
                    _require_epoch(connection, lease_epoch, lock=True)
                if expected_seq == 0:
                    connection.execute(insert(jobs_table).values(job_id=job_id, submitted_at=at, head=1, settled=False))
                else:
                    self._advance(connection, job_id, expected_seq)
                digest = _digest(job_id, seq, body)
                row = {"job_id": job_id, "seq": seq, "kind": event.kind, "body": body, "at": at, "digest": digest}
                connection.execute(insert(events_table).values(**row))
        except IntegrityError as error:
            raise JournalConflict(job_id, seq) from error
        return seq

    def events(self, job_id: str, after: int = 0) -> tuple[Recorded, ...]:
        """The job's events with numbers above `after`, in order; none for an unknown job.

        Raises:
            JournalCorrupt: an event is unreadable, or one is missing.
        """
        wanted = (events_table.c.job_id == job_id) & (events_table.c.seq > after)
        query = select(events_table.c.seq, events_table.c.body, events_table.c.digest).where(wanted)
        with self._read() as connection:
            head = connection.execute(select(jobs_table.c.head).where(jobs_table.c.job_id == job_id)).scalar() or 0
            rows = connection.execute(query.order_by(events_table.c.seq)).all()
        seqs = [row.seq for row in rows]
        wanted_count = max(head - after, 0) if isinstance(head, int) else -1
        if len(seqs) != wanted_count or seqs != list(range(after + 1, after + 1 + len(seqs))):
            found = ", ".join(str(row.seq) for row in rows[-5:]) or "none"
            raise self._corrupt(
                job_id, f"events {after + 1} to {head} should be there, the last ones found are: {found}"
            )
        return tuple(self._recorded(job_id, row.seq, body=row.body, digest=row.digest) for row in rows)

    def heads(self, *, unsettled: bool = False) -> Mapping[str, int]:
        """The number of the last event of each job, jobs in the order of submission; of all or of unsettled ones."""
        query = select(jobs_table.c.job_id, jobs_table.c.head).order_by(jobs_table.c.submitted_at, jobs_table.c.job_id)
        if unsettled:
            query = query.where(jobs_table.c.settled.is_(False))
        with self._read() as connection:
            return {row.job_id: row.head for row in connection.execute(query)}

    def jobs(self) -> tuple[str, ...]:
        """The ids of all jobs in the order of submission."""
        return tuple(self.heads())

    def settle(self, job_id: str) -> None:
        """Says that the job has been over for so long that no controller need look at it again."""
        with self._write() as connection:
            connection.execute(update(jobs_table).where(jobs_table.c.job_id == job_id).values(settled=True))

    def tenure(self) -> Tenure | None:
        """Who holds the lease by the journal's book, expired or not; None if nobody does."""
        with self._read() as connection:
            return _tenure(connection)

    def acquire(self, owner: str, *, now: datetime, expires: datetime) -> Tenure:
        """Takes or prolongs the lease for `owner` if it is free, expired or its own, and says who holds it after.

        Each change of hands has a higher epoch; an owner that only prolongs keeps its epoch. Wall time.
        """
        with self._write() as connection:
            held = _tenure(connection, lock=True)
            if held is not None and held.owner != owner and held.expires > now:
                return held
            epoch = connection.execute(select(lease_table.c.epoch)).scalar_one()
            if held is None or held.owner != owner:
                epoch += 1
            values = {"owner": owner, "epoch": epoch, "expires": expires.astimezone(timezone.utc).isoformat()}
            connection.execute(update(lease_table).values(**values))
        return Tenure(owner=owner, epoch=epoch, expires=expires)

    def release(self, epoch: int) -> None:
        """Gives the lease back; silent if it has passed on."""
        with self._write() as connection:
            connection.execute(update(lease_table).where(lease_table.c.epoch == epoch).values(owner="", expires=""))

    def require(self, epoch: int) -> None:
        """Checks, before an action outside, that the lease is still the one of `epoch`.

        Raises:
            LeaseLost: it is not.
        """
        with self._read() as connection:
            _require_epoch(connection, epoch)

    def close(self) -> None:
        """Closes the connections; the journal may not be used after."""
        self._engine.dispose()

    def _advance(self, connection: Connection, job_id: str, expected_seq: int) -> None:
        at_head = (jobs_table.c.job_id == job_id) & (jobs_table.c.head == expected_seq)
        if connection.execute(update(jobs_table).where(at_head).values(head=expected_seq + 1)).rowcount == 1:
            return
        head = connection.execute(select(jobs_table.c.head).where(jobs_table.c.job_id == job_id)).scalar() or 0
        if head < expected_seq:
            raise self._corrupt(job_id, f"{expected_seq} events were read before, and it holds {head} now")
        raise JournalConflict(job_id, expected_seq + 1)

    def _recorded(self, job_id: str, seq: int, *, body: str, digest: str) -> Recorded:
        if _digest(job_id, seq, body) != digest:
            raise self._corrupt(job_id, f"event {seq} differs from its digest")
        try:
            return Recorded(seq=seq, event=decode(body))
        except ValueError as error:
            raise self._corrupt(job_id, f"event {seq} is no event that this spotrun knows") from error

    def _corrupt(self, job_id: str, what: str) -> JournalCorrupt:
        return JournalCorrupt(
            f"{self.where} is damaged in job {job_id}: {what}. Nothing is launched for this job, and what it has "
            "running ends by itself when its lease runs out. Its checkpoints are not in this file and not touched; "
            "restore the file from a backup, or move it away and submit the job again with the same checkpoint uri."
        )

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._translated(), self._engine.connect().execution_options(spotrun_reads=True) as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns the database's errors into ours; a violated key stays, it means something different to each caller."""
        try:
            yield
        except IntegrityError:
            raise
        except OperationalError as error:
            if "no such table" in str(error.orig):
                raise _no_journal(self.where, str(error.orig)) from error
            raise JournalError(
                f"{self.where} cannot be used now: {error.orig}. Nothing was written; running attempts go on until their lease "
                "runs out"
            ) from error
        except DatabaseError as error:
            raise _no_journal(self.where, str(error.orig)) from error
        except DBAPIError as error:
            raise JournalError(f"{self.where} cannot be used now: {error.orig}") from error


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise JournalError(
            f"{path} cannot be read: {error.strerror}. Nothing was launched; choose another home with --home or SPOTRUN_HOME"
        ) from error
    if size == 0:
        raise _no_journal(str(path), "the file is empty, which no journal ever is")


def _no_journal(where: str, why: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"{where} is damaged or no journal of spotrun: {why}. Nothing is launched, and what is running ends by itself when its "
        "lease runs out. Checkpoints are not in this file and not touched; restore it from a backup, or move it away."
    )


def _tenure(connection: Connection, *, lock: bool = False) -> Tenure | None:
    query = select(lease_table.c.owner, lease_table.c.epoch, lease_table.c.expires)
    row = connection.execute(query.with_for_update() if lock else query).one()
    if not row.owner:
        return None
    try:
        held = Tenure(owner=str(row.owner), epoch=int(row.epoch), expires=datetime.fromisoformat(row.expires))
    except (TypeError, ValueError) as error:
        raise _no_journal("the journal's lease", str(error)) from error
    if held.expires.tzinfo is None:
        raise _no_journal("the journal's lease", f"{row.expires} is an instant without a time zone")
    return held


def _require_epoch(connection: Connection, epoch: int, *, lock: bool = False) -> None:
    held = _tenure(connection, lock=lock)
    if held is None or held.epoch != epoch:
        now = "nobody holds it" if held is None else f"{held.owner} holds it (epoch {held.epoch})"
        raise LeaseLost(
            f"this controller's lease of the journal (epoch {epoch}) is over: {now}. It stops acting; nothing is lost, "
            "and running attempts go on under whoever holds the lease."
        )


def _digest(job_id: str, seq: int, body: str) -> str:
    return blake2b(f"{job_id}\0{seq}\0{body}".encode(), digest_size=16).hexdigest()
