"""The contract of the journal, held against the real one and the one in memory that the simulation runs on."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from spotrun.chaos.simulation.journal import Kept, MemoryJournal
from spotrun.controller import Journal
from spotrun.errors import JournalConflict, JournalCorrupt, LeaseLost
from spotrun.job import JobSpec, StopRequested, Submitted, Ticked

AT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
SPEC = JobSpec.model_validate({"name": "gpt", "command": "python train.py", "limits": {"max_run": "1h"}})

Open = Callable[[], Journal]


@pytest.fixture(params=["sqlite", "memory"])
def open_journal(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same journal as often as it is called, as several processes would."""
    if request.param == "sqlite":
        return lambda: Journal(tmp_path / "journal.db")
    kept = Kept()
    return lambda: MemoryJournal(kept)


def submitted(journal: Journal, seed: int = 0, at: datetime = AT) -> str:
    return journal.submit(SPEC, at=at, chance=random.Random(seed), workdir="/w", submitted_by="ada")


def later(minutes: int) -> datetime:
    return AT + timedelta(minutes=minutes)


def test_everybody_reads_what_was_appended(open_journal: Open) -> None:
    """In order, with numbers from 1, from any number on; nothing of an unknown job."""
    journal, reader = open_journal(), open_journal()
    job_id = submitted(journal)
    events = [StopRequested(at=later(n), by=f"ada {n}") for n in range(1, 4)]
    assert [journal.append(job_id, seq, event) for seq, event in enumerate(events, 1)] == [2, 3, 4]
    told = reader.events(job_id)
    assert [it.seq for it in told] == [1, 2, 3, 4]
    assert isinstance(told[0].event, Submitted)
    assert [it.event for it in told[1:]] == events
    assert [it.seq for it in reader.events(job_id, after=3)] == [4]
    assert reader.events(job_id, after=4) == ()
    assert reader.events("nobody") == ()
    assert reader.heads() == {job_id: 4}


def test_an_instant_comes_back_in_utc(open_journal: Open) -> None:
    """What is read is what the form of the journal holds, not the object that was given."""
    journal = open_journal()
    job_id = submitted(journal)
    zone = timezone(timedelta(hours=2))
    journal.append(job_id, 1, StopRequested(at=AT.astimezone(zone), by="ada"))
    (told,) = journal.events(job_id, after=1)
    assert told.event.at == AT


def test_who_comes_second_must_look_again(open_journal: Open) -> None:
    """The number of an event is given once; the loser wrote nothing, and says which number it was."""
    first, second = open_journal(), open_journal()
    job_id = submitted(first)
    first.append(job_id, 1, StopRequested(at=later(1), by="first"))
    with pytest.raises(JournalConflict) as caught:
        second.append(job_id, 1, StopRequested(at=later(1), by="second"))
    assert (caught.value.job_id, caught.value.seq) == (job_id, 2)
    with pytest.raises(JournalConflict):
        second.append(job_id, 0, first.events(job_id)[0].event)
    assert len(second.events(job_id)) == 2


def test_a_journal_that_has_lost_events_is_damaged(open_journal: Open) -> None:
    """Who has read more than there is does not go on."""
    journal = open_journal()
    job_id = submitted(journal)
    with pytest.raises(JournalCorrupt):
        journal.append(job_id, 7, StopRequested(at=later(1), by="ada"))
    assert len(journal.events(job_id)) == 1


def test_jobs_are_in_the_order_of_submission_and_settled_ones_left_out(open_journal: Open) -> None:
    """Years of old jobs must not be read at every start."""
    journal = open_journal()
    younger, older = submitted(journal, 1, later(5)), submitted(journal, 2)
    assert open_journal().jobs() == (older, younger)
    journal.settle(older)
    journal.settle(older)
    assert list(open_journal().heads(unsettled=True)) == [younger]
    assert set(open_journal().heads()) == {older, younger}


def test_the_lease_has_one_holder_and_each_holder_an_epoch(open_journal: Open) -> None:
    """Free, it is taken; held, it is told; prolonged, it keeps its epoch; run out, it passes on with a higher one."""
    first, second = open_journal(), open_journal()
    assert first.tenure() is None
    mine = first.acquire("first", now=AT, expires=later(1))
    assert second.acquire("second", now=AT, expires=later(1)) == mine == second.tenure()
    longer = first.acquire("first", now=AT, expires=later(2))
    assert (longer.epoch, longer.expires) == (mine.epoch, later(2))
    theirs = second.acquire("second", now=later(2), expires=later(3))
    assert theirs.owner == "second"
    assert theirs.epoch > mine.epoch


def test_an_old_epoch_writes_nothing_and_may_do_nothing(open_journal: Open) -> None:
    """A controller that stood still and was replaced; who only asks needs no epoch."""
    journal = open_journal()
    job_id = submitted(journal)
    old = journal.acquire("old", now=AT, expires=later(1))
    journal.append(job_id, 1, Ticked(at=AT, spent_usd=0), lease_epoch=old.epoch)  # type: ignore[arg-type]
    journal.acquire("new", now=later(1), expires=later(2))
    with pytest.raises(LeaseLost):
        journal.append(job_id, 2, Ticked(at=AT, spent_usd=0), lease_epoch=old.epoch)  # type: ignore[arg-type]
    with pytest.raises(LeaseLost):
        journal.require(old.epoch)
    journal.append(job_id, 2, StopRequested(at=AT, by="ada"))
    assert len(journal.events(job_id)) == 3


def test_a_lease_that_was_given_back_is_free_at_once(open_journal: Open) -> None:
    """And who gives back what has passed on gives back nothing."""
    journal = open_journal()
    mine = journal.acquire("first", now=AT, expires=later(9))
    journal.release(mine.epoch)
    assert journal.tenure() is None
    with pytest.raises(LeaseLost):
        journal.require(mine.epoch)
    theirs = journal.acquire("second", now=AT, expires=later(9))
    assert theirs.epoch > mine.epoch
    journal.release(mine.epoch)
    assert journal.tenure() == theirs
