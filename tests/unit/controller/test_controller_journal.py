"""The journal: an order that only one writer of each event wins, and damage that is never taken for something else."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from spotrun.controller import Journal
from spotrun.controller.database import SCHEMA_VERSION
from spotrun.errors import JournalConflict, JournalCorrupt, JournalError, LeaseLost
from spotrun.job import JobSpec, StopRequested, Submitted, Ticked, fold

AT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
SPEC = JobSpec.model_validate({"name": "gpt", "command": "python train.py", "limits": {"max_run": "1h"}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def submitted(journal: Journal, seed: int = 0) -> str:
    return journal.submit(SPEC, at=AT, chance=random.Random(seed), workdir="/w", submitted_by="ada")


def tick(minutes: int) -> Ticked:
    return Ticked(at=AT + timedelta(minutes=minutes), spent_usd="0.1")  # type: ignore[arg-type]


def test_events_come_back_as_they_were_written(journal: Journal, path: Path) -> None:
    """In order, from any number on, in this process and the next."""
    job_id = submitted(journal)
    events = [StopRequested(at=AT + timedelta(minutes=n), by=f"ada {n} ‚") for n in range(1, 4)]
    for seq, event in enumerate(events, 1):
        assert journal.append(job_id, seq, event) == seq + 1
    for reader in (journal, Journal(path)):
        recorded = reader.events(job_id)
        assert [it.seq for it in recorded] == [1, 2, 3, 4]
        assert isinstance(recorded[0].event, Submitted)
        assert [it.event for it in recorded[1:]] == events
        assert [it.seq for it in reader.events(job_id, after=3)] == [4]
        assert reader.events("nobody") == ()
        assert reader.jobs() == (job_id,)
        reader.close()


def test_a_job_id_is_the_name_and_a_few_characters_of_chance(journal: Journal) -> None:
    """Typed by people, so short; drawn again when it is taken."""
    first = submitted(journal, seed=1)
    second = submitted(journal, seed=1)
    assert first != second
    for job_id in (first, second):
        name, _, suffix = job_id.rpartition("-")
        assert name == "gpt"
        assert len(suffix) == 5
    assert set(journal.jobs()) == {first, second}
    assert fold(it.event for it in journal.events(first)).spec == SPEC


def test_who_comes_second_must_look_again(journal: Journal) -> None:
    """The number of an event is given once; the loser wrote nothing."""
    job_id = submitted(journal)
    journal.append(job_id, 1, tick(1))
    with pytest.raises(JournalConflict) as caught:
        journal.append(job_id, 1, tick(2))
    assert (caught.value.job_id, caught.value.seq) == (job_id, 2)
    assert len(journal.events(job_id)) == 2


def test_many_writers_leave_one_order(journal: Journal, path: Path) -> None:
    """Eight threads with a connection each append to one job: every acknowledged event is there once."""
    job_id = submitted(journal)
    acknowledged: list[int] = []
    problems: list[JournalError] = []

    def write(name: str) -> None:
        mine = Journal(path)
        try:
            for _ in range(10):
                while True:
                    seq = mine.heads()[job_id]
                    try:
                        acknowledged.append(mine.append(job_id, seq, StopRequested(at=AT, by=name)))
                        break
                    except JournalConflict:
                        continue
        except JournalError as error:
            problems.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(acknowledged) == list(range(2, 82))
    assert len(journal.events(job_id)) == 81


def test_an_old_epoch_writes_nothing(journal: Journal) -> None:
    """The lease is checked in the transaction that writes."""
    job_id = submitted(journal)
    old = journal.acquire("old", now=AT, expires=AT + timedelta(seconds=15))
    journal.append(job_id, 1, tick(1), lease_epoch=old.epoch)
    new = journal.acquire("new", now=AT + timedelta(seconds=16), expires=AT + timedelta(seconds=31))
    assert new.epoch > old.epoch
    with pytest.raises(LeaseLost, match="new holds it"):
        journal.append(job_id, 2, tick(2), lease_epoch=old.epoch)
    with pytest.raises(LeaseLost):
        journal.require(old.epoch)
    journal.append(job_id, 2, StopRequested(at=AT, by="ada"))
    assert len(journal.events(job_id)) == 3


def test_settled_jobs_are_left_out_for_the_controller_only(journal: Journal) -> None:
    """Years of old jobs must not be read at every start."""
    first, second = submitted(journal, 1), submitted(journal, 2)
    journal.settle(first)
    assert list(journal.heads(unsettled=True)) == [second]
    assert set(journal.heads()) == {first, second}


def test_its_own_connections_are_in_the_mode_that_loses_nothing(journal: Journal) -> None:
    """WAL with synchronous=FULL is what the promise rests on; asked of the connections that the journal uses."""
    told: list[tuple[object, ...]] = []

    @sqlalchemy_event.listens_for(journal._engine, "commit")
    def look(connection: object) -> None:
        cursor = connection.connection.cursor()  # type: ignore[attr-defined]
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        told.append(tuple(cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas))

    submitted(journal)
    assert told == [("wal", 2, 1, 10_000)]


def test_home_and_journal_are_for_their_owner_alone(path: Path) -> None:
    """Also under a generous umask; specs and logs may hold what is nobody's business."""
    before = os.umask(0)
    try:
        journal = Journal(path)
        submitted(journal)
        modes = [stat.S_IMODE(it.stat().st_mode) for it in [path.parent, *path.parent.iterdir()]]
        assert modes[0] == 0o700
        assert set(modes[1:]) == {0o600}
        assert os.umask(0) == 0
        journal.close()
    finally:
        os.umask(before)


def test_a_newer_schema_is_refused(journal: Journal, path: Path) -> None:
    """An old release must not write into what it does not understand."""
    journal.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema SET version = ?", (SCHEMA_VERSION + 1,))
    connection.close()
    with pytest.raises(JournalError, match="newer spotrun"):
        Journal(path)


def test_a_place_where_no_journal_can_be_is_told(tmp_path: Path) -> None:
    """A file where the home should be."""
    (tmp_path / "home").write_text("not a directory")
    with pytest.raises(JournalError, match=r"--home or SPOTRUN_HOME|cannot be read"):
        Journal(tmp_path / "home" / "journal.db")


def test_a_url_is_a_database_like_any_other(tmp_path: Path) -> None:
    """What SQLAlchemy can open is prepared the same way; here SQLite without our settings."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    journal = Journal(url)
    job_id = submitted(journal)
    assert journal.append(job_id, 1, tick(1)) == 2
    again = Journal(url)
    assert again.jobs() == (job_id,)
    journal.close()
    again.close()


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case "garbage":
            path.write_bytes(random.Random(1).randbytes(len(data)))
        case "text":
            path.write_text("name: gpt\n")
        case "other":
            path.unlink()
            connection = sqlite3.connect(path)
            connection.execute("CREATE TABLE notes (text)")
            connection.commit()
            connection.close()


def read_all(path: Path) -> None:
    """What a controller does first."""
    journal = Journal(path)
    try:
        for job_id in journal.jobs():
            journal.events(job_id)
    finally:
        journal.close()


@pytest.mark.parametrize("how", ["empty", "half", "garbage", "text", "other"])
def test_a_damaged_file_is_told_and_left_alone(path: Path, how: str) -> None:
    """Whatever happened to it, it is never taken for a journal without jobs, nor written to."""
    journal = Journal(path)
    for seed in range(20):
        job_id = submitted(journal, seed)
    for seq in range(1, 40):
        journal.append(job_id, seq, tick(seq))
    journal.close()
    damaged(path, how)
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE events SET body = replace(body, 'ada', 'bob') WHERE seq = 1", "event 1 differs from its digest"),
        ("UPDATE events SET body = '{}' WHERE seq = 2", "event 2 differs from its digest"),
        ("UPDATE events SET seq = 9 WHERE seq = 2", "events 1 to 3 should be there"),
        ("DELETE FROM events WHERE seq = 3", "events 1 to 3 should be there"),
        ("DELETE FROM events WHERE seq = 2", "events 1 to 3 should be there"),
    ],
)
def test_a_changed_event_is_told_by_job_and_number(journal: Journal, path: Path, statement: str, what: str) -> None:
    """A sentence that names file, job and event, and says what to do; the other job can still be read."""
    job_id, other = submitted(journal, 1), submitted(journal, 2)
    journal.append(job_id, 1, tick(1))
    journal.append(job_id, 2, tick(2))
    connection = sqlite3.connect(path)
    assert connection.execute(f"{statement} AND job_id = ?", (job_id,)).rowcount == 1
    connection.commit()
    connection.close()
    with pytest.raises(JournalCorrupt) as caught:
        journal.events(job_id)
    for part in (str(path), job_id, what, "Nothing is launched", "backup"):
        assert part in str(caught.value)
    assert len(journal.events(other)) == 1


def test_a_journal_that_went_back_in_time_is_told(journal: Journal, path: Path) -> None:
    """An old copy was put in its place while we ran: our next event has no predecessor in it."""
    job_id = submitted(journal)
    journal.append(job_id, 1, tick(1))
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM events WHERE seq = 2")
        connection.execute("UPDATE jobs SET head = 1")
    connection.close()
    with pytest.raises(JournalCorrupt, match="2 events were read before, and it holds 1 now"):
        journal.append(job_id, 2, tick(2))


def test_a_busy_journal_is_no_damage(journal: Journal, path: Path) -> None:
    """Locked for longer than we wait is an error that passes."""
    job_id = submitted(journal)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")

    @sqlalchemy_event.listens_for(journal._engine, "checkout")
    def hurry(connection: object, *_: object) -> None:
        connection.execute("PRAGMA busy_timeout=50")  # type: ignore[attr-defined]

    with pytest.raises(JournalError, match="locked") as caught:
        journal.append(job_id, 1, tick(1))
    assert not isinstance(caught.value, JournalCorrupt)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert journal.append(job_id, 1, tick(1)) == 2


def test_a_full_disk_refuses_an_event_and_loses_none(journal: Journal, path: Path) -> None:
    """SQLite's own answer where its file may not grow: the event is not there, all acknowledged ones are, and once there is room
    the journal takes it."""
    job_id = submitted(journal)
    seq = 1

    @sqlalchemy_event.listens_for(journal._engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")

    limit = 1  # never less than there are already
    refusal = None
    while refusal is None and seq < 200:
        try:
            seq = journal.append(job_id, seq, StopRequested(at=AT, by="x" * 500))
        except JournalError as error:
            refusal = error
    assert "disk is full" in str(refusal)
    assert len(journal.events(job_id)) == seq
    limit = 1 << 30
    assert journal.append(job_id, seq, StopRequested(at=AT, by="ada")) == seq + 1
    reopened = Journal(path)
    assert len(reopened.events(job_id)) == seq + 1
    reopened.close()
