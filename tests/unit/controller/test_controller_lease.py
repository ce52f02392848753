"""The lease: one controller acts; time decides when to try, the epoch decides who may write."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from spotrun.controller import Journal, Lease
from spotrun.errors import LeaseLost

AT = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class HandClock:
    """Set by hand."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now(self) -> datetime:
        return AT + timedelta(seconds=self.at_s)

    def monotonic(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds

    def wall(self, seconds: float) -> float:
        return seconds


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def lease(journal: Journal, owner: str, clock: HandClock) -> Lease:
    return Lease(journal, owner=owner, clock=clock, ttl_s=15)


def test_the_first_has_it_and_the_second_learns_who(journal: Journal) -> None:
    clock = HandClock()
    first, second = lease(journal, "first", clock), lease(journal, "second", clock)
    assert first.ensure() is None
    holder = second.ensure()
    assert holder is not None
    assert (holder.owner, holder.expires) == ("first", AT + timedelta(seconds=15))
    with pytest.raises(LeaseLost):
        _ = second.epoch


def test_it_is_prolonged_at_a_third_and_kept(journal: Journal) -> None:
    clock = HandClock()
    first, second = lease(journal, "first", clock), lease(journal, "second", clock)
    first.ensure()
    epoch = first.epoch
    for _ in range(20):
        clock.at_s += 5.1
        assert first.ensure() is None
        assert second.ensure() is not None
    assert first.epoch == epoch


def test_it_is_not_written_at_every_look(journal: Journal) -> None:
    clock = HandClock()
    first = lease(journal, "first", clock)
    first.ensure()
    before = journal.tenure()
    clock.at_s += 4.9
    first.ensure()
    assert journal.tenure() == before


def test_after_its_end_the_next_takes_it_and_the_first_is_told(journal: Journal) -> None:
    clock = HandClock()
    first, second = lease(journal, "first", clock), lease(journal, "second", clock)
    first.ensure()
    old = first.epoch
    clock.at_s += 15.1
    assert second.ensure() is None
    assert second.epoch > old
    with pytest.raises(LeaseLost):
        first.check()
    with pytest.raises(LeaseLost, match="second took the lease"):
        first.ensure()
    assert first.ensure() is not None, "it stands by from then on"


def test_an_expired_lease_that_nobody_took_goes_on(journal: Journal) -> None:
    """A laptop that slept: nobody else acted, so nothing is out of date."""
    clock = HandClock()
    first = lease(journal, "first", clock)
    first.ensure()
    epoch = first.epoch
    clock.at_s += 3600
    assert first.ensure() is None
    assert first.epoch == epoch


def test_an_owner_that_lost_it_and_got_it_back_is_told_once(journal: Journal) -> None:
    """In between somebody else acted: what it remembers is out of date."""
    clock = HandClock()
    first, second = lease(journal, "first", clock), lease(journal, "second", clock)
    first.ensure()
    clock.at_s += 16
    second.ensure()
    second.release()
    with pytest.raises(LeaseLost):
        first.ensure()
    assert first.ensure() is None


def test_given_back_it_is_free_at_once(journal: Journal) -> None:
    clock = HandClock()
    first, second = lease(journal, "first", clock), lease(journal, "second", clock)
    first.ensure()
    first.release()
    assert journal.tenure() is None
    assert second.ensure() is None
    first.release()
    assert journal.tenure() is not None, "giving back what is not ours changes nothing"


def test_of_many_that_try_at_once_one_gets_it(tmp_path: Path) -> None:
    """A race of threads with a connection each."""
    Journal(tmp_path / "journal.db").close()
    got: list[str] = []
    gate = threading.Barrier(8)

    def race(owner: str) -> None:
        mine = lease(Journal(tmp_path / "journal.db"), owner, HandClock())
        gate.wait()
        if mine.ensure() is None:
            got.append(owner)

    threads = [threading.Thread(target=race, args=(f"c{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
