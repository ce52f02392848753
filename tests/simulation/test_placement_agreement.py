"""The fast simulation and the real controller, on the same episodes: the same bill, the same end, to the tick.

The controller's own reconciler, journal and core run under a virtual clock against a provider that replays a trace, with
machines that start in a changeover, make a step a minute, commit each of them, and save at once when they are asked to.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from controller_world import EPOCH, VirtualClock

from spotrun.controller import Journal, Outside, Timing
from spotrun.controller.lease import Lease
from spotrun.controller.placing import placed
from spotrun.controller.reconcile import Reconciler
from spotrun.job import (
    Ask,
    Commit,
    Control,
    Exit,
    Heartbeat,
    Job,
    JobSpec,
    MoveDecided,
    Outcome,
    Placed,
    Progress,
    TrainingPhase,
    Waited,
    check_invariants,
)
from spotrun.job.message import Place, parse
from spotrun.market.offer import MarketKind, Offer, PriceStep
from spotrun.policy import Decision, LaunchOffer, Move, Ruled, Wait, situation
from spotrun.policy.catalogue import RULES, NamedRule
from spotrun.policy.episode import COLUMNS, interpreted
from spotrun.policy.rule import Case
from spotrun.policy.scene import Pool, make_scene
from spotrun.providers.provider import EndCause, Instance, InstanceState, LaunchRequest
from spotrun.store import MemoryStore

GAP_S = 600.0
ROUNDS = 8  # turns in an instant: see the loss, place, launch, tell; or decide, tell, see the end, place, launch


@dataclass
class Machine:
    instance: Instance
    market: MarketKind
    from_step: int
    beat: int = 0
    over: bool = False


class Replay:
    """A provider with one spot zone that replays a trace, and on-demand; knows what is up. Implements Provider."""

    def __init__(self, clock: VirtualClock, up: Sequence[bool], start: int) -> None:
        self.clock, self.up, self.start = clock, up, start
        self.machines: list[Machine] = []
        self.step = 0  # committed

    @property
    def tick(self) -> int:
        return self.start + int(self.clock.at_s // GAP_S)

    def offers(self) -> Sequence[Offer]:
        begin = self.tick
        while begin > 0 and self.up[begin - 1] == self.up[self.tick]:
            begin -= 1
        since = EPOCH + timedelta(seconds=(begin - self.start) * GAP_S)
        common = {
            "provider": "sim",
            "region": "sim1",
            "zone": "z",
            "instance_type": "g5.xlarge",
            "on_demand_usd_per_hour": Decimal(3),
        }
        return (
            Offer(market=MarketKind.SPOT, price_usd_per_hour=Decimal(1), up=self.up[self.tick], since=since, **common),
            Offer(market=MarketKind.ON_DEMAND, price_usd_per_hour=Decimal(3), **common),
        )

    def launch(self, request: LaunchRequest) -> Instance:
        assert request.offer.market is MarketKind.ON_DEMAND or self.up[self.tick], "spot is not there"
        instance = Instance(
            id=f"i-{len(self.machines)}",
            job_id=request.job_id,
            attempt=request.attempt,
            token=request.token,
            pool=request.offer.pool,
            state=InstanceState.PENDING,
            launched_at=self.clock.now(),
        )
        self.machines.append(Machine(instance=instance, market=request.offer.market, from_step=self.step))
        return instance

    def observe(self, job_id: str) -> Sequence[Instance]:
        return [machine.instance for machine in self.machines]

    def terminate(self, instance_id: str) -> None:
        raise AssertionError("every machine ends by itself")

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        return (PriceStep(at=EPOCH - timedelta(days=9), usd_per_hour=offer.price_usd_per_hour),)

    def end(self, machine: Machine, cause: EndCause, at: datetime) -> None:
        machine.over = True
        machine.instance = replace(machine.instance, state=InstanceState.ENDED, ended_at=at, end_cause=cause)


class Stage:
    """One episode in the real controller."""

    def __init__(self, directory: Path, up: Sequence[bool], start: int, case: Case, rule: NamedRule) -> None:
        self.case, self.clock, self.store = case, VirtualClock(), MemoryStore()
        self.steps = round(case.work_s / 60)
        self.policy = Ruled(rule=rule, look=timedelta(seconds=GAP_S))
        self.provider = Replay(self.clock, up, start)
        chance, journal = random.Random(0), Journal(directory / "journal.db")
        limits = {"max_run": f"{case.deadline_s:g}s", "max_wait": f"{case.deadline_s:g}s", "on_shortage": "on_demand"}
        spec = JobSpec.model_validate(
            {"name": "job", "command": "x", "limits": limits, "checkpoint": {"uri": "memory://runs"}}
        )
        job_id = journal.submit(spec, at=self.clock.now(), chance=chance, workdir="/work")
        outside = Outside(
            home=directory,
            connect=lambda spec, *, job_id, submitted_at, clock, workdir: self.provider,
            open_store=lambda uri, options=None: self.store,
            job_clock=lambda spec, submitted_at: self.clock,
            wall=self.clock,
            chance=chance,
            place=self.place,
            move=self.move,
        )
        lease = Lease(journal, owner="one", clock=self.clock, ttl_s=1e9)
        lease.ensure()
        self.reconciler = Reconciler(job_id, journal=journal, lease=lease, outside=outside, timing=Timing())

    def decide(self, job: Job, offers: Sequence[Offer], at: datetime) -> Decision:
        seen = situation(job, now=at, offers=offers, changeover=timedelta(seconds=self.case.changeover_s))
        exact = {"steps_done": self.provider.step, "steps_total": self.steps, "steps_per_s": 1 / 60}
        return self.policy.decide(replace(seen, rate_margin=1.0, interval=timedelta(0), **exact))

    def place(self, job: Job, offers: Sequence[Offer], at: datetime) -> Placed | Waited:
        decision = self.decide(job, offers, at)
        if isinstance(decision, Wait):
            return Waited(at=at, until=at + timedelta(seconds=GAP_S), reason=decision.reason)
        assert isinstance(decision, LaunchOffer)
        return placed(job, decision.offer, at, reason=decision.reason)

    def move(self, job: Job, offers: Sequence[Offer], at: datetime) -> MoveDecided | None:
        decision = self.decide(job, offers, at)
        if not isinstance(decision, Move):
            return None
        number, offer = len(job.attempts), decision.offer
        return MoveDecided(at=at, attempt=number, pool=offer.pool, market=offer.market.value, reason=decision.reason)

    def play(self) -> Job:
        """To the end of the job."""
        while True:
            for machine in self.provider.machines:
                if not machine.over and machine.market is MarketKind.SPOT and not self.provider.up[self.provider.tick]:
                    self.provider.end(machine, EndCause.INTERRUPTED, self.clock.now())
            for _ in range(ROUNDS):
                self.reconciler.turn()
                assert self.reconciler.problems == []
                check_invariants(self.reconciler.job)
                self._listen()
            if self.reconciler.job.phase.is_end:
                return self.reconciler.job
            self.clock.at_s += GAP_S
            for machine in self.provider.machines:
                if not machine.over:
                    self._train(machine)

    def _listen(self) -> None:
        for machine in self.provider.machines:
            place = Place(machine.instance.attempt)
            control = parse(Control, self.store.read(place.control))
            if not machine.over and control is not None and control.ask is Ask.STOP:
                self._say(machine, Outcome.STOPPED, self.clock.now())

    def _train(self, machine: Machine) -> None:
        """What it did until now: a step a minute, each committed."""
        begun = machine.instance.launched_at + timedelta(seconds=self.case.changeover_s)
        done = int((self.clock.now() - begun).total_seconds() // 60)
        self.provider.step = max(self.provider.step, min(self.steps, machine.from_step + max(0, done)))
        if done >= 0:
            machine.beat += 1
            beat = Heartbeat(
                attempt=machine.instance.attempt,
                beat=machine.beat,
                at=self.clock.now(),
                progress=self._progress(begun),
            )
            self.store.write(Place(machine.instance.attempt).heartbeat, [beat.to_bytes()])
        if self.provider.step >= self.steps:
            self._say(machine, Outcome.COMPLETED, begun + timedelta(minutes=self.steps - machine.from_step))

    def _progress(self, begun: datetime) -> Progress:
        now, step = self.clock.now(), self.provider.step
        return Progress(
            phase=TrainingPhase.TRAINING,
            at=now,
            step=step,
            total_steps=self.steps,
            training_at=begun,
            commits=step,
            last_commit=Commit(step=step, at=now, captured_at=now) if step else None,
        )

    def _say(self, machine: Machine, outcome: Outcome, at: datetime) -> None:
        attempt = machine.instance.attempt
        said = Exit(attempt=attempt, outcome=outcome, at=at, exit_code=0)
        self.store.write(Place(attempt).exit, [said.to_bytes()])
        self.provider.end(machine, EndCause.EXITED, at)


@pytest.mark.parametrize("name", ["greedy", "uniform_progress", "slack_reserve", "widening_reserve"])
@pytest.mark.parametrize("changeover_s", [300.0, 900.0])
def test_the_fast_simulation_is_the_controller_to_the_tick(tmp_path: Path, name: str, changeover_s: float) -> None:
    """Random traces, loose and tight deadlines: the bill, the end, the machines and the losses are the same."""
    dice = np.random.default_rng(int(changeover_s))
    moves = 0
    for episode in range(2):
        up = np.repeat(dice.random(60) < 0.55, dice.integers(1, 9, 60))
        deadline_s = 4 * 3600.0 + changeover_s + float(dice.choice([600, 3600, 7200]))
        case = Case(work_s=4 * 3600.0, deadline_s=deadline_s, changeover_s=changeover_s, on_demand_price=3.0)
        start = int(dice.integers(0, 50))
        rule = RULES[name]
        scene = make_scene([Pool(up=up)], gap_s=GAP_S)
        row = interpreted(rule.rule)(scene, np.array([start]), case, rule.constants(case))[0]
        fast = dict(zip(COLUMNS, row.tolist(), strict=True))

        directory = tmp_path / str(episode)
        directory.mkdir()
        stage = Stage(directory, up.tolist(), start, case, rule)
        job = stage.play()
        machines = [machine.instance for machine in stage.provider.machines]
        hours = dict.fromkeys(MarketKind, 0.0)
        for machine in stage.provider.machines:
            ended_at = machine.instance.ended_at
            assert ended_at is not None
            hours[machine.market] += (ended_at - machine.instance.launched_at).total_seconds() / 3600
        assert job.cause == ""
        assert hours[MarketKind.SPOT] + 3 * hours[MarketKind.ON_DEMAND] == pytest.approx(fast["cost"])
        assert (max(it.ended_at for it in machines if it.ended_at) - EPOCH).total_seconds() == fast["finish_s"]
        assert len(machines) == fast["changeovers"]
        assert job.interruptions == fast["interruptions"]
        assert fast["late"] == 0
        moves += sum(bool(attempt.moving_to) for attempt in job.attempts)
    assert moves > 0 or name == "greedy", "no episode in which a machine was given up proves nothing about moves"
