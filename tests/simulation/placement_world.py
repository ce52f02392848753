"""A market that is known beforehand, for the real controller and for the fast simulation: the same pools, the same case.

The controller's own reconciler, journal and core run under a virtual clock against a provider that replays the pools, with
machines that start in a changeover, make a step a second, commit every `interval_s` of work, and save at once when they
are asked to.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from controller_world import EPOCH, VirtualClock

from spotrun.controller import Outside, Timing
from spotrun.controller.journal import Recorded
from spotrun.controller.reconcile import Reconciler
from spotrun.errors import CapacityRefused
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
    Progress,
    Submitted,
    TrainingPhase,
    decode,
    encode,
)
from spotrun.job.message import Place, parse
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.policy.episode import Scene
from spotrun.policy.rule import Case
from spotrun.policy.scene import Pool, make_scene
from spotrun.policy.zone import UNKNOWN_AVAILABILITY
from spotrun.providers.provider import EndCause, Instance, InstanceState, LaunchRequest
from spotrun.store import MemoryStore

GB = 10**9
EGRESS_USD_PER_GB = 0.02  # as the policy has it


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Pools over ticks, and a job in them.

    Attributes:
        case: prices in it are of one machine.
        start: the tick at which the job begins.
        nodes: of a gang.
        delay: by tick, the share of the changeover that a start really takes.
        tells: whether offers tell what a launch would be answered; if not they tell what is kept, and a launch may be
            refused.
        is_cloud: whether offers tell nothing.
    """

    gap_s: float
    pools: tuple[Pool, ...]
    case: Case
    start: int = 0
    nodes: int = 1
    delay: np.ndarray | None = None
    tells: bool = True
    is_cloud: bool = False

    @property
    def scene(self) -> Scene:
        """The same for the fast simulation, at the prices of all nodes."""
        return make_scene(
            [replace(pool, price=np.asarray(pool.price) * self.nodes) for pool in self.pools],
            gap_s=self.gap_s,
            changeover_s=self.case.changeover_s,
            moving_price=self.case.moving_price,
            availability=UNKNOWN_AVAILABILITY,
            delay=self.delay,
        )

    @property
    def whole_case(self) -> Case:
        """The case at the prices of all nodes."""
        return self.case._replace(on_demand_price=self.case.on_demand_price * self.nodes)

    def tick(self, at_s: float) -> int:
        """The tick at so many seconds after the job's begin."""
        return self.start + int(at_s // self.gap_s)

    def up(self, zone: int, tick: int) -> bool:
        """Whether a machine that runs is kept."""
        return bool(self.pools[zone].up[tick])

    def opened(self, zone: int, tick: int) -> bool:
        """Whether a launch is answered with a machine."""
        opened = self.pools[zone].opened
        return self.up(zone, tick) and (opened is None or bool(opened[tick]))

    def noticed(self, zone: int, tick: int) -> bool:
        """Whether a loss at the start of the tick was announced."""
        noticed = self.pools[zone].noticed
        return noticed is not None and bool(noticed[tick])

    def price(self, zone: int, tick: int) -> float:
        """Of one machine."""
        return float(np.broadcast_to(np.asarray(self.pools[zone].price), (len(self.pools[zone].up),))[tick])

    def since_s(self, zone: int, tick: int) -> float:
        """When the run of the tick began, in seconds after the job's begin."""
        begin = tick
        while begin > 0 and self.up(zone, begin - 1) == self.up(zone, tick):
            begin -= 1
        return (begin - self.start) * self.gap_s


@dataclass
class Machine:
    instance: Instance
    zone: int  # -1: on demand
    from_step: int
    start_s: float
    beat: int = 0
    reached: int = 0  # steps that it has made of the whole run
    over: bool = False

    @property
    def is_spot(self) -> bool:
        return self.zone >= 0


class Replay:
    """A provider that replays a recording. Implements Provider."""

    def __init__(self, clock: VirtualClock, recording: Recording) -> None:
        self.clock, self.recording = clock, recording
        self.machines: list[Machine] = []
        self.step = 0  # committed

    @property
    def tick(self) -> int:
        return self.recording.tick(self.clock.at_s)

    def offers(self) -> Sequence[Offer]:
        spots = [self._spot(zone) for zone in range(len(self.recording.pools))]
        return (*spots, self._offer(0, MarketKind.ON_DEMAND, self.recording.case.on_demand_price))

    def launch(self, request: LaunchRequest) -> Instance:
        zone = int(request.offer.zone.removeprefix("z"))
        is_spot = request.offer.market is MarketKind.SPOT
        if is_spot and not self.recording.opened(zone, self.tick):
            raise CapacityRefused(request.offer.pool, "InsufficientInstanceCapacity")
        number, delay = len(self.machines), self.recording.delay
        instance = Instance(
            id=f"i-{number}",
            job_id=request.job_id,
            attempt=request.attempt,
            token=request.token,
            pool=request.offer.pool,
            state=InstanceState.PENDING,
            launched_at=self.clock.now(),
            members=tuple(f"i-{number}-{node}" for node in range(self.recording.nodes))
            if self.recording.nodes > 1
            else (),
        )
        start_s = self.recording.case.changeover_s * (1.0 if delay is None else float(delay[self.tick]))
        self.machines.append(
            Machine(
                instance=instance,
                zone=zone if is_spot else -1,
                from_step=self.step,
                start_s=start_s,
                reached=self.step,
            )
        )
        return instance

    def observe(self, job_id: str) -> Sequence[Instance]:
        return [machine.instance for machine in self.machines]

    def terminate(self, instance_id: str) -> None:
        raise AssertionError("every machine ends by itself")

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        return (PriceStep(at=EPOCH - timedelta(days=99), usd_per_hour=offer.price_usd_per_hour),)

    def end(self, machine: Machine, cause: EndCause, at: datetime) -> None:
        machine.over = True
        machine.instance = replace(machine.instance, state=InstanceState.ENDED, ended_at=at, end_cause=cause)

    def living(self) -> Iterator[Machine]:
        return (machine for machine in self.machines if not machine.over)

    def _spot(self, zone: int) -> Offer:
        recording, tick = self.recording, self.tick
        offer = self._offer(zone, MarketKind.SPOT, recording.price(zone, tick))
        if recording.is_cloud:
            return offer
        up = recording.opened(zone, tick) if recording.tells else recording.up(zone, tick)
        since_s = recording.since_s(zone, tick) if up == recording.up(zone, tick) else self.clock.at_s
        return replace(offer, up=up, since=EPOCH + timedelta(seconds=since_s))

    def _offer(self, zone: int, market: MarketKind, price: float) -> Offer:
        return Offer(
            provider="sim",
            region=f"r{zone}",
            zone=f"z{zone}",
            instance_type="g5.xlarge",
            market=market,
            price_usd_per_hour=Decimal(str(price)),
            on_demand_usd_per_hour=Decimal(str(self.recording.case.on_demand_price)),
        )


class Notes:
    """A journal in memory, of one controller that nobody takes over from: not what is tried here, and fast."""

    epoch = 1

    def __init__(self, spec: JobSpec, at: datetime) -> None:
        self.events_so_far: list[Event] = [Submitted(at=at, job_id="job-1", spec=spec.to_json(), workdir="/work")]

    def events(self, job_id: str, after: int = 0) -> list[Recorded]:
        return [Recorded(seq=seq, event=event) for seq, event in enumerate(self.events_so_far[after:], start=after + 1)]

    def append(self, job_id: str, expected_seq: int, event: Event, *, lease_epoch: int | None = None) -> int:
        assert expected_seq == len(self.events_so_far)
        self.events_so_far.append(decode(encode(event)))
        return len(self.events_so_far)

    def ensure(self) -> None:
        """The lease is held."""

    check = ensure


class Stage:
    """A job of a recording in the real controller; `go` lets time pass.

    Args:
        more: what of `Outside` differs from the real one.
    """

    def __init__(self, recording: Recording, spec: dict[str, Any], timing: Timing, **more: Any) -> None:
        self.recording, self.case = recording, recording.case
        self.clock, self.store = VirtualClock(), MemoryStore()
        self.steps = round(self.case.work_s)
        self.provider = Replay(self.clock, recording)
        self.journal = Notes(JobSpec.model_validate({"name": "job", "command": "x"} | spec), self.clock.now())
        outside = Outside(
            home=Path("/nowhere"),
            connect=lambda spec, *, job_id, submitted_at, clock, workdir: self.provider,
            open_store=lambda uri, options=None: self.store,
            job_clock=lambda spec, submitted_at: self.clock,
            wall=self.clock,
            chance=random.Random(0),
            **more,
        )
        journal: Any = self.journal
        self.reconciler = Reconciler("job-1", journal=journal, lease=journal, outside=outside, timing=timing)

    @property
    def job(self) -> Job:
        return self.reconciler.job

    def go(self, seconds: float) -> None:
        """Lets time pass, tick by tick of the recording: machines train, end, and are lost at the start of a tick."""
        until_s, gap_s = self.clock.at_s + seconds, self.recording.gap_s
        while self.clock.at_s < until_s:
            boundary_s = (self.clock.at_s // gap_s + 1) * gap_s
            self.clock.at_s = min(until_s, boundary_s)
            for machine in self.provider.living():
                self._train(machine)
            for machine in self.provider.living():
                if machine.is_spot and not self.recording.up(machine.zone, self.provider.tick):
                    self._lose(machine)

    def listen(self) -> None:
        """Machines that are asked to save and end do so."""
        for machine in list(self.provider.living()):
            control = parse(Control, self.store.read(Place(machine.instance.attempt).control))
            if control is not None and control.ask is Ask.STOP:
                self.provider.step = machine.reached
                self._say(machine, Outcome.STOPPED, self.clock.now())

    def _lose(self, machine: Machine) -> None:
        if self.recording.noticed(machine.zone, self.provider.tick):
            self.provider.step = machine.reached
            self._beat(machine)
        self.provider.end(machine, EndCause.INTERRUPTED, self.clock.now())

    def _train(self, machine: Machine) -> None:
        """What it did until now."""
        begun = machine.instance.launched_at + timedelta(seconds=machine.start_s)
        done = int((self.clock.now() - begun).total_seconds())
        if done < 0:
            return
        machine.reached = min(self.steps, machine.from_step + done)
        whole = self.case.interval_s or 1.0
        kept = machine.from_step + int((machine.reached - machine.from_step) // whole * whole)
        self.provider.step = max(self.provider.step, self.steps if machine.reached == self.steps else kept)
        self._beat(machine)
        if machine.reached >= self.steps:
            self._say(machine, Outcome.COMPLETED, begun + timedelta(seconds=self.steps - machine.from_step))

    def _beat(self, machine: Machine) -> None:
        machine.beat += 1
        attempt = machine.instance.attempt
        begun = machine.instance.launched_at + timedelta(seconds=machine.start_s)
        beat = Heartbeat(
            attempt=attempt, beat=machine.beat, at=self.clock.now(), progress=self._progress(machine, begun)
        )
        self.store.write(Place(attempt).heartbeat, [beat.to_bytes()])

    def _progress(self, machine: Machine, begun: datetime) -> Progress:
        now, step = self.clock.now(), self.provider.step
        commit = Commit(step=step, at=now, captured_at=now, size_bytes=10 * GB)
        return Progress(
            phase=TrainingPhase.TRAINING,
            at=now,
            step=machine.reached,
            total_steps=self.steps,
            steps_per_s=1.0,
            resumed_from=machine.from_step or None,
            training_at=begun,
            commits=step,
            last_commit=commit if step > machine.from_step else None,
        )

    def _say(self, machine: Machine, outcome: Outcome, at: datetime) -> None:
        attempt = machine.instance.attempt
        said = Exit(attempt=attempt, outcome=outcome, at=at, exit_code=0)
        self.store.write(Place(attempt).exit, [said.to_bytes()])
        self.provider.end(machine, EndCause.EXITED, at)

    def cost(self) -> float:
        """What all machines cost, second by second at the prices that held, and the moves between zones."""
        total, last = 0.0, -1
        for machine in self.provider.machines:
            ended_at = machine.instance.ended_at
            assert ended_at is not None
            total += self._bill(
                machine, (machine.instance.launched_at - EPOCH).total_seconds(), (ended_at - EPOCH).total_seconds()
            )
            if machine.is_spot:
                total += self.case.moving_price if last not in (-1, machine.zone) else 0.0
                last = machine.zone
        return total

    def _bill(self, machine: Machine, begin_s: float, end_s: float) -> float:
        total, gap_s = 0.0, self.recording.gap_s
        while begin_s < end_s:
            until_s = min(end_s, (begin_s // gap_s + 1) * gap_s)
            tick = self.recording.tick(begin_s)
            price = self.recording.price(machine.zone, tick) if machine.is_spot else self.case.on_demand_price
            total += (until_s - begin_s) / 3600 * price * self.recording.nodes
            begin_s = until_s
        return total
