"""A world from one seed: a journal, a bucket, a cloud with its machines, one or two controllers, and everything that goes wrong.

Two acts. With the faults on, nothing may be lost, doubled or bought against the user's will; then they are off, and the job
must come to its end. After every event the checkers look at what the event has changed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from spotrun.chaos.simulation import books, invariant
from spotrun.chaos.simulation.actor import Actor, Crossing, Killed, Scene, Service
from spotrun.chaos.simulation.bucket import Bucket, SimStore
from spotrun.chaos.simulation.clock import EPOCH, SkewedClock, Timeline
from spotrun.chaos.simulation.cloud import Call, Cloud, Lot, SimProvider
from spotrun.chaos.simulation.evidence import Evidence, Terms
from spotrun.chaos.simulation.fault import CALM, Faults
from spotrun.chaos.simulation.history import History
from spotrun.chaos.simulation.journal import Kept, MemoryJournal, SimJournal
from spotrun.chaos.simulation.machine import Machine
from spotrun.chaos.simulation.settlement import ledger_is_the_bill
from spotrun.chaos.simulation.training import Diary, Training
from spotrun.controller import Controller, Outside, Timing
from spotrun.errors import IllegalTransition, JournalCorrupt, JournalError, LeaseLost, SpotrunError
from spotrun.job import Event, JobSpec, Progressed, StopRequested, check_invariants, step

__all__ = ["Broken", "Result", "World", "simulate"]

POLLS_S = (60.0, 120.0, 240.0, 240.0, 240.0)  # between two looks of a controller; real ones look every five seconds
CALM_AT_S = 6 * 3600.0  # the second act
DOWN_S = (5.0, 400.0)  # until a controller that died is started again
AFTERWARDS_S = 1200.0  # for which a job that is over is still watched
HASTY = 0.02  # of launches: the user thinks better of it a moment later
EVENTS_MAX = 60_000  # of one world: more are a loop


class Broken(AssertionError):
    """An invariant does not hold; says which, and when."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a world that held.

    Attributes:
        calls: of controllers to the outside: the places where one could have been killed, before and after.
        digest: of the history, if it was kept.
    """

    seed: int
    phase: str
    hours: float
    interruptions: int
    crashes: int
    attempts: int
    calls: int
    digest: str


@dataclass
class _Mind:
    """A controller's process: there may be several, and each may die."""

    actor: Actor
    journal: SimJournal
    controller: Controller | None = None
    lives: int = 0


@dataclass
class World:
    """See the module.

    Args:
        seed: of everything.
        faults: what goes wrong; drawn from the seed if not given.
        terms: the job; drawn from the seed if not given.
        keeps: whether the history is kept.
        dies_at: the half call of a controller, counted from 1, at which it is killed once; 0 for none.
    """

    seed: int
    faults: Faults | None = None
    terms: Terms | None = None
    keeps: bool = False
    dies_at: int = 0
    crashes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        dice = random.Random(self.seed)  # noqa: S311  a world is to be repeated, not to be guessed
        self.timeline = Timeline(self._check)
        self.history = History(self.timeline.now, keeps=self.keeps)
        self.timing = _timing(dice.choice(POLLS_S))
        drawn = Faults.draw(dice)
        self.scene = Scene(self.timeline, dice, self.faults or drawn, self.history, dies_at=self.dies_at)
        drawn_terms = _terms(dice, self.scene.faults)
        self.terms = self.terms or drawn_terms
        self.bucket = Bucket(self.scene)
        self.cloud = Cloud(self.scene, on_start=self._start, on_call=self._called)
        self.diary = Diary()
        self._machines: list[Machine] = []
        self._minds: list[_Mind] = []
        self._absent_until_s = 0.0
        self._seen = (0, 0, 0)  # events, mutations, changes of the books
        self.kept = Kept()
        spec = _spec(self.terms)
        self.job_id = MemoryJournal(self.kept).submit(spec, at=self.terms.submitted_at, chance=dice, workdir="/work")
        self.evidence = Evidence(
            terms=self.terms,
            job_id=self.job_id,
            events=self.kept.events[self.job_id],
            bucket=self.bucket,
            cloud=self.cloud,
            diary=self.diary,
            calm=self.scene.faults == CALM,
        )
        self._job, _ = step(None, self.evidence.events[0])
        self.evidence.told.append((self.timeline.now(), self._job.phase.value))
        self.kept.on_append = self._appended
        self._plan()

    def run(self) -> Result:
        """Lets it all happen.

        Raises:
            Broken: an invariant does not hold.
        """
        over_at: list[float] = []

        def over() -> bool:
            if self.timeline.count > EVENTS_MAX:
                raise self._broken([f"more than {EVENTS_MAX} events: it goes in circles"])
            if self._job.phase.is_end and not any(lot.lives for lot in self.cloud.lots):
                over_at[:] = over_at or [self.timeline.at_s + AFTERWARDS_S]
                return self.timeline.at_s >= over_at[0]
            return False

        try:
            self.timeline.run(over)
        except Broken:
            raise
        except Exception as error:
            broken = error.__cause__  # the controller wraps what goes wrong in a turn
            raise broken if isinstance(broken, Broken) else self._broken([repr(error)]) from error
        self._judge(
            (
                *invariant.OF_JOURNAL,
                *invariant.OF_STORE,
                *books.OF_BOOKS,
                *invariant.OF_END,
                *books.OF_BOOKS_AT_THE_END,
                ledger_is_the_bill,
            )
        )
        return Result(
            seed=self.seed,
            phase=self._job.phase.value,
            hours=self.timeline.at_s / 3600,
            interruptions=self._job.interruptions,
            crashes=self.crashes,
            attempts=len(self._job.attempts),
            calls=self.scene.calls,
            digest=self.history.digest if self.keeps else "",
        )

    def _plan(self) -> None:
        """What is to happen in any case."""
        scene, faults = self.scene, self.scene.faults
        self._minds.append(self._mind("one"))
        self.timeline.after(1.0, lambda: self._tick(self._minds[0]))
        if faults.second:
            self._minds.append(self._mind("two"))
            self.timeline.after(scene.up_to(7200.0), lambda: self._tick(self._minds[1]))
        if faults.cut_mean_s:
            self._cut_later()
        if faults.absent_s:
            self.timeline.after(scene.up_to(4 * 3600.0), self._leave)
        if scene.happens(0.12):
            stop_at_s = scene.up_to(4 * 3600.0)
            for again_s in (0.0, *(scene.up_to(300.0) for _ in range(2) if scene.happens(0.3))):
                self.timeline.after(stop_at_s + again_s, self._stop)
        self.timeline.after(CALM_AT_S, self._calm)

    def _calm(self) -> None:
        self.history.add("world", "is calm from now on")
        self.scene.faults = CALM
        self.cloud.down.clear()
        for mind in self._minds:
            mind.actor.cut_until_s.clear()

    def _cut_later(self) -> None:
        """A partition between one actor and one service, again and again."""
        scene = self.scene

        def cut() -> None:
            if not scene.faults.cut_mean_s:
                return
            actors = [mind.actor for mind in self._minds] + [
                machine.actor for machine in self._machines if not machine.actor.dead
            ]
            actor, service = scene.dice.choice(actors), scene.dice.choice(list(Service))
            span_s = scene.up_to(scene.faults.cut_s)
            actor.cut_until_s[service] = self.timeline.at_s + span_s
            self.history.add("world", f"cuts {actor.name} from the {service.value} for {span_s:.0f} s")
            self._cut_later()

        self.timeline.after(scene.dice.expovariate(1 / scene.faults.cut_mean_s), cut)

    def _leave(self) -> None:
        """Nobody runs a controller for a while: the user's computer sleeps."""
        self._absent_until_s = self.timeline.at_s + self.scene.faults.absent_s
        self.history.add("world", f"has no controller for {self.scene.faults.absent_s:.0f} s")
        for mind in self._minds:
            mind.actor.dead, mind.controller = True, None

    def _stop(self) -> None:
        """The user asks for the end, beside the controllers."""
        journal = MemoryJournal(self.kept)
        if not self._job.phase.is_end:
            event = StopRequested(at=max(self._job.at, self.timeline.now()), by="me")
            journal.append(self.job_id, len(self.kept.events[self.job_id]), event)

    def _mind(self, name: str) -> _Mind:
        skew_s = self.scene.faults.skew_s * self.scene.dice.uniform(-1, 1)
        actor = Actor(name=name, clock=SkewedClock(self.timeline, skew_s), is_controller=True)
        return _Mind(actor, SimJournal(self.kept, Crossing(self.scene, actor, Service.JOURNAL)))

    def _tick(self, mind: _Mind) -> None:
        """One look of a controller, which may be its last."""
        if self.timeline.at_s < self._absent_until_s:
            self.timeline.after(self._absent_until_s - self.timeline.at_s, lambda: self._tick(mind))
            return
        mind.actor.dead = False
        if mind.controller is None:
            mind.lives += 1
            owner = f"{mind.actor.name}-{mind.lives}"
            mind.controller = Controller(mind.journal, self._outside(mind.actor), timing=self.timing, owner=owner)
        controller = mind.controller
        try:
            pause_s = controller.tick()
        except Killed:
            self.crashes += 1
            mind.controller = None
            pause_s = self.scene.dice.uniform(*DOWN_S)
        except JournalCorrupt as error:
            raise self._broken([f"{mind.actor.name}: {error}"]) from error
        except LeaseLost:
            pause_s = self.timing.idle_wall_s
        except JournalError:
            pause_s = self.timing.idle_wall_s
        else:
            self._look_for_trouble(controller)
        self.timeline.after(max(1.0, pause_s), lambda: self._tick(mind))

    def _look_for_trouble(self, controller: Controller) -> None:
        for error in controller.trouble.values():
            if isinstance(error, IllegalTransition | JournalCorrupt):
                raise self._broken([str(error)]) from error

    def _outside(self, actor: Actor) -> Outside:
        assert self.terms is not None
        provider = SimProvider(
            self.scene, actor, self.cloud, with_on_demand=self.terms.on_demand_allowed or self.seed % 3 == 0
        )
        return Outside(
            home=Path("/home"),
            connect=lambda spec, *, job_id, submitted_at, clock, workdir: provider,
            open_store=lambda uri, options=None: SimStore(self.scene, actor, self.bucket, f"{uri.rpartition('/')[2]}/"),
            job_clock=lambda spec, submitted_at: actor.clock,
            wall=actor.clock,
            chance=self.scene.dice,
        )

    def _start(self, lot: Lot) -> None:
        assert self.terms is not None
        machine = Machine(self.scene, self.cloud, self.bucket, lot, self.terms.training, self.diary)
        self._machines.append(machine)

    def _called(self, call: Call) -> None:
        if call.what == "launch":
            self.evidence.asked.append((call, len(self.kept.events[self.job_id])))
            if self.scene.happens(HASTY):
                self.timeline.after(self.scene.up_to(200.0), self._stop)

    def _appended(self, event: Event) -> None:
        """Anybody may read the journal at any moment; this is what they are told."""
        try:
            self._job, _ = step(self._job, event)
            check_invariants(self._job)
        except SpotrunError as error:
            raise self._broken([f"{event.kind} made an impossible job: {error}"]) from error
        self.evidence.told.append((self.timeline.now(), self._job.phase.value))
        self.history.add("journal", f"{event.kind} {getattr(event, 'attempt', '')} at {event.at:%H:%M:%S}")

    def _check(self) -> None:
        events, mutations, changes = len(self.evidence.events), len(self.bucket.mutations), self.cloud.changes
        if (events, mutations, changes) == self._seen:
            return self._judge(books.OF_TIME)
        before, self._seen = self._seen, (events, mutations, changes)
        checkers: list[invariant.Checker] = [*books.OF_TIME]
        if not all(isinstance(event, Progressed) for event in self.evidence.events[before[0] :]):
            checkers += invariant.OF_JOURNAL
        if mutations != before[1] and self.evidence.read():
            checkers += invariant.OF_STORE
        if changes != before[2]:
            checkers += books.OF_BOOKS
        return self._judge(checkers)

    def _judge(self, checkers: Iterable[invariant.Checker]) -> None:
        for checker in checkers:
            wrong = list(checker(self.evidence))
            if wrong:
                raise self._broken([f"{checker.__name__}: {sentence}" for sentence in wrong])

    def _broken(self, sentences: list[str]) -> Broken:
        at = self.timeline.now()
        return Broken(
            f"seed {self.seed}, after {self.timeline.count} events, {at:%d %H:%M:%S}: "
            + "; ".join(sentences)
            + f"\nrepeat it with: python -m spotrun.chaos.simulation --seed {self.seed}"
        )


def _timing(poll_s: float) -> Timing:
    """Of controllers that look so often."""
    return Timing(
        attempt_lease_s=600,
        lease_wall_s=400,
        poll_s=poll_s,
        poll_wall_s=1,
        poll_wall_max_s=poll_s,
        idle_wall_s=poll_s,
        wait_wall_max_s=300,
    )


def _terms(dice: random.Random, faults: Faults) -> Terms:
    """A job that trains for about two hours, with limits that are sometimes too tight for it."""
    training = Training(
        steps=dice.randrange(80, 140),
        step_s=dice.choice((60.0, 75.0, 90.0)),
        commit_every=dice.randrange(4, 11),
    )
    work_s = training.steps * training.step_s
    max_run_s = work_s * dice.choice((0.7, 1.3, 1.6, 3.0))
    return Terms(
        training=training,
        submitted_at=EPOCH,
        max_run=timedelta(seconds=round(max_run_s)),
        max_wait=timedelta(seconds=round(max_run_s + dice.choice((0.0, 3600.0, 14400.0, 28800.0)))),
        stall_timeout=timedelta(seconds=dice.choice((900, 1500))),
        on_demand_allowed=dice.random() < 0.3,
        budget_usd=Decimal(dice.choice(("0.20", "0.50", "0.90"))) if dice.random() < 0.25 else None,
        max_restarts=dice.choice((0, 2, 5, 5)),
        slack=timedelta(seconds=2700 + faults.absent_s),
        skew=timedelta(seconds=2 * faults.skew_s + 1),
    )


def _spec(terms: Terms) -> JobSpec:
    limits = {
        "max_run": f"{terms.max_run.total_seconds():g}s",
        "max_wait": f"{terms.max_wait.total_seconds():g}s",
        "stall_timeout": f"{terms.stall_timeout.total_seconds():g}s",
        "on_shortage": "on_demand" if terms.on_demand_allowed else "wait",
        "max_restarts": terms.max_restarts,
    }
    if terms.budget_usd is not None:
        limits["budget_usd"] = str(terms.budget_usd)
    return JobSpec.model_validate(
        {"name": "job", "command": "python train.py", "limits": limits, "checkpoint": {"uri": "memory://runs"}}
    )


def simulate(seed: int, **given: object) -> Result:
    """One world to its end: see `World`.

    Raises:
        Broken: an invariant does not hold.
    """
    return World(seed, **given).run()  # type: ignore[arg-type]
