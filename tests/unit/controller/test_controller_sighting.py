"""What provider and agent show, as events."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from controller_story import ELASTIC, OFFER, at, beat, gone, job_of, last_word, machine, started, submitted

from spotrun.clock import SystemClock
from spotrun.controller.mailbox import Mailbox
from spotrun.controller.placing import placed
from spotrun.controller.sighting import Lookout, orphans
from spotrun.controller.timing import Timing
from spotrun.errors import StoreUnavailable
from spotrun.job import AttemptEnded, EndReason, Event, Exit, Heartbeat, Job, Launched, Noticed, Outcome
from spotrun.job.message import Place
from spotrun.providers.provider import EndCause, Instance
from spotrun.store import MemoryStore


class Scene:
    """A lookout, and the store in which agents leave their words."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.lookout = Lookout(Mailbox(self.store), clock=SystemClock(), timing=Timing())

    def say(self, *documents: Heartbeat | Exit) -> None:
        for document in documents:
            key = Place(1).heartbeat if isinstance(document, Heartbeat) else Place(1).exit
            self.store.write(key, [document.to_bytes()])

    def look(self, job: Job, *instances: Instance, minutes: float) -> list[Event]:
        assert job.attempt is not None
        return list(self.lookout.look(job.attempt, instances, at(minutes)).events)


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


def test_a_running_machine_says_what_it_does() -> None:
    scene = Scene()
    scene.say(beat(3, 5))
    assert kinds(scene.look(job_of(started()), machine(), minutes=5)) == ["progressed"]
    assert scene.look(job_of(started()), machine(), minutes=5)[0].at == at(5)


def test_before_the_first_beat_there_is_nothing_to_say() -> None:
    assert Scene().look(job_of(started()), machine(), minutes=2) == []


def test_torn_documents_and_those_of_others_are_no_news() -> None:
    scene = Scene()
    scene.store.write(Place(1).heartbeat, [b'{"attempt": 1, "be'])
    assert scene.look(job_of(started()), machine(), minutes=2) == []
    scene.say(beat(3, 5, attempt=2))
    assert scene.look(job_of(started()), machine(), minutes=5) == []


def test_the_last_word_comes_before_the_end() -> None:
    """The job must know how the command ended when it hears that the machine is gone."""
    scene = Scene()
    scene.say(beat(9, 9), last_word(Outcome.COMPLETED, 10))
    events = scene.look(job_of(started()), gone(EndCause.EXITED, 11), minutes=12)
    assert kinds(events) == ["progressed", "attempt_exited", "attempt_ended"]


@pytest.mark.parametrize(
    ("cause", "reason", "detail"),
    [
        (EndCause.INTERRUPTED, EndReason.INTERRUPTED, ""),
        (EndCause.LOST, EndReason.INTERRUPTED, "the machine died"),
        (EndCause.TERMINATED, EndReason.TERMINATED, ""),
        (EndCause.EXITED, EndReason.EXITED, ""),
        (EndCause.UNSTARTED, EndReason.UNSTARTED, ""),
        (EndCause.DENIED, EndReason.DENIED, ""),
    ],
)
def test_who_ended_it_is_the_providers_word(cause: EndCause, reason: EndReason, detail: str) -> None:
    (event,) = Scene().look(job_of(started()), gone(cause, 30), minutes=40)
    assert isinstance(event, AttemptEnded)
    assert (event.reason, event.ended_at) == (reason, at(30))
    assert event.detail.startswith(detail)


def test_a_machine_that_was_heard_of_did_start_whatever_its_end_is_called() -> None:
    """AWS uses one word for both; its first hour is not free then. Of a gang one may speak while another never ran."""
    scene = Scene()
    scene.say(beat(3, 5))
    job, dead = job_of(started()), gone(EndCause.UNSTARTED, 7)
    event = scene.look(job, dead, minutes=8)[-1]
    assert isinstance(event, AttemptEnded)
    assert (event.reason, event.taken) == (EndReason.INTERRUPTED, 0)
    event = scene.look(job, replace(dead, end_cause=EndCause.DENIED, members=("i-1", "i-2"), taken=1), minutes=8)[-1]
    assert isinstance(event, AttemptEnded)
    assert (event.reason, event.taken) == (EndReason.DENIED, 1)


def test_a_notice_is_taken_from_whoever_tells_first() -> None:
    """From the agent, who polls every five seconds; later the provider's own deadline stands."""
    scene = Scene()
    job = job_of(started())
    scene.say(beat(3, 5, notice=at(7)))
    heard = scene.look(job, machine(), minutes=5)[0]
    assert heard == Noticed(at=at(5), attempt=1, deadline=at(7))
    known = job_of([*started(), heard])
    assert kinds(scene.look(known, machine(), minutes=5.1)) == ["progressed"]
    told = scene.look(known, machine(notice_deadline=at(7.5)), minutes=5.2)[0]
    assert told == Noticed(at=at(5.2), attempt=1, deadline=at(7.5))


def test_an_unanswered_launch_is_found_by_its_token() -> None:
    """A living machine rather than a dead one, the first rather than a later one; another attempt's never."""
    job = job_of([submitted(), placed(job_of([submitted()]), OFFER, at(0), reason="")])
    scene = Scene()
    assert scene.look(job, minutes=1) == []
    assert scene.look(job, machine("i-0", attempt=2), minutes=1) == []
    living = [machine("i-3", launched_at=at(2)), machine("i-2")]
    (event,) = scene.look(job, gone(EndCause.LOST, 2), *living, minutes=3)
    assert (event.kind, getattr(event, "instance_id", "")) == ("launched", "i-2")


def test_found_dead_is_told_in_one_breath() -> None:
    """Launched, said its last word and gone before anybody looked."""
    job = job_of([submitted(), placed(job_of([submitted()]), OFFER, at(0), reason="")])
    scene = Scene()
    scene.say(last_word(Outcome.FAILED, 3, code=2))
    events = scene.look(job, gone(EndCause.EXITED, 4), minutes=5)
    assert kinds(events) == ["launched", "attempt_exited", "attempt_ended"]


def test_a_store_that_is_away_delays_the_end_not_the_rest() -> None:
    class Away(MemoryStore):
        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            raise StoreUnavailable("away")

    lookout = Lookout(Mailbox(Away()), clock=SystemClock(), timing=Timing())
    attempt = job_of(started()).attempt
    assert attempt is not None
    sighting = lookout.look(attempt, [machine(notice_deadline=at(7))], at(5))
    assert kinds(list(sighting.events)) == ["noticed"]
    assert str(sighting.problem) == "away"
    assert lookout.look(attempt, [gone(EndCause.INTERRUPTED, 7)], at(8)).events == ()
    (event,) = lookout.look(attempt, [gone(EndCause.INTERRUPTED, 7)], at(19)).events
    assert isinstance(event, AttemptEnded)
    assert "could not be read: away" in event.detail


def test_machines_of_nobody_are_orphans() -> None:
    """All that lives and is not the attempt's; one with a notice is left to the provider, who may not charge for it."""
    job = job_of(started())
    others = [machine("i-2"), machine("i-3", notice_deadline=at(7)), gone(EndCause.LOST, 3)]
    assert [it.id for it in orphans(job, [machine(), *others], at(6))] == ["i-2"]
    assert [it.id for it in orphans(job, others, at(7) + timedelta(minutes=2))] == ["i-2", "i-3"]
    over = job_of([submitted()])
    assert [it.id for it in orphans(over, [machine()], at(6))] == ["i-1"]


def test_a_gang_whose_size_is_not_known_is_neither_taken_nor_ended() -> None:
    """Its launch is repeated, whose answer tells how many came: what was listed so far may be part of them."""
    job = job_of([submitted(ELASTIC), placed(job_of([submitted(ELASTIC)]), OFFER, at(0), reason="")])
    scene = Scene()
    part = machine("gang-1", members=("i-1", "i-2"), is_complete=False)
    assert scene.look(job, part, minutes=1) == []
    assert orphans(job, [part], at(1)) == []
    assert [it.id for it in orphans(job, [replace(part, token="another")], at(1))] == ["gang-1"]
    (event,) = scene.look(job, replace(part, is_complete=True), minutes=6)
    assert isinstance(event, Launched)
    assert event.members == ("i-1", "i-2")
