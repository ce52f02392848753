"""One job, brought step by step to what it should be.

A turn looks at the outside, turns what it sees into events, and carries out what the job then asks for. Each event is in
the journal before anything follows from it; the job acted on is always exactly the fold of the journal. So a turn may
stop anywhere, for good or for a moment, and the next one, in this process or another, goes on from there.

A part of a turn that fails on the provider or the store does not stop the others: a job whose store is down still
honours its limits, a job whose provider is down still renews its leases.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from spotrun.controller.address import checkpoint_uri, open_at, place_uri
from spotrun.controller.bill import Bill
from spotrun.controller.executor import Executor
from spotrun.controller.journal import Journal
from spotrun.controller.lease import Lease
from spotrun.controller.mailbox import Mailbox
from spotrun.controller.outside import JobClock, Outside
from spotrun.controller.placing import leave, look, may_leave, may_move
from spotrun.controller.sighting import Lookout, orphans
from spotrun.controller.stage import Stage, lease_life
from spotrun.controller.timing import Pace, Timing, at_least
from spotrun.errors import JournalConflict, ProviderError, SpecError, SpotrunError, StoreError
from spotrun.job import (
    Action,
    AttemptEnded,
    Event,
    Job,
    Launch,
    Launched,
    LaunchRefused,
    Place,
    RefusalKind,
    Submitted,
    Terminate,
    Ticked,
    check_invariants,
    is_news,
    outstanding,
    step,
    tell,
)
from spotrun.providers.provider import Instance, InstanceState

__all__ = ["Reconciler"]

ROUNDS_MAX = 32  # place, launch, refused, place elsewhere, ...: more pools than that are tried in the next turn
LEAVE_WALL_S = 30.0  # between two looks for another pool, while AWS recommends to leave the present one
CONFLICTS_MAX = 8  # other writers append once in a while; a turn that is overtaken so often waits for the next

_logger = logging.getLogger(__name__)


class Reconciler:
    """One job's share of a controller.

    Attributes:
        seq: number of the last event taken in.
        problems: what went wrong in the last turn.
    """

    def __init__(self, job_id: str, *, journal: Journal, lease: Lease, outside: Outside, timing: Timing) -> None:
        self.job_id = job_id
        self.seq = 0
        self.problems: list[SpotrunError] = []
        self._journal = journal
        self._lease = lease
        self._outside = outside
        self._timing = timing
        self._pace = Pace(clock=outside.wall, chance=outside.chance)
        self._loaded: Job | None = None
        self._job_clock: JobClock | None = None
        self._workdir = ""
        self._bundle = ""
        self._has_turned = False
        self._connected: _Connected | None = None
        self._instances: Sequence[Instance] | None = None  # None: the provider could not be asked
        self._recommended_at: datetime | None = None  # AWS recommended to leave the attempt's machine

    @property
    def job(self) -> Job:
        """As the journal tells it, as far as it was loaded."""
        assert self._loaded is not None, "load comes first"
        return self._loaded

    @property
    def is_quiet(self) -> bool:
        """Whether the job is over and no machine of it is known to live."""
        return self._has_turned and self.job.phase.is_end and not self._living()

    @property
    def is_settled(self) -> bool:
        """Whether it is quiet by the provider's word, for so long that no machine of it can still turn up."""
        asked = self._instances is not None or self._connected is None  # a provider that cannot be opened never answers
        if not self.is_quiet or not asked or self.job.ended_at is None:
            return False
        sweep = at_least(self._clock, self._timing.sweep_s, self._timing.sweep_wall_s)
        return self._clock.now() - self.job.ended_at >= sweep

    def load(self) -> None:
        """Takes in what is new in the journal.

        Raises:
            JournalCorrupt: an event is damaged.
            IllegalTransition: the events tell of something that cannot happen.
        """
        for recorded in self._journal.events(self.job_id, after=self.seq):
            self._loaded, _ = step(self._loaded, recorded.event)
            self.seq = recorded.seq
            if isinstance(recorded.event, Submitted):
                self._workdir = recorded.event.workdir
                self._bundle = json.dumps(recorded.event.bundle) if recorded.event.bundle else ""
                self._job_clock = self._outside.job_clock(self.job.spec, self.job.submitted_at)

    def turn(self) -> float:
        """Looks, records, acts. Returns in how many seconds of wall time the next turn should come.

        Raises:
            LeaseLost: another controller acts on this journal now.
            JournalError: the journal cannot be read or written.
            IllegalTransition: the job is in a state that cannot be.
        """
        for _ in range(CONFLICTS_MAX):
            self.problems = []
            try:
                self.load()
                with self._guarded("connect"):
                    self._connected = self._connected or self._connect()
                if self._connected is None:
                    self._tick(self.job.spent_usd, blind=True)  # its limits hold nevertheless
                else:
                    self._turn(self._connected)
            except JournalConflict:
                continue
            self._has_turned = True
            return self._due_in_s()
        return self._timing.poll_wall_s

    def _connect(self) -> _Connected:
        job, outside = self.job, self._outside
        provider = outside.connect(
            job.spec, job_id=job.id, submitted_at=job.submitted_at, clock=self._clock, workdir=Path(self._workdir)
        )
        stage = Stage(
            provider=provider,
            mailbox=Mailbox(open_at(place_uri(job.spec, job.id, outside.home), job.spec, outside.open_store)),
            clock=self._clock,
            uri=checkpoint_uri(job.spec, outside.home),
            workdir=self._workdir,
            life=lease_life(job.spec, self._clock, self._timing),
            bundle=self._bundle,
        )
        return _Connected(stage, lease=self._lease, outside=outside, timing=self._timing)

    def _turn(self, to: _Connected) -> None:
        self._instances = None
        if self._pace.ready("observe"):
            with self._guarded("observe"):
                self._instances = to.stage.provider.observe(self.job_id)
        blind = not self._look(to)
        spent = self.job.spent_usd
        with self._guarded("prices"):
            spent = to.bill.spent(self.job, self._now())
        self._tick(spent, blind=blind)
        self._consider_moving(to)
        self._act(to)
        with self._guarded("renew"):
            to.executor.renew(self.job, self._now())
        self._sweep(to)

    def _look(self, to: _Connected) -> bool:
        """Journals what is new of the attempt; of one that ended, also what is too small to be news while it runs. False:
        it could not be seen."""
        attempt = self.job.attempt
        if self._instances is None or attempt is None:
            return attempt is None
        seen = to.lookout.look(attempt, self._instances, self._now())
        self._recommended_at = seen.recommended_at
        is_over = any(isinstance(event, AttemptEnded) for event in seen.events)
        for event in seen.events:
            if is_news(self.job, event) or (is_over and self._adds_progress(event)):
                self._record(event)
        with self._guarded("read"):
            if seen.problem is not None:
                raise seen.problem
        return seen.problem is None

    def _adds_progress(self, event: Event) -> bool:
        after, _ = step(self.job, event)
        attempt = self.job.attempt
        return attempt is not None and after.attempt is not None and after.attempt.progress != attempt.progress

    def _consider_moving(self, to: _Connected) -> None:
        """Asks now and then whether the attempt should go on elsewhere: because AWS recommends it, or the policy."""
        if may_leave(self.job, self._recommended_at) and self._pace.ready("leave"):
            with self._guarded("leave", again_in_s=LEAVE_WALL_S):
                event = leave(self.job, to.stage.provider.offers(), self._now())
                if event is not None and is_news(self.job, event):
                    self._record(event)
        if not may_move(self.job) or not self._pace.ready("move"):
            return
        with self._guarded("move", again_in_s=self._look_wall_s()):
            event = self._outside.move(self.job, to.stage.provider.offers(), self._now(), to.polled)
            if event is not None and is_news(self.job, event):
                self._record(event)

    def _act(self, to: _Connected) -> None:
        """Carries out what the job asks for, until it asks for nothing that can be done now."""
        for _ in range(ROUNDS_MAX):
            action = next((it for it in outstanding(self.job) if self._pace.ready(_name(it))), None)
            if action is None:
                return
            if isinstance(action, Launch) and self.job.ending is not None:
                if not self._withdraw(action):
                    return
                continue
            self._lease.ensure()  # many launches take longer than a lease
            pause_s = self._terminate_pause_s() if isinstance(action, Terminate) else 0.0
            with self._guarded(_name(action), again_in_s=pause_s):
                event = to.executor.carry_out(action, self.job, self._now())
                if event is not None:
                    self._record(event)

    def _withdraw(self, launch: Launch) -> bool:
        """Takes back a launch without an answer once the job is ending, rather than pay for a machine that nobody wants. If
        an earlier try did start one it is listed by its token before long; until then nothing is known."""
        ending = self.job.ending
        assert ending is not None, "only of a job that is ending"
        silence = at_least(self._clock, self._timing.missing_s, self._timing.missing_wall_s)
        if self._instances is None or self._now() - ending.since < silence:
            return False
        if any(it.token == launch.token for it in self._instances):
            return False  # a gang whose size is not known yet; it will be taken, and ended
        answer = "none, and no machine of this attempt has appeared; the job was ending, so it was not asked for again"
        refusal = RefusalKind.THROTTLED
        self._record(LaunchRefused(at=self._now(), attempt=launch.attempt, refusal=refusal, answer=answer))
        return True

    def _sweep(self, to: _Connected) -> None:
        """Ends machines of this job that are nobody's."""
        for instance in orphans(self.job, self._instances or (), self._now()):
            if not self._pace.ready(f"terminate {instance.id}"):
                continue
            with self._guarded(f"terminate {instance.id}", again_in_s=self._terminate_pause_s()):
                _logger.warning(
                    "%s: %s of attempt %d is nobody's: ending it", self.job_id, instance.id, instance.attempt
                )
                to.executor.terminate(instance.id)

    def _tick(self, spent_usd: Decimal, *, blind: bool) -> None:
        event = Ticked(at=self._now(), spent_usd=spent_usd, blind=blind)
        if is_news(self.job, event):
            self._record(event)

    def _record(self, event: Event) -> None:
        """Makes the event part of the job: checked, durable, then believed."""
        job, _ = step(self.job, event)
        check_invariants(job)
        self.seq = self._journal.append(self.job_id, self.seq, event, lease_epoch=self._lease.epoch)
        self._loaded = job
        if isinstance(event, Launched):  # where it went was just decided
            self._pace.succeeded("move", again_in_s=self._look_wall_s())
        _logger.info("%s: %s", self.job_id, tell(event))

    @contextmanager
    def _guarded(self, name: str, *, again_in_s: float = 0.0) -> Iterator[None]:
        """Keeps a failure of the provider or the store to this part of the turn, and paces the next try."""
        try:
            yield
        except (ProviderError, StoreError, SpecError) as error:
            self._pace.failed(name)
            self.problems.append(error)
            _logger.warning("%s: %s: %s", self.job_id, name, error)
        else:
            self._pace.succeeded(name, again_in_s=again_in_s)

    def _due_in_s(self) -> float:
        timing, clock = self._timing, self._clock
        if self.job.attempt is not None or self._living():
            return timing.polled_wall_s(clock)
        if any(self._pace.ready(_name(action)) for action in outstanding(self.job)):
            return timing.poll_wall_s
        instants = [] if self.job.phase.is_end else [self.job.deadline, self.job.wait_until]
        now = clock.now()
        waits_s = [clock.wall((instant - now).total_seconds()) for instant in instants if instant is not None]
        return max(0.0, min([timing.wait_wall_max_s, self._pace.wait_s(), *waits_s]))

    def _living(self) -> bool:
        return any(it.state is not InstanceState.ENDED for it in self._instances or ())

    def _look_wall_s(self) -> float:
        return self._clock.wall(look(self.job.spec).total_seconds())

    def _terminate_pause_s(self) -> float:
        return max(self._clock.wall(self._timing.terminate_s), self._timing.terminate_wall_s)

    @property
    def _clock(self) -> JobClock:
        assert self._job_clock is not None, "load comes first"
        return self._job_clock

    def _now(self) -> datetime:
        return max(self._clock.now(), self.job.at)  # a clock that was set back must not reorder the journal


class _Connected:
    """What a job has once its provider and its store could be opened."""

    def __init__(self, stage: Stage, *, lease: Lease, outside: Outside, timing: Timing) -> None:
        self.stage = stage
        self.bill = Bill(stage.provider)
        self.lookout = Lookout(stage.mailbox, clock=stage.clock, timing=timing)
        self.polled = timing.polled(stage.clock)
        self.executor = Executor(stage, lease=lease, place=outside.place, polled=self.polled)


def _name(action: Action) -> str:
    """What the action is, for pacing: the same thing asked for again has the same name."""
    match action:
        case Place():
            return "place"
        case Launch():
            return f"launch {action.attempt}"
        case Terminate():
            return f"terminate {action.instance_id}"
