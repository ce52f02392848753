"""The fast simulation and the real controller, on the same episodes: the same bill, the same end, to the tick.

Both are given what the other is given: what is up, prices, ages; see `placement_world`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from controller_world import EPOCH
from placement_world import EGRESS_USD_PER_GB, GB, Recording, Stage

from spotrun.controller import Timing
from spotrun.controller.placing import placed
from spotrun.job import Job, MoveDecided, Phase, Placed, Waited, check_invariants
from spotrun.market.offer import Offer
from spotrun.policy import Decision, LaunchOffer, Move, Ruled, Wait, situation
from spotrun.policy.catalogue import RULES, NamedRule
from spotrun.policy.episode import COLUMNS, interpreted
from spotrun.policy.rule import Case
from spotrun.policy.scene import Pool

GAP_S = 600.0
ROUNDS = (
    12  # turns in an instant: see the loss, place, be refused, place, launch, tell; or decide, tell, see the end, ...
)
TICKS = 260
NAMES = ["greedy", "uniform_progress", "slack_reserve", "widening_reserve"]


class Exact(Stage):
    """An episode whose controller looks once a tick and is told exactly what the fast simulation knows."""

    def __init__(self, recording: Recording, rule: NamedRule) -> None:
        case, gang = recording.case, recording.nodes > 1
        deadline = f"{case.deadline_s:g}s"
        limits = {"max_run": deadline, "max_wait": deadline, "on_shortage": "on_demand" if case.may_buy else "wait"}
        spec: dict[str, Any] = {"limits": limits, "checkpoint": {"uri": "s3://runs/x" if gang else "memory://runs"}}
        if gang:
            spec |= {"provider": "ec2", "resources": {"instance_types": ["g5.xlarge"], "nodes": recording.nodes}}
        timing = Timing(poll_s=GAP_S, poll_wall_s=GAP_S, poll_wall_max_s=GAP_S)
        super().__init__(recording, spec, timing, place=self.place, move=self.move)
        self.policy = Ruled(rule=rule, look=timedelta(seconds=GAP_S), lasts=True)

    def decide(self, job: Job, offers: Sequence[Offer], at: datetime) -> Decision:
        case, committed = self.case, self.provider.step
        seen = situation(job, now=at, offers=offers, changeover=timedelta(seconds=case.changeover_s))
        reached = next((machine.reached for machine in self.provider.living()), committed)
        undone = reached - committed if case.interval_s else 0
        exact = {
            "steps_done": reached,
            "steps_total": self.steps,
            "steps_per_s": 1.0,
            "rate_margin": 1.0,
            "undone": timedelta(seconds=undone),
            "interval": timedelta(seconds=case.interval_s),
            "saves": True,
            "state_bytes": round(case.moving_price / EGRESS_USD_PER_GB * GB),
        }
        return self.policy.decide(replace(seen, **exact))  # type: ignore[arg-type]

    def place(self, job: Job, offers: Sequence[Offer], at: datetime, polled: timedelta) -> Placed | Waited:
        decision = self.decide(job, offers, at)
        if isinstance(decision, Wait):
            return Waited(at=at, until=at + timedelta(seconds=GAP_S), reason=decision.reason)
        assert isinstance(decision, LaunchOffer)
        return placed(job, decision.offer, at, reason=decision.reason)

    def move(self, job: Job, offers: Sequence[Offer], at: datetime, polled: timedelta) -> MoveDecided | None:
        decision = self.decide(job, offers, at)
        if not isinstance(decision, Move):
            return None
        number, offer = len(job.attempts), decision.offer
        return MoveDecided(at=at, attempt=number, pool=offer.pool, market=offer.market.value, reason=decision.reason)

    def play(self) -> Job:
        """To the end of the job."""
        while True:
            for _ in range(ROUNDS):
                before = self.reconciler.seq
                self.reconciler.turn()
                assert self.reconciler.problems == []
                check_invariants(self.job)
                self.listen()
                if self.reconciler.seq == before:
                    break
            if self.job.phase.is_end:
                return self.job
            self.go(GAP_S)


def runs(dice: np.random.Generator, share: float) -> np.ndarray:
    """Capacity that comes and goes."""
    return np.resize(np.repeat(dice.random(TICKS) < share, dice.integers(1, 9, TICKS)), TICKS)


def prices(dice: np.random.Generator, *choices: float) -> np.ndarray:
    """Prices that hold for hours. Binary fractions: dollars of the controller are decimal, those of the simulation floats."""
    return np.resize(np.repeat(dice.choice(choices, TICKS), dice.integers(3, 25, TICKS)), TICKS)


def case(dice: np.random.Generator, changeover_s: float, **more: Any) -> Case:
    slack_s = float(dice.choice([600, 3600, 7200, 4 * 3600]))
    work_s = float(more.pop("work_s", 4 * 3600.0))
    return Case(
        work_s=work_s,
        deadline_s=work_s + changeover_s + slack_s,
        changeover_s=changeover_s,
        **{"on_demand_price": 3.0, **more},
    )


def one_zone(dice: np.random.Generator) -> Recording:
    """At one price, without lost work."""
    return Recording(gap_s=GAP_S, pools=(Pool(up=runs(dice, 0.55)),), case=case(dice, float(dice.choice([300, 900]))))


def several_zones(dice: np.random.Generator) -> Recording:
    """Three zones whose prices move, so that a job on spot moves to cheaper spot."""
    pools = tuple(Pool(up=runs(dice, 0.8), price=prices(dice, 0.25, 0.5, 1.0, 2.0)) for _ in range(3))
    return Recording(gap_s=GAP_S, pools=pools, case=case(dice, 300.0, work_s=9 * 3600.0))


def lost_work(dice: np.random.Generator) -> Recording:
    """Checkpoints every half hour; some losses are announced; starts take a third, two thirds or all of their bound."""
    pools = tuple(
        Pool(up=runs(dice, 0.6), price=prices(dice, 0.5, 1.0), noticed=dice.random(TICKS) < 0.5) for _ in range(2)
    )
    delay = dice.choice([300 / 900, 600 / 900, 1.0], TICKS)
    return Recording(gap_s=GAP_S, pools=pools, case=case(dice, 900.0, interval_s=1800.0), delay=delay)


def gang(dice: np.random.Generator) -> Recording:
    """Four machines, all or none, in zones that have two to six of them."""
    counts = [np.resize(np.repeat(dice.integers(2, 7, TICKS), dice.integers(1, 9, TICKS)), TICKS) for _ in range(2)]
    pools = tuple(Pool(up=count >= 4, price=prices(dice, 0.5, 0.75)) for count in counts)
    return Recording(gap_s=GAP_S, pools=pools, case=case(dice, 300.0, interval_s=1200.0), nodes=4)


def closed_zones(dice: np.random.Generator) -> Recording:
    """Zones that keep what runs and start nothing, for a while; offers tell so."""
    pools = tuple(Pool(up=runs(dice, 0.7), opened=dice.random(TICKS) < 0.5) for _ in range(2))
    return Recording(gap_s=GAP_S, pools=pools, case=case(dice, 300.0))


STORIES = [one_zone, several_zones, lost_work, gang, closed_zones]


def refusals(dice: np.random.Generator) -> Recording:
    """The same, and only a launch tells."""
    return replace(closed_zones(dice), tells=False)


def spot_only(dice: np.random.Generator) -> Recording:
    """On-demand is never bought; the state is brought from region to region for a dollar."""
    recording = several_zones(dice)
    case = recording.case
    whole_s = case.deadline_s // GAP_S * GAP_S  # its end is seen at a tick
    return replace(recording, case=case._replace(may_buy=False, moving_price=1.0, deadline_s=whole_s))


def agree(recording: Recording, name: str) -> tuple[Exact, dict[str, float]]:
    """Plays it twice and compares."""
    rule, whole = RULES[name], recording.whole_case
    row = interpreted(rule.rule)(recording.scene, np.array([recording.start]), whole, rule.constants(whole))[0]
    fast = dict(zip(COLUMNS, row.tolist(), strict=True))
    stage = Exact(recording, rule)
    job = stage.play()
    ends = [machine.instance.ended_at for machine in stage.provider.machines]
    assert (job.phase is Phase.COMPLETED) == (fast["late"] == 0), job.cause
    assert stage.cost() == pytest.approx(fast["cost"])
    if fast["late"] == 0:
        assert (max(at for at in ends if at is not None) - EPOCH).total_seconds() == fast["finish_s"]
    assert len(stage.provider.machines) == fast["changeovers"]
    assert job.interruptions == fast["interruptions"]
    assert sum(it.moving_to.endswith("/spot") for it in job.attempts if it.market == "spot") == fast["moves"]
    return stage, fast


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("story", STORIES)
def test_the_fast_simulation_is_the_controller_to_the_tick(
    story: Callable[[np.random.Generator], Recording], name: str
) -> None:
    """Random markets, loose and tight deadlines: the bill, the end, the machines, the losses and the moves are the same."""
    dice = np.random.default_rng(7)
    late = 0.0
    for _ in range(2):
        recording = replace(story(dice), start=int(dice.integers(0, 100)))
        _, fast = agree(recording, name)
        late += fast["late"]
    assert late == 0


def test_they_agree_where_only_a_launch_tells_what_can_be_had() -> None:
    """Refused, the controller tries the next pool in the same instant, and ends where the simulation is at once."""
    dice = np.random.default_rng(3)
    refused = 0
    for _ in range(3):
        stage, _ = agree(replace(refusals(dice), start=int(dice.integers(0, 100))), "greedy")
        refused += sum(attempt.launched_at is None for attempt in stage.job.attempts)
    assert refused > 0


def test_they_agree_on_a_job_that_waits_for_spot() -> None:
    """Late or not; moves between regions are paid for."""
    dice = np.random.default_rng(5)
    told = [agree(replace(spot_only(dice), start=int(dice.integers(0, 100))), "widening_reserve") for _ in range(4)]
    assert all(machine.is_spot for stage, _ in told for machine in stage.provider.machines)


def test_the_stories_hold_what_they_are_told_for() -> None:
    """Moves to cheaper spot, moves between markets, losses of work and machines: none of it is missing."""
    dice = np.random.default_rng(11)
    seen = dict.fromkeys(("moves", "lost_s", "interruptions", "on_demand_s"), 0.0)
    back = 0
    for number, story in enumerate((several_zones, several_zones, lost_work, lost_work, lost_work, lost_work, gang)):
        stage, fast = agree(replace(story(dice), start=number), "slack_reserve")
        seen = {key: value + fast[key] for key, value in seen.items()}
        back += sum(it.market == "on_demand" and it.moving_to.endswith("/spot") for it in stage.job.attempts)
    assert min(seen.values()) > 0
    assert back > 0
