"""The read side: what attempts wrote, in order and once, while it grows."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest
from controller_story import AT, OFFER, SPEC, at, beat, machine

from spotrun.clock import SystemClock
from spotrun.controller import Follower, Journal
from spotrun.controller.placing import placed
from spotrun.controller.sighting import launched
from spotrun.errors import SpecError
from spotrun.job import AttemptEnded, AttemptExited, EndReason, Exit, Outcome, Phase, launch_token
from spotrun.job.message import Place
from spotrun.store import MemoryStore


class Scene:
    """A journal with one job, its store, and a follower whose pauses are moments in the story."""

    def __init__(self, home: Path) -> None:
        self.journal = Journal(home / "journal.db")
        self.job_id = self.journal.submit(SPEC, at=AT, chance=random.Random(1))
        self.store = MemoryStore()
        self.moments: list[object] = []
        scene = self

        class StoryClock(SystemClock):
            def sleep(self, seconds: float) -> None:
                scene.moments.pop(0)()  # type: ignore[operator]

        self.follower = Follower(self.journal, home, open_store=lambda uri: self.store, clock=StoryClock())

    def launch(self) -> None:
        job = self.follower.job(self.job_id)
        number = len(job.attempts) + 1
        event = placed(job, OFFER, at(10 * number), reason="")
        self.append(event)
        token = launch_token(self.job_id, number)
        self.append(launched(machine(f"i-{number}", attempt=number, token=token), at(10 * number)))

    def end(self, number: int, outcome: Outcome | None) -> None:
        if outcome is not None:
            word = Exit(attempt=number, outcome=outcome, at=at(10 * number + 5), exit_code=0)
            self.append(AttemptExited(at=at(10 * number + 5), attempt=number, exit=word))
        reason = EndReason.INTERRUPTED if outcome is None else EndReason.EXITED
        moment = at(10 * number + 6)
        self.append(AttemptEnded(at=moment, attempt=number, ended_at=moment, reason=reason))

    def append(self, event: object) -> None:
        self.journal.append(self.job_id, len(self.journal.events(self.job_id)), event)  # type: ignore[arg-type]

    def write(self, number: int, chunk: int, text: str, *, metrics: bool = False) -> None:
        place = Place(number)
        self.store.write(place.metrics(chunk) if metrics else place.log(chunk), [text.encode()])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_the_log_of_all_attempts_is_given_in_order(scene: Scene) -> None:
    scene.launch()
    scene.write(1, 0, "one\n")
    scene.write(1, 1, "two\n")
    scene.end(1, None)
    scene.launch()
    scene.write(2, 0, "three\n")
    pieces = [(it.attempt, it.text) for it in scene.follower.log(scene.job_id)]
    assert pieces == [(1, "one\n"), (1, "two\n"), (2, "three\n")]


def test_following_gives_each_piece_once_and_ends_with_the_job(scene: Scene) -> None:
    """Output, an interruption, more output on another machine, the end: the last piece is not missed."""

    def grow() -> None:
        scene.write(1, 1, "two\n")

    def interrupted() -> None:
        scene.write(1, 2, "three\n")
        scene.end(1, None)

    def again() -> None:
        scene.launch()

    def done() -> None:
        scene.write(2, 0, "four\n")
        scene.end(2, Outcome.COMPLETED)

    scene.launch()
    scene.write(1, 0, "one\n")
    scene.moments = [grow, interrupted, again, done]
    pieces = [(it.attempt, it.text) for it in scene.follower.log(scene.job_id, follow=True)]
    assert pieces == [(1, "one\n"), (1, "two\n"), (1, "three\n"), (2, "four\n")]
    assert scene.moments == []
    assert scene.follower.job(scene.job_id).phase is Phase.COMPLETED


def test_following_ends_when_told_to(scene: Scene) -> None:
    stop = threading.Event()
    scene.launch()
    scene.moments = [stop.set]
    assert list(scene.follower.log(scene.job_id, follow=True, stop=stop)) == []


def test_metrics_are_rows_with_their_attempt_and_torn_lines_are_left_out(scene: Scene) -> None:
    first, second, again = (
        {"step": 1, "at": at(1).isoformat(), "loss": 0.5},
        {"step": 2, "at": at(2).isoformat(), "loss": 0.25},
        {"step": 2, "at": at(9).isoformat(), "loss": 0.25},
    )
    scene.launch()
    scene.write(1, 0, f"{json.dumps(first)}\n{json.dumps(second)}\n" + '{"st', metrics=True)
    scene.end(1, None)
    scene.launch()
    scene.write(2, 0, f"{json.dumps(second)}\n{json.dumps(again)}\n[]\n", metrics=True)
    rows = [(it.attempt, dict(it.values)) for it in scene.follower.metrics(scene.job_id)]
    assert rows == [(1, first), (1, second), (2, again)], "a line that the commit carried over comes once"


def test_the_latest_beat_is_that_of_the_living_attempt(scene: Scene) -> None:
    assert scene.follower.heartbeat(scene.job_id) is None
    scene.launch()
    assert scene.follower.heartbeat(scene.job_id) is None
    scene.store.write(Place(1).heartbeat, [beat(3, 12).to_bytes()])
    found = scene.follower.heartbeat(scene.job_id)
    assert found is not None
    assert found.progress is not None
    assert found.progress.step == 3
    scene.end(1, None)
    assert scene.follower.heartbeat(scene.job_id) is None


def test_what_others_append_is_seen(scene: Scene) -> None:
    assert scene.follower.job(scene.job_id).attempts == ()
    scene.launch()
    assert len(scene.follower.job(scene.job_id).attempts) == 1


def test_an_unknown_job_is_told(scene: Scene) -> None:
    with pytest.raises(SpecError, match=scene.job_id):
        scene.follower.job("gpt-nope")
