"""Who needs what was found: told by the journal, and by the store for jobs that the journal does not know."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from controller_story import AT, OFFER, SPEC, at

from spotrun.controller import Journal, Outside, real_outside
from spotrun.controller.placing import placed
from spotrun.controller.reap import judge
from spotrun.errors import StoreDenied
from spotrun.job import AttemptEnded, EndReason, Launched, StopRequested, fold
from spotrun.job.message import Control, Place
from spotrun.providers.leftover import Kind, Leftover, Standing
from spotrun.store import MemoryStore


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "home" / "journal.db")
    yield opened
    opened.close()


def submitted(journal: Journal, *, over: bool) -> str:
    """A job with a first attempt that runs, or that has been stopped and has ended."""
    job_id = journal.submit(SPEC, at=AT, chance=random.Random(over), workdir="/w", submitted_by="test")
    first = journal.events(job_id)[0].event
    story = [placed(fold([first]), OFFER, at(0), reason="cheapest")]
    story.append(Launched(at=at(1), attempt=1, instance_id="i-1", launched_at=at(1)))
    if over:
        story.append(StopRequested(at=at(2), by="test"))
        story.append(AttemptEnded(at=at(3), attempt=1, ended_at=at(3), reason=EndReason.TERMINATED))
    for seq, event in enumerate(story, start=1):
        journal.append(job_id, seq, event)
    return job_id


def found(job_id: str, *, place: str = "", kind: Kind = Kind.INSTANCE) -> Leftover:
    return Leftover(kind=kind, id=f"i-{job_id}", region="r1", job_id=job_id, attempt=1, place=place)


def outside(tmp_path: Path, stores: dict[str, Any]) -> Outside:
    """This computer, with other stores."""
    return replace(real_outside(tmp_path / "home"), open_store=lambda uri: stores[uri])


class _Closed(MemoryStore):
    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        raise StoreDenied("no access")


def test_jobs_of_the_journal_are_known_and_their_stores_are_not_asked(journal: Journal, tmp_path: Path) -> None:
    """A machine of a live attempt stays, one of a job that is over goes; no store is opened for either."""
    live, over = submitted(journal, over=False), submitted(journal, over=True)
    told = judge([found(live, place="x"), found(over, place="y")], journal, outside=outside(tmp_path, {}), now=at(9))
    assert [each.standing for each in told] == [Standing.NEEDED, Standing.OVER]


def test_jobs_of_other_homes_are_known_by_their_lease(journal: Journal, tmp_path: Path) -> None:
    """Held, run out long ago, without one, and unreadable: only the second goes by itself."""
    stores: dict[str, Any] = {name: MemoryStore() for name in ("held", "gone", "none")} | {"closed": _Closed()}
    for name, until in (("held", at(20)), ("gone", at(9) - timedelta(hours=1))):
        stores[name].write(Place(1).control, [Control(attempt=1, lease_until=until).to_bytes()])
    leftovers = [found(name, place=name) for name in stores] + [found("unplaced")]
    told = judge(leftovers, journal, outside=outside(tmp_path, stores), now=at(9))
    assert [each.standing for each in told] == [
        Standing.NEEDED,
        Standing.OVER,
        Standing.UNKNOWN,
        Standing.UNKNOWN,
        Standing.UNKNOWN,
    ]
    assert "no access" in told[3].why


def test_a_local_machine_that_the_journal_of_its_home_does_not_know_is_over(journal: Journal, tmp_path: Path) -> None:
    """Its home is this one: nobody else can know it."""
    (told,) = judge([found("lost", kind=Kind.PROCESS)], journal, outside=outside(tmp_path, {}), now=at(9))
    assert told.standing is Standing.OVER
