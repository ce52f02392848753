"""A random world for a job: a provider that refuses, interrupts and forgets, trainings that fail, a clock that jumps,
and deliveries that come twice. Every choice is drawn, so that hypothesis can shrink a failure to its shortest story."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from job_story import JOB, at, gone, launched, move, noticed, placed, refused, stop, submitted, tick, waited

from spotrun.job import (
    Action,
    AttemptEnded,
    AttemptExited,
    AttemptPhase,
    Commit,
    EndReason,
    Event,
    Exit,
    Job,
    Launch,
    Launched,
    LaunchRefused,
    MoveDecided,
    Outcome,
    Phase,
    Place,
    Placed,
    Progress,
    Progressed,
    RefusalKind,
    Terminate,
    TrainingPhase,
    check_invariants,
    is_news,
    outstanding,
    step,
)

_T = TypeVar("_T")
Choose = Callable[[Sequence[Any]], Any]

REPEATABLE = (Placed, MoveDecided, Launched, LaunchRefused, Progressed, AttemptExited, AttemptEnded)


class World:
    """Plays one job. `events` is its journal; every step is checked."""

    def __init__(self, choose: Choose, **limits: Any) -> None:
        self.choose = choose
        self.minutes = 0.0
        self.spent = Decimal(0)
        self.events: list[Event] = []
        self.job: Job | None = None
        self.ends: list[Phase] = []
        self.machines: set[str] = set()  # that exist
        self.asked: set[Action] = set()  # and not answered: what a controller without a memory of its own would know
        self.step_count = 0
        self.happen(submitted(**limits))

    @property
    def now(self) -> Job:
        assert self.job is not None
        return self.job

    def happen(self, event: Event) -> None:
        """Delivers an event, and checks everything that must hold."""
        before = self.job
        self.job, actions = step(before, event)
        self.events.append(event)
        check_invariants(self.job)
        assert set(actions) <= set(outstanding(self.job))
        self.asked |= set(actions)
        assert set(outstanding(self.job)) <= self.asked, "an action is outstanding that was never asked for"
        self.asked &= set(outstanding(self.job))
        if self.job.phase.is_end and (before is None or not before.phase.is_end):
            self.ends.append(self.job.phase)
            assert not self.machines, "the job is over and a machine is left"
            assert outstanding(self.job) == ()

    def live(self) -> None:
        """Something happens: one of the things that can, at this moment."""
        self.minutes += self.choose((0.0, 0.1, 1.0, 7.0, 45.0))
        self.spent += self.choose((Decimal(0), Decimal("0.5")))
        self.choose(self._possible())()

    def repeat(self) -> None:
        """A restarted controller delivers an old event again, and nothing but the clock may change."""
        old = self.choose([event for event in self.events if isinstance(event, REPEATABLE)] or [tick(0)])
        if isinstance(old, REPEATABLE):
            again = replace(old, at=at(self.minutes))
            if isinstance(again, Progressed) and again.attempt == len(self.now.attempts):
                return  # the newest news are a fresh look, not a repeat
            before = self.now
            self.happen(again)
            assert replace(self.now, at=before.at) == before

    def finish(self) -> None:
        """The faults are over: the clock ticks on and what is asked for is done, but the training hangs for ever."""
        for _ in range(200):
            if self.now.phase.is_end:
                return
            self.minutes += 60
            for action in outstanding(self.now):
                self._answer(action)
            if not self.now.phase.is_end:
                self._tick()

    def _possible(self) -> list[Callable[[], None]]:
        job, attempt = self.now, self.now.attempt
        ways = [self._tick, self._tick]
        ways += [lambda action=action: self._answer(action) for action in outstanding(job)]
        if self.choose((False,) * 9 + (True,)):
            ways.append(lambda: self.happen(stop(self.minutes)))
        if attempt is None:
            return ways
        number = attempt.number
        if attempt.instance_id is not None:
            ways.append(lambda: self._lose(number, EndReason.INTERRUPTED))
            ways.append(lambda: self._lose(number, EndReason.EXITED))
            ways.append(lambda: self._lose(number, self.choose((EndReason.UNSTARTED, EndReason.DENIED))))
            ways.append(lambda: self.happen(noticed(number, self.minutes, self.minutes + 2)))
            ways.append(lambda: self.happen(move(number, self.minutes)))
            if attempt.phase is not AttemptPhase.EXITED:
                ways += [lambda: self._train(number), lambda: self._train(number), lambda: self._exit(number)]
        return ways

    def _tick(self) -> None:
        event = tick(self.minutes, str(self.spent))
        if is_news(self.now, event):  # as the controller does
            self.happen(event)

    def _answer(self, action: Action) -> None:
        number = len(self.now.attempts)
        match action:
            case Place():
                if self.choose((True, True, False)):
                    zone, market = self.choose((("z1", "spot"), ("z2", "spot"), ("z1", "on_demand")))
                    allowed = self.now.spec.limits.on_shortage.value == "on_demand"
                    self.happen(placed(number + 1, self.minutes, zone=zone, market=market if allowed else "spot"))
                else:
                    self.happen(waited(self.minutes, self.minutes + self.choose((0.0, 5.0, 90.0))))
            case Launch():
                if self.choose((True, True, False)):
                    self.machines.add(f"i-{number}")
                    self.happen(launched(number, self.minutes))
                else:
                    kind = self.choose((RefusalKind.CAPACITY, RefusalKind.THROTTLED, RefusalKind.QUOTA))
                    self.happen(refused(number, self.minutes, kind))
            case Terminate():
                assert action.instance_id in self.machines
                self._lose(action.attempt, EndReason.TERMINATED)

    def _lose(self, number: int, reason: EndReason) -> None:
        self.machines.discard(f"i-{number}")
        self.happen(gone(number, self.minutes, reason))

    def _progress(self) -> Progress:
        self.step_count += self.choose((0, 1, 5))
        phase = self.choose((TrainingPhase.RESTORING, TrainingPhase.TRAINING, TrainingPhase.DONE))
        commits = self.choose((0, 1))
        moment = at(self.minutes)
        commit = Commit(step=self.step_count, at=moment, captured_at=moment) if commits else None
        begun = None if phase is TrainingPhase.RESTORING else moment
        return Progress(
            phase=phase, at=moment, step=self.step_count, training_at=begun, commits=commits, last_commit=commit
        )

    def _train(self, number: int) -> None:
        uploading = self.choose((False, False, False, True))
        self.happen(Progressed(at=at(self.minutes), attempt=number, progress=self._progress(), uploading=uploading))

    def _exit(self, number: int) -> None:
        outcome = self.choose(tuple(Outcome))
        code = {Outcome.COMPLETED: 0, Outcome.FAILED: self.choose((1, -15, -9, 143))}.get(outcome)
        told = self.choose((None, self._progress()))
        exit = Exit(attempt=number, outcome=outcome, at=at(self.minutes), exit_code=code, progress=told)  # noqa: A001
        self.happen(AttemptExited(at=at(self.minutes), attempt=number, exit=exit))


def play(choose: Choose, moves: int, **limits: Any) -> World:
    """A life of so many moves, and then the end."""
    world = World(choose, **limits)
    for _ in range(moves):
        if choose((False, False, False, True)):
            world.repeat()
        elif not world.now.phase.is_end:
            world.live()
    world.finish()
    return world


__all__ = ["JOB", "World", "play"]
