"""A world for the controller: a virtual clock, a provider with faults, and machines that train by the book.

Nothing here waits. `World.go` calls the controller's tick, lets the virtual time pass that it asked for, and lets every
machine do what it would have done. The provider and the machines keep their own records, which the checks read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

from spotrun.controller import Controller, Journal, Outside, Timing
from spotrun.errors import CapacityRefused, ProviderError, StoreMissing, StoreUnavailable, Throttled
from spotrun.job import (
    Ask,
    Commit,
    Control,
    Event,
    Exit,
    Heartbeat,
    Job,
    JobSpec,
    Outcome,
    Placed,
    Progress,
    TrainingPhase,
    fold,
)
from spotrun.job.message import Place, parse
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.market.source import PriceSource, PriceSources
from spotrun.providers.provider import EndCause, Instance, InstanceState, LaunchRequest
from spotrun.store import BlobStore, MemoryStore

EPOCH = datetime(2026, 3, 1, tzinfo=timezone.utc)
TIMING = Timing(lease_wall_s=300, poll_s=60, poll_wall_s=60, poll_wall_max_s=60, idle_wall_s=60)
PRICE = Decimal("0.30")


class VirtualClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.at_s)

    def monotonic(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += max(0.0, seconds)

    def wall(self, seconds: float) -> float:
        return seconds

    def to_text(self) -> str:
        return "1@0"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Shares of calls that go wrong, and how far."""

    throttled: float = 0.0  # of all calls
    launch_lost: float = 0.0  # launched, and the answer lost
    launch_doubled: float = 0.0  # of lost answers: two machines for one token
    refused: float = 0.0  # of launches, for want of capacity
    invisible_s: float = 0.0  # a new machine is not listed for up to so long
    stale_s: float = 0.0  # an ended machine is listed as alive for up to so long
    mean_up_s: float = 1e15  # until the provider takes a machine back
    without_notice: float = 0.5
    store_down: float = 0.0  # of the controller's reads and writes
    command_fails: float = 0.0  # of attempts


@dataclass
class Machine:
    """An instance, and the training in it."""

    instance: Instance
    first_lease_s: float
    visible_at: datetime
    doomed_at: datetime | None
    notice_at: datetime | None
    fails: bool
    stale_until: datetime | None = None
    step: int = 0
    from_step: int = 0
    began: datetime | None = None
    commits: int = 0
    last_commit: Commit | None = None
    beat: int = 0
    exit: Exit | None = None
    is_duplicate: bool = False
    is_stubborn: bool = False  # does not listen

    @property
    def lives(self) -> bool:
        return self.instance.state is not InstanceState.ENDED


class SimProvider:
    """A provider that keeps its contract, on a bad day. Its `machines` are the truth; `observe` is what it admits."""

    ZONES = ("sim1-az1", "sim1-az2", "sim1-az3")

    def __init__(self, clock: VirtualClock, dice: random.Random, faults: Faults) -> None:
        self.clock = clock
        self.dice = dice
        self.faults = faults
        self.machines: list[Machine] = []
        self.launches: list[tuple[datetime, LaunchRequest]] = []
        self.on_launch: Callable[[LaunchRequest], None] = lambda request: None
        self.before: dict[str, Callable[[], None]] = {}  # method -> what happens, once, before it answers
        self.on_change: Callable[[], None] = lambda: None
        self.terminations: list[str] = []
        self.deaf = 0  # so many requests to end a machine are accepted and not carried out

    def offers(self) -> Sequence[Offer]:
        self._called("offers")
        return [self._offer(zone) for zone in self.ZONES]

    def launch(self, request: LaunchRequest) -> Instance:
        self._called("launch")
        self.on_launch(request)
        self.launches.append((self.clock.now(), request))
        known = next((it for it in self.machines if it.instance.token == request.token), None)
        if known is None:
            if self._happens(self.faults.refused):
                raise CapacityRefused(request.offer.pool, "InsufficientInstanceCapacity")
            known = self._start(request)
            if self._happens(self.faults.launch_lost):
                if self._happens(self.faults.launch_doubled):
                    self._start(request).is_duplicate = True
                raise ProviderError("the answer was lost")
        return known.instance

    def observe(self, job_id: str) -> Sequence[Instance]:
        self._called("observe")
        now = self.clock.now()
        shown = []
        for machine in self.machines:
            if machine.instance.job_id != job_id or machine.visible_at > now:
                continue
            if machine.stale_until is not None and machine.stale_until > now:
                shown.append(replace(machine.instance, state=InstanceState.RUNNING, ended_at=None, end_cause=None))
            else:
                shown.append(machine.instance)
        return shown

    def terminate(self, instance_id: str) -> None:
        self._called("terminate")
        self.terminations.append(instance_id)
        if self.deaf > 0:
            self.deaf -= 1
            return
        for machine in self.machines:
            if machine.instance.id == instance_id and machine.lives:
                self.end(machine, EndCause.TERMINATED)

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        self._called("prices")
        return (PriceStep(at=EPOCH, usd_per_hour=offer.price_usd_per_hour),)

    def sources(self) -> PriceSources:
        told = PriceSource(name="the simulated world", simulated=True)
        return PriceSources(spot=told, on_demand=told)

    def end(self, machine: Machine, cause: EndCause) -> None:
        now = self.clock.now()
        ended = replace(machine.instance, state=InstanceState.ENDED, ended_at=now, end_cause=cause)
        machine.instance = ended
        machine.stale_until = now + timedelta(seconds=self.dice.uniform(0, self.faults.stale_s))
        self.on_change()

    def _start(self, request: LaunchRequest) -> Machine:
        now = self.clock.now()
        doom_s = self.dice.expovariate(1 / self.faults.mean_up_s)
        doomed_at = now + timedelta(seconds=doom_s) if doom_s < 1e9 else None
        noticed = doomed_at is not None and not self._happens(self.faults.without_notice)
        machine = Machine(
            instance=Instance(
                id=f"i-{len(self.machines) + 1}",
                job_id=request.job_id,
                attempt=request.attempt,
                token=request.token,
                pool=request.offer.pool,
                state=InstanceState.PENDING,
                launched_at=now,
            ),
            first_lease_s=float(request.environment["SPOTRUN_LEASE_S"]),
            visible_at=now + timedelta(seconds=self.dice.uniform(0, self.faults.invisible_s)),
            doomed_at=doomed_at,
            notice_at=max(now, doomed_at - timedelta(seconds=120)) if doomed_at is not None and noticed else None,
            fails=self._happens(self.faults.command_fails),
        )
        self.machines.append(machine)
        self.on_change()
        return machine

    def _offer(self, zone: str) -> Offer:
        return Offer(
            provider="sim",
            region="sim1",
            zone=zone,
            instance_type="g5.xlarge",
            market=MarketKind.SPOT,
            price_usd_per_hour=PRICE,
            on_demand_usd_per_hour=Decimal(1),
        )

    def _called(self, method: str) -> None:
        self.before.pop(method, lambda: None)()
        if self._happens(self.faults.throttled):
            raise Throttled("asked too often")

    def _happens(self, share: float) -> bool:
        return self.dice.random() < share


class FlakyStore:
    """The controller's way to the store, which is away at times. The machines have their own."""

    def __init__(self, inner: BlobStore, world: World) -> None:
        self.inner = inner
        self._world = world

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._maybe_down()
        return self.inner.read(key, start, end)

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self._world.before_write.pop(key, lambda: None)()
        self._maybe_down()
        self.inner.write(key, parts)

    def create(self, key: str, data: bytes) -> bool:
        self._maybe_down()
        return self.inner.create(key, data)

    def list(self, prefix: str) -> list[str]:
        self._maybe_down()
        return self.inner.list(prefix)

    def delete(self, key: str) -> None:
        self._maybe_down()
        self.inner.delete(key)

    def _maybe_down(self) -> None:
        if self._world.dice.random() < self._world.faults.store_down:
            raise StoreUnavailable("the store is away")


@dataclass
class World:
    """One journal, one provider, machines, and the controllers that come and go."""

    directory: Path
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    timing: Timing = TIMING
    steps: int = 40  # of the training; one a minute
    commit_every: int = 5

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.dice = random.Random(self.seed)
        self.provider = SimProvider(self.clock, self.dice, self.faults)
        self.stores: dict[str, MemoryStore] = {}  # by URI
        self.journal = Journal(self.directory / "journal.db")
        self.before_write: dict[str, Callable[[], None]] = {}  # key -> what happens, once, before it is written
        self.unplaced: list[LaunchRequest] = []  # launches without a durable intent
        self.provider.on_launch = self._check_intent

    def outside(self) -> Outside:
        """What a controller of this world is given."""
        return Outside(
            home=self.directory,
            connect=lambda spec, *, job_id, submitted_at, clock, workdir: self.provider,
            open_store=lambda uri: FlakyStore(self._store_at(uri), self),
            job_clock=lambda spec, submitted_at: self.clock,
            wall=self.clock,
            chance=self.dice,
        )

    def controller(self, journal: Journal | None = None, *, owner: str | None = None) -> Controller:
        """A controller as if freshly started."""
        return Controller(journal or self.journal, self.outside(), timing=self.timing, owner=owner)

    def submit(self, **limits: object) -> str:
        """A job that trains for `steps` minutes."""
        limits = {"max_run": "4h", "max_wait": "24h", **limits}
        spec = JobSpec.model_validate(
            {"name": "job", "command": "python train.py", "limits": limits, "checkpoint": {"uri": "memory://runs"}}
        )
        return self.journal.submit(spec, at=self.clock.now(), chance=self.dice, workdir="/work")

    def events(self, job_id: str) -> list[Event]:
        """What the journal holds."""
        return [recorded.event for recorded in self.journal.events(job_id)]

    def job(self, job_id: str) -> Job:
        """The fold of it."""
        return fold(self.events(job_id))

    def kinds(self, job_id: str) -> list[str]:
        """The kinds of the events, for stories."""
        return [event.kind for event in self.events(job_id)]

    def living(self) -> list[Machine]:
        """Machines that bill."""
        return [machine for machine in self.provider.machines if machine.lives]

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, in steps small enough for the machines to do what they do."""
        until = self.clock.at_s + seconds
        while self.clock.at_s < until:
            self.clock.at_s = min(until, self.clock.at_s + 30)
            for machine in self.provider.machines:
                if machine.lives:
                    self._live(machine)

    def _check_intent(self, request: LaunchRequest) -> None:
        intents = [event for event in self.events(request.job_id) if isinstance(event, Placed)]
        if not any((it.attempt, it.token) == (request.attempt, request.token) for it in intents):
            self.unplaced.append(request)

    def _live(self, machine: Machine) -> None:
        """What a machine and its agent do until now."""
        now, provider = self.clock.now(), self.provider
        place = Place(machine.instance.attempt)
        if machine.notice_at is not None and now >= machine.notice_at:
            machine.instance = replace(machine.instance, notice_deadline=machine.doomed_at)
        if machine.doomed_at is not None and now >= machine.doomed_at:
            return provider.end(machine, EndCause.INTERRUPTED)
        booted_at = machine.instance.launched_at + timedelta(seconds=60)
        if now < booted_at or machine.is_duplicate:  # a double never gets as far as training: it would be fenced
            return None
        if machine.exit is not None:
            return provider.end(machine, EndCause.EXITED)
        if machine.began is None:
            machine.began = now
            machine.instance = replace(machine.instance, state=InstanceState.RUNNING)
            machine.step = machine.from_step = self.committed(machine.instance.job_id)
        machine.step = min(self.steps, machine.from_step + int((now - machine.began).total_seconds() // 60))
        committed = self.committed(machine.instance.job_id)
        if machine.step >= committed + self.commit_every or (machine.step >= self.steps > committed):
            self._commit(machine, now)
        self._beat(machine, now, place)
        outcome = self._outcome(machine, now, place, booted_at)
        if outcome is not None:
            self._say_last_word(machine, now, place, outcome)
        return None

    def store(self, job_id: str) -> MemoryStore:
        """The store at the place of a job."""
        return self._store_at(f"memory://runs/{job_id}")

    def _store_at(self, uri: str) -> MemoryStore:
        return self.stores.setdefault(uri, MemoryStore())

    def committed(self, job_id: str) -> int:
        """The step of the last commit of a job, as its store has it."""
        keys = self.store(job_id).list("commits/")
        return int(keys[-1].rsplit("/", 1)[1]) if keys else 0

    def _commit(self, machine: Machine, now: datetime) -> None:
        self.store(machine.instance.job_id).write(f"commits/{machine.step:06d}", [b""])
        machine.commits += 1
        machine.last_commit = Commit(step=machine.step, at=now, captured_at=now)

    def _outcome(self, machine: Machine, now: datetime, place: Place, booted_at: datetime) -> Outcome | None:
        control = self._control(self.store(machine.instance.job_id), place)
        until = booted_at + timedelta(seconds=machine.first_lease_s)
        if control is not None and control.attempt == machine.instance.attempt:
            until = max(until, control.lease_until)
            if control.ask is Ask.STOP and not machine.is_stubborn:
                return Outcome.STOPPED
        if now >= until:
            return Outcome.LEASE_EXPIRED
        if machine.fails and machine.step >= machine.from_step + 3:
            return Outcome.FAILED
        return Outcome.COMPLETED if machine.step >= self.steps else None

    def _control(self, store: MemoryStore, place: Place) -> Control | None:
        try:
            return parse(Control, store.read(place.control))
        except StoreMissing:
            return None

    def _progress(self, machine: Machine, now: datetime) -> Progress:
        return Progress(
            phase=TrainingPhase.TRAINING,
            at=now,
            step=machine.step,
            total_steps=self.steps,
            steps_here=machine.step - machine.from_step,
            attached_at=machine.began,
            training_at=machine.began,
            commits=machine.commits,
            last_commit=machine.last_commit,
        )

    def _beat(self, machine: Machine, now: datetime, place: Place) -> None:
        machine.beat += 1
        beat = Heartbeat(
            attempt=machine.instance.attempt, beat=machine.beat, at=now, progress=self._progress(machine, now)
        )
        self.store(machine.instance.job_id).write(place.heartbeat, [beat.to_bytes()])

    def _say_last_word(self, machine: Machine, now: datetime, place: Place, outcome: Outcome) -> None:
        if outcome is Outcome.STOPPED:
            self._commit(machine, now)
        code = {Outcome.COMPLETED: 0, Outcome.STOPPED: 0, Outcome.FAILED: 3}.get(outcome)
        machine.exit = Exit(
            attempt=machine.instance.attempt,
            outcome=outcome,
            at=now,
            exit_code=code,
            tail=("the last line",),
            progress=self._progress(machine, now),
        )
        self.store(machine.instance.job_id).write(place.exit, [machine.exit.to_bytes()])
