"""`max_wait` is a promise: the policy as the controller asks it, against capacity that refuses, vanishes and comes back.

Unlike in the simulated episodes, nothing tells here what is up: the policy tries, is refused, and remembers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotrun.job import Limits, Refusal, RefusalKind
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy import Interruption, LaunchOffer, Move, Running, Situation, Stay, Wait, placement

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
LOOK = timedelta(seconds=60)
DECISIONS_MAX = 5000


def offer(zone: str, market: MarketKind) -> Offer:
    return Offer(
        provider="sim",
        region="r",
        zone=zone,
        instance_type="t",
        market=market,
        price_usd_per_hour=Decimal(1 if market is MarketKind.SPOT else 3),
        on_demand_usd_per_hour=Decimal(3),
    )


OFFERS = (offer("a", MarketKind.SPOT), offer("b", MarketKind.SPOT), offer("a", MarketKind.ON_DEMAND))


@dataclass
class Play:
    """A job against capacity. Times in seconds after the submission, work as well: a step a second.

    Attributes:
        losses: by zone, the instants at which spot comes and goes, in turn; it is up first.
        dear: by zone, the hours after the submission in which it costs twice as much.
        stop_s, start_s: what a save before a move and a start really take; together no more than the bound.
    """

    limits: Limits
    work_s: float
    changeover_s: float
    interval_s: float
    stop_s: float
    start_s: float
    losses: dict[str, list[float]]
    dear: dict[str, set[int]] = field(default_factory=dict)
    now: float = 0.0
    kept: float = 0.0  # work that is saved
    begun: float = 0.0  # work when the machine started
    running: Running | None = None
    heading: str = ""
    refusals: dict[str, Refusal] = field(default_factory=dict)
    interruptions: list[Interruption] = field(default_factory=list)
    bought: bool = False
    moves: int = 0

    def play(self) -> float:
        """When the work is done."""
        policy = placement(self.limits, look=LOOK)
        for _ in range(DECISIONS_MAX):
            decision = policy.decide(self.situation())
            match decision:
                case Wait():
                    assert decision.until > self.at(self.now)
                    self.now = (decision.until - NOON).total_seconds()
                case LaunchOffer():
                    self.launch(decision.offer)
                case Move():
                    self.kept = self.progress(self.now)
                    self.now += self.stop_s
                    self.running, self.heading = None, decision.offer.pool
                    self.moves += 1
                case Stay():
                    finish = self.train()
                    if finish is not None:
                        return finish
            if self.now > self.limits.max_wait.total_seconds():
                return float("inf")
        raise AssertionError("it goes on for ever")

    def at(self, seconds: float) -> datetime:
        return NOON + timedelta(seconds=seconds)

    def situation(self) -> Situation:
        return Situation(
            now=self.at(self.now),
            submitted_at=NOON,
            limits=self.limits,
            offers=self.offers(),
            refusals=tuple(self.refusals.values()),
            interruptions=tuple(it for it in self.interruptions if self.at(self.now) - it.at <= timedelta(hours=1)),
            steps_done=int(self.kept),
            steps_total=int(self.work_s),
            steps_per_s=1.0,
            rate_margin=1.0,
            changeover=timedelta(seconds=self.changeover_s),
            running=self.running,
            heading=self.heading,
            interval=timedelta(seconds=self.interval_s),
        )

    def offers(self) -> tuple[Offer, ...]:
        hour = int(self.now // 3600)
        spots = [
            replace(it, price_usd_per_hour=Decimal(2)) if hour in self.dear.get(it.zone, ()) else it
            for it in OFFERS[:2]
        ]
        return (*spots, OFFERS[2])

    def up(self, zone: str, at: float) -> bool:
        return sum(change <= at for change in self.losses[zone]) % 2 == 0

    def launch(self, chosen: Offer) -> None:
        self.heading = ""
        if chosen.market is MarketKind.SPOT and not self.up(chosen.zone, self.now):
            repeats = self.refusals[chosen.pool].repeats + 1 if chosen.pool in self.refusals else 1
            self.refusals[chosen.pool] = Refusal(
                pool=chosen.pool, at=self.at(self.now), kind=RefusalKind.CAPACITY, answer="none", repeats=repeats
            )
            return
        self.bought |= chosen.market is MarketKind.ON_DEMAND
        self.refusals.pop(chosen.pool, None)
        self.begun = self.kept
        self.running = Running(market=chosen.market, pool=chosen.pool, placed_at=self.at(self.now))

    def train(self) -> float | None:
        """Until the next look; the moment when the work is done, if it is."""
        assert self.running is not None
        then = self.now + LOOK.total_seconds()
        zone = self.running.pool.split("/")[0]
        lost = min((it for it in self.losses[zone] if self.now < it <= then), default=None)
        until = lost if lost is not None and self.running.market is MarketKind.SPOT else then
        if self.progress(until) >= int(self.work_s):
            return self.placed + self.start_s + int(self.work_s) - self.begun
        done = self.progress(until)
        self.kept = max(self.kept, self.begun + (done - self.begun) // self.interval_s * self.interval_s)
        if until is lost:
            self.interruptions.append(Interruption(pool=self.running.pool, at=self.at(until)))
            self.running = None
        elif done > self.begun:
            begun_at = self.at(self.placed + self.start_s)
            self.running = Running(
                market=self.running.market,
                pool=self.running.pool,
                placed_at=self.running.placed_at,
                training_at=begun_at,
            )
        self.now = then
        return None

    @property
    def placed(self) -> float:
        assert self.running is not None
        return (self.running.placed_at - NOON).total_seconds()

    def progress(self, at: float) -> float:
        return self.begun + max(0.0, at - self.placed - self.start_s)


@st.composite
def plays(draw: st.DrawFn, *, on_shortage: str) -> Play:
    changeover_s = draw(st.floats(1, 2000))
    stop_s = draw(st.floats(0, 1)) * changeover_s / 2
    work_s = draw(st.integers(60, 20_000))
    slack_s = draw(st.floats(0, 20_000))
    losses = {
        zone: [sum(lengths[: number + 1]) for number in range(len(lengths))]
        for zone in "ab"
        for lengths in [draw(st.lists(st.floats(1, 9000), max_size=12))]
    }
    wait_s = work_s + changeover_s + LOOK.total_seconds() + slack_s
    limits = {"max_run": f"{wait_s:.3f}s", "max_wait": f"{wait_s:.3f}s"}
    if on_shortage == "on_demand":
        limits["policy"] = draw(st.sampled_from(["greedy", "uniform_progress", "slack_reserve", "widening_reserve"]))
    return Play(
        limits=Limits(on_shortage=on_shortage, **limits),
        work_s=work_s,
        changeover_s=changeover_s,
        interval_s=draw(st.sampled_from([30.0, 600.0, 5000.0])),
        stop_s=stop_s,
        start_s=(changeover_s - stop_s) * draw(st.floats(0, 1)),
        losses=losses,
        dear={zone: draw(st.sets(st.integers(0, 12))) for zone in "ab"},
    )


@settings(max_examples=150, deadline=None)
@given(play=plays(on_shortage="on_demand"))
def test_a_job_is_done_by_max_wait_whatever_capacity_does(play: Play) -> None:
    """From any start that leaves time for the work, a start on demand and a look."""
    assert play.play() <= play.limits.max_wait.total_seconds() + 1e-3


@settings(max_examples=60, deadline=None)
@given(play=plays(on_shortage="wait"))
def test_a_job_that_may_only_wait_buys_nothing_on_demand(play: Play) -> None:
    """Done or late."""
    play.play()
    assert not play.bought


def test_a_job_comes_back_to_spot() -> None:
    """On demand because spot is gone in the second hour of a job with little slack; back when it may be up again."""
    play = Play(
        limits=Limits(max_run="13h", max_wait="13h", on_shortage="on_demand"),
        work_s=12 * 3600,
        changeover_s=120,
        interval_s=60,
        stop_s=20,
        start_s=60,
        losses={"a": [3600.0, 4 * 3600.0], "b": [0.0]},
    )
    assert play.play() <= 13 * 3600
    assert play.bought
    assert 1 <= play.moves <= 4  # a try that fails is another move, an hour later
    assert len(play.interruptions) == 1


@pytest.mark.parametrize("zone", ["a", "b"])
def test_the_clock_of_the_story_is_right(zone: str) -> None:
    """Up until the first instant, down until the second."""
    play = Play(
        limits=Limits(),
        work_s=60,
        changeover_s=1,
        interval_s=1,
        stop_s=0,
        start_s=0,
        losses={"a": [5, 9], "b": [5, 9]},
    )
    assert [play.up(zone, at) for at in (0, 5, 8, 9)] == [True, False, False, True]
