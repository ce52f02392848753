"""Where a job runs next: tables of situations and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotrun.job import (
    AttemptEnded,
    Commit,
    EndReason,
    Event,
    Launched,
    LaunchRefused,
    Limits,
    Placed,
    Progress,
    Progressed,
    Refusal,
    RefusalKind,
    Submitted,
    TrainingPhase,
    fold,
    launch_token,
    load_spec,
)
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy import (
    Cooldown,
    Decision,
    Interruption,
    LaunchOffer,
    Move,
    Ruled,
    Running,
    Situation,
    SpotOnly,
    Stay,
    Wait,
    expected_changeover,
    placement,
    situation,
)
from spotrun.policy.catalogue import RULES

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def offer(zone: str, price: str, *, market: MarketKind = MarketKind.SPOT) -> Offer:
    return Offer(
        provider="local",
        region="us-east-1",
        zone=zone,
        instance_type="g5.xlarge",
        market=market,
        price_usd_per_hour=Decimal(price),
        on_demand_usd_per_hour=Decimal("1.0"),
    )


SPOT = (offer("z2", "0.40"), offer("z1", "0.42"), offer("z3", "0.50"))
ON_DEMAND = (offer("z2", "1.0", market=MarketKind.ON_DEMAND), offer("z1", "1.0", market=MarketKind.ON_DEMAND))


def refusal(zone: str, minutes: float, kind: RefusalKind = RefusalKind.CAPACITY, *, repeats: int = 1) -> Refusal:
    pool = zone if "/" in zone else f"{zone}/g5.xlarge/spot"
    return Refusal(pool=pool, at=at(minutes), kind=kind, answer="none", repeats=repeats)


def lost(zone: str, minutes: float) -> Interruption:
    return Interruption(pool=f"{zone}/g5.xlarge/spot", at=at(minutes))


def seen(minutes: float = 0, *, offers: Sequence[Offer] = (*SPOT, *ON_DEMAND), **more: Any) -> Situation:
    limits = Limits(**{"max_run": "6h", "max_wait": "12h", **more.pop("limits", {})})
    return Situation(now=at(minutes), submitted_at=NOON, limits=limits, offers=tuple(offers), **more)


def short(decision: Decision) -> str:
    """A decision in a word: the pool, or until when."""
    if isinstance(decision, LaunchOffer):
        return decision.offer.pool.replace("/g5.xlarge", "")
    if isinstance(decision, Move):
        return f"move to {decision.offer.pool.replace('/g5.xlarge', '')}"
    if isinstance(decision, Stay):
        return "stay"
    minutes = (decision.until - NOON).total_seconds() / 60
    return f"wait {minutes:g}"


GREEDY: dict[str, tuple[Situation, str]] = {
    "the cheapest spot pool": (seen(), "z2/spot"),
    "of two at one price, the first by name": (seen(offers=[offer("z9", "0.4"), offer("z8", "0.4")]), "z8/spot"),
    "a pool that has just refused is left alone": (seen(10, refusals=(refusal("z2", 9.5),)), "z1/spot"),
    "and asked again after its pause": (seen(10, refusals=(refusal("z2", 9),)), "z2/spot"),
    "a longer pause after each refusal": (seen(10, refusals=(refusal("z2", 8, repeats=3),)), "z1/spot"),
    "never more than ten minutes": (seen(10, refusals=(refusal("z2", 0, repeats=99),)), "z2/spot"),
    "a quota rests longer": (seen(10, refusals=(refusal("z2", 1, RefusalKind.QUOTA),)), "z1/spot"),
    "throttling rests shortly": (seen(10, refusals=(refusal("z2", 9.7, RefusalKind.THROTTLED),)), "z2/spot"),
    "a pool that took its machine back is avoided": (seen(10, interruptions=(lost("z2", 1),)), "z1/spot"),
    "for a while": (seen(11, interruptions=(lost("z2", 1),)), "z2/spot"),
    "all resting: wait for the first": (
        seen(10, offers=SPOT, refusals=(refusal("z1", 9.5), refusal("z2", 9.75), refusal("z3", 9.9))),
        "wait 10.5",
    ),
    "the longest of two holds counts": (
        seen(10, offers=SPOT[:1], refusals=(refusal("z2", 9.5),), interruptions=(lost("z2", 9),)),
        "wait 19",
    ),
    "no offer at all: ask again later": (seen(10, offers=[]), "wait 15"),
    "on-demand is no spot": (seen(10, offers=ON_DEMAND), "wait 15"),
}


@pytest.mark.parametrize(("before", "decision"), GREEDY.values(), ids=list(GREEDY))
def test_greedy_takes_the_cheapest_pool_that_may_have_capacity(before: Situation, decision: str) -> None:
    """Where, or until when."""
    assert short(SpotOnly().decide(before)) == decision


BUY = {"on_shortage": "on_demand"}
RESTING = tuple(refusal(zone, 0, RefusalKind.QUOTA, repeats=9) for zone in ("z1", "z2", "z3"))
HOUR = timedelta(hours=1)

DEADLINE: dict[str, tuple[Situation, str]] = {
    "slack enough: as the inner policy": (seen(limits=BUY, changeover=HOUR), "z2/spot"),
    "slack enough and no spot: wait": (seen(1, limits=BUY, changeover=HOUR, refusals=RESTING), "wait 60"),
    "nothing is offered: ask again in five minutes": (seen(239, limits=BUY, changeover=HOUR, offers=()), "wait 240"),
    "no slack left: on demand, even if there is spot": (seen(240, limits=BUY, changeover=HOUR), "z1/on_demand"),
    "the same, when waiting is what the user chose": (seen(240, changeover=HOUR), "z2/spot"),
    "what was trained leaves slack": (seen(240, limits=BUY, changeover=HOUR, trained=HOUR), "z2/spot"),
    "so does knowing how many steps are left": (
        seen(240, limits=BUY, changeover=HOUR, steps_done=1000, steps_total=4600, steps_per_s=1.0),
        "z2/spot",
    ),
    "steps never promise more work than max_run allows": (
        seen(240, limits=BUY, changeover=HOUR, steps_done=0, steps_total=10**9, steps_per_s=1.0, trained=HOUR),
        "z2/spot",
    ),
    "a training that stands still promises nothing": (
        seen(240, limits=BUY, changeover=HOUR, steps_done=0, steps_total=10, steps_per_s=0.0),
        "z1/on_demand",
    ),
    "the second on-demand pool if the first refused": (
        seen(240, limits=BUY, changeover=HOUR, refusals=(refusal("z1/g5.xlarge/on_demand", 239.5),)),
        "z2/on_demand",
    ),
    "spot if no on-demand pool has capacity either": (
        seen(
            240,
            limits=BUY,
            changeover=HOUR,
            refusals=tuple(refusal(f"{zone}/g5.xlarge/on_demand", 239.5) for zone in ("z1", "z2")),
        ),
        "z2/spot",
    ),
    "and the first of all pools if there is no spot": (
        seen(
            240,
            limits=BUY,
            changeover=HOUR,
            refusals=(
                *(refusal(f"{zone}/g5.xlarge/on_demand", 239.5) for zone in ("z1", "z2")),
                *(refusal(zone, 239.75) for zone in ("z1", "z2", "z3")),
            ),
        ),
        "wait 240.5",
    ),
    "max_wait as long as max_run leaves no slack from the first minute": (
        seen(limits={**BUY, "max_wait": "6h"}, changeover=HOUR),
        "z1/on_demand",
    ),
}


@pytest.mark.parametrize(("before", "decision"), DEADLINE.values(), ids=list(DEADLINE))
def test_on_demand_is_bought_when_the_slack_is_used_up(before: Situation, decision: str) -> None:
    """12 h to do 6 h of work, with 1 h for each changeover: the slack is used up after 4 h."""
    assert short(Ruled(rule=RULES["greedy"]).decide(before)) == decision


def test_the_limits_choose_the_policy() -> None:
    """The user's word is the permission to buy on-demand."""
    assert placement(Limits()) == SpotOnly()
    assert placement(Limits(on_shortage="on_demand")) == Ruled()


SITUATIONS = st.builds(
    lambda minutes, offers, refused, taken, buy, trained: seen(
        minutes,
        offers=offers,
        refusals=tuple({one.pool: one for one in refused}.values()),
        interruptions=tuple(taken),
        limits={"on_shortage": "on_demand" if buy else "wait"},
        trained=timedelta(minutes=trained),
    ),
    minutes=st.floats(0, 800),
    offers=st.lists(st.sampled_from([*SPOT, *ON_DEMAND]), unique=True),
    refused=st.lists(
        st.builds(
            refusal,
            st.sampled_from(["z1", "z2", "z3", "z1/g5.xlarge/on_demand", "z2/g5.xlarge/on_demand"]),
            st.floats(0, 800),
            st.sampled_from(RefusalKind),
            repeats=st.integers(1, 50),
        )
    ),
    taken=st.lists(st.builds(lost, st.sampled_from(["z1", "z2"]), st.floats(0, 800)), max_size=3),
    buy=st.booleans(),
    trained=st.floats(0, 360),
)


@given(before=SITUATIONS)
def test_whatever_the_situation_a_decision_is_sound(before: Situation) -> None:
    """It waits for a moment to come, launches what was offered and is not on hold, and never buys on-demand unasked."""
    policy = placement(before.limits)
    decision = policy.decide(before)
    assert decision == policy.decide(before)
    assert decision.reason
    if isinstance(decision, Wait):
        assert decision.until > before.now
    else:
        assert isinstance(decision, LaunchOffer)
        assert decision.offer in before.offers
        assert decision.offer.pool not in Cooldown().holds(before)
        if decision.offer.market is MarketKind.ON_DEMAND:
            assert before.limits.on_shortage.value == "on_demand"
        else:
            price = decision.offer.price_usd_per_hour
            holds = Cooldown().holds(before)
            assert all(
                price <= other.price_usd_per_hour
                for other in before.offers
                if other.market is MarketKind.SPOT and other.pool not in holds
            )


REASONS: dict[str, tuple[Situation, str]] = {
    "the cheapest": (
        seen(),
        "the cheapest of 3 spot pools free to try: $0.4000/h, 60.0 % below on-demand",
    ),
    "the only one": (
        seen(offers=SPOT[:1]),
        "the only spot pool free to try: $0.4000/h, 60.0 % below on-demand",
    ),
    "waiting": (
        seen(
            410,
            offers=SPOT,
            refusals=(refusal("z1", 409.9), refusal("z2", 402, repeats=9)),
            interruptions=(lost("z3", 405),),
        ),
        (
            "waiting: no spot pool can be tried now (z1/g5.xlarge no capacity just now, z2/g5.xlarge no capacity 8 min "
            "ago, z3/g5.xlarge interrupted 5 min ago); next try 18:50 UTC; 5 h 10 min of max_wait left"
        ),
    ),
    "many pools": (
        seen(
            offers=[offer(f"z{number}", "0.4") for number in range(6)],
            refusals=tuple(refusal(f"z{number}", 0, RefusalKind.QUOTA) for number in range(6)),
        ),
        (
            "waiting: no spot pool can be tried now (z0/g5.xlarge quota reached just now, z1/g5.xlarge quota reached just "
            "now, z2/g5.xlarge quota reached just now, z3/g5.xlarge quota reached just now, and 2 more); next try 12:10 "
            "UTC; 12 h 00 min of max_wait left"
        ),
    ),
    "nothing offered": (
        seen(719, offers=[]),
        (
            "waiting: the provider offers no spot pool that fits the resources; next try 2026-01-02 00:04 UTC; 1 min 00 s "
            "of max_wait left"
        ),
    ),
    "waiting for spot under a deadline": (
        seen(
            10,
            limits=BUY,
            changeover=timedelta(minutes=5),
            offers=(*SPOT[:1], *ON_DEMAND),
            interruptions=(lost("z2", 5),),
            spot_ended_at=at(5),
        ),
        (
            "waiting: slack 5 h 50 min, reserve 43 min 04 s by widening_reserve, 45.8 % of recorded outages of this age were over within half an "
            "hour; no spot pool can be tried now (z2/g5.xlarge interrupted 5 min ago); next try 12:15 "
            "UTC; 11 h 50 min of max_wait left"
        ),
    ),
    "on demand": (
        seen(310, limits=BUY, changeover=HOUR, offers=ON_DEMAND),
        (
            "on demand at $1.0000/h to be done by 2026-01-02 00:00 UTC: up to 6 h 00 min of work (the training tells no "
            "total, so max_run counts) and 1 h 00 min for a changeover are left, and 6 h 50 min of max_wait"
        ),
    ),
}


@pytest.mark.parametrize(("before", "reason"), REASONS.values(), ids=list(REASONS))
def test_a_decision_says_why_in_one_sentence(before: Situation, reason: str) -> None:
    """A job that waits says what was tried, what the answers were, when it tries again, and how long it may wait."""
    assert placement(before.limits).decide(before).reason == reason


def on(market: MarketKind, *, zone: str = "z1", since: float = 0, training: float | None = 5) -> Running:
    begun = None if training is None else at(training)
    return Running(market=market, pool=f"{zone}/g5.xlarge/{market.value}", placed_at=at(since), training_at=begun)


KNOWN = {"steps_total": 10_000, "steps_per_s": 1.0, "rate_margin": 1.0, "changeover": timedelta(minutes=6)}
UP = tuple(replace(it, up=True, since=at(-600)) for it in SPOT)
DOWN = tuple(replace(it, up=False, since=at(0)) for it in SPOT)

MOVES: dict[str, tuple[Situation, str]] = {
    "on spot with time enough: stay": (
        seen(60, limits=BUY, running=on(MarketKind.SPOT), steps_done=3000, **KNOWN),
        "stay",
    ),
    "on spot when its loss could cost the deadline: to on-demand": (
        seen(548, limits=BUY, running=on(MarketKind.SPOT), **KNOWN),
        "move to z1/on_demand",
    ),
    "unless what is left is done before the next look": (
        seen(719, limits=BUY, running=on(MarketKind.SPOT), steps_done=9970, **KNOWN),
        "stay",
    ),
    "on spot, and only spot may be bought: stay": (seen(719, running=on(MarketKind.SPOT), **KNOWN), "stay"),
    "on demand, with slack and spot that is known to be up: back": (
        seen(60, limits=BUY, offers=(*UP, *ON_DEMAND), running=on(MarketKind.ON_DEMAND), **KNOWN),
        "move to z2/spot",
    ),
    "on demand and spot known to be down: stay": (
        seen(60, limits=BUY, offers=(*DOWN, *ON_DEMAND), running=on(MarketKind.ON_DEMAND), **KNOWN),
        "stay",
    ),
    "on demand and nothing known of spot: try it": (
        seen(60, limits=BUY, running=on(MarketKind.ON_DEMAND), **KNOWN),
        "move to z2/spot",
    ),
    "but not a pool that refused within the hour": (
        seen(60, limits=BUY, running=on(MarketKind.ON_DEMAND), refusals=(refusal("z2", 20), refusal("z1", 3)), **KNOWN),
        "move to z3/spot",
    ),
    "on demand without the slack for another changeover: stay": (
        seen(547, limits=BUY, offers=(*UP, *ON_DEMAND), running=on(MarketKind.ON_DEMAND), **KNOWN),
        "stay",
    ),
    "given up for on-demand: on-demand is bought, though spot is up": (
        seen(60, limits=BUY, offers=(*UP, *ON_DEMAND), heading="z1/g5.xlarge/on_demand", **KNOWN),
        "z1/on_demand",
    ),
    "given up for spot: spot": (
        seen(60, limits=BUY, offers=(*UP, *ON_DEMAND), heading="z2/g5.xlarge/spot", **KNOWN),
        "z2/spot",
    ),
    "an old run rather than a young one that is a little cheaper": (
        seen(
            60,
            limits=BUY,
            offers=(replace(SPOT[0], up=True, since=at(59)), replace(SPOT[1], up=True, since=at(-900)), *ON_DEMAND),
            **KNOWN,
        ),
        "z1/spot",
    ),
    "spot that is dearer than on-demand is no spot": (
        seen(60, limits=BUY, offers=(offer("z1", "1.20"), *ON_DEMAND), **KNOWN),
        "wait 65",
    ),
}


@pytest.mark.parametrize(("before", "decision"), MOVES.values(), ids=list(MOVES))
def test_a_machine_is_kept_or_given_up(before: Situation, decision: str) -> None:
    """12 h for 10 000 steps of a second each, with 6 min for a changeover."""
    assert short(placement(before.limits).decide(before)) == decision


@given(before=SITUATIONS, shares=st.lists(st.floats(0, 1, exclude_max=True), max_size=4))
def test_decisions_do_not_depend_on_how_often_one_asks(before: Situation, shares: list[float]) -> None:
    """What was decided at a moment is decided then whoever asked in between; a wait that is asked about early is a wait."""
    policy = placement(before.limits)
    decision = policy.decide(before)
    if not isinstance(decision, Wait):
        return
    for share in sorted(shares):
        early = replace(before, now=before.now + share * (decision.until - before.now))
        again = policy.decide(early)
        if before.limits.on_shortage.value == "wait":
            assert isinstance(again, Wait)
    later = replace(before, now=decision.until)
    assert policy.decide(later) == placement(before.limits).decide(later)


def journal(*events: Event) -> tuple[Event, ...]:
    spec = load_spec("name: a\ncommand: x\nlimits: {max_run: 1h, max_wait: 9h}\nlocal: {time_scale: 3}").to_json()
    return Submitted(at=NOON, job_id="a-1", spec=spec), *events


def placed(number: int, minutes: float, zone: str) -> Placed:
    return Placed(
        at=at(minutes),
        attempt=number,
        token=launch_token("a-1", number),
        provider="local",
        region="us-east-1",
        zone=zone,
        instance_type="g5.xlarge",
        market="spot",
        price_usd_per_hour=Decimal("0.4"),
        on_demand_usd_per_hour=Decimal(1),
        reason="",
    )


def test_a_situation_is_gathered_from_the_job() -> None:
    """Trained time, the commit to go on from, the measured start, refusals by pool and recent interruptions."""
    commit = Commit(step=80, at=at(30), captured_at=at(30))
    progress = Progress(
        phase=TrainingPhase.TRAINING,
        at=at(31),
        step=95,
        total_steps=500,
        steps_per_s=0.5,
        training_at=at(10),
        commits=1,
        last_commit=commit,
    )
    story = (
        placed(1, 4, "z1"),
        Launched(at=at(5), attempt=1, instance_id="i-1", launched_at=at(5)),
        Progressed(at=at(31), attempt=1, progress=progress),
        AttemptEnded(at=at(40), attempt=1, ended_at=at(40), reason=EndReason.INTERRUPTED),
        placed(2, 41, "z2"),
        LaunchRefused(at=at(41), attempt=2, refusal=RefusalKind.CAPACITY, answer="none"),
    )
    runs = situation(fold(journal(*story[:3])), now=at(32), offers=SPOT)
    assert (runs.steps_done, runs.undone, runs.saves) == (95, timedelta(seconds=15 / 0.5 * 1.1), True)
    job = fold(journal(*story))
    gathered = situation(job, now=at(42), offers=SPOT)
    assert gathered == Situation(
        now=at(42),
        submitted_at=NOON,
        limits=job.spec.limits,
        offers=SPOT,
        refusals=(Refusal(pool="z2/g5.xlarge/spot", at=at(41), kind=RefusalKind.CAPACITY, answer="none"),),
        interruptions=(Interruption(pool="z1/g5.xlarge/spot", at=at(40)),),
        trained=timedelta(minutes=30),
        steps_done=80,
        steps_total=500,
        steps_per_s=0.5,
        changeover=timedelta(minutes=9),  # 6 min from placing to training, half as much again
        spot_ended_at=at(40),
        interval=timedelta(hours=1),  # nothing says where to save: max_run
        region="us-east-1",
    )
    assert gathered.work_left == timedelta(seconds=420 / 0.5 * 1.1)
    assert situation(job, now=at(101), offers=()).interruptions == ()
    assert short(SpotOnly().decide(gathered)) == "z2/spot"  # its pause is over


def test_before_the_first_start_the_changeover_is_what_is_usual() -> None:
    """The local provider starts processes: its launch delay, and some seconds of wall time in the job's time."""
    assert expected_changeover(fold(journal())) == timedelta(seconds=30 + 20 * 3)
    assert situation(fold(journal()), now=NOON, offers=(), changeover=HOUR).changeover == HOUR


def test_a_negative_pause_is_refused() -> None:
    """Impossible values are refused where they are made."""
    with pytest.raises(ValueError, match="must not be negative"):
        Cooldown(after_interruption=timedelta(seconds=-1))
