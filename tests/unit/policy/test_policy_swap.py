"""A spot machine for a cheaper one: only where that pays, never to and fro, never at the cost of the deadline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotrun.job import Limits, Refusal, RefusalKind
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy import Move, Ruled, Running, Situation, SpotOnly, Stay, placement
from spotrun.policy.catalogue import RULES
from spotrun.policy.rule import Case
from spotrun.policy.swap import PAYS, Swap, weigh

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def offer(zone: str, usd: float, *, market: MarketKind = MarketKind.SPOT, region: str = "r1", **more: Any) -> Offer:
    return Offer(
        provider="sim",
        region=region,
        zone=zone,
        instance_type="t",
        market=market,
        price_usd_per_hour=Decimal(str(usd)),
        on_demand_usd_per_hour=Decimal(4),
        **more,
    )


def on(zone: str, since: datetime) -> Running:
    return Running(market=MarketKind.SPOT, pool=f"{zone}/t/spot", placed_at=since, training_at=since)


def seen(
    offers: Sequence[Offer], *, hours: float = 5.0, limits: dict[str, Any] | None = None, **more: Any
) -> Situation:
    """Five hours on zone a, with 20 h of work left and 20 h of slack, at six minutes for a changeover."""
    common: dict[str, Any] = {
        "now": NOON + hours * HOUR,
        "submitted_at": NOON,
        "limits": Limits(max_run="40h", max_wait="45h", **(limits or {})),
        "offers": tuple(offers),
        "running": on("a", NOON),
        "changeover": timedelta(minutes=6),
        "steps_total": 25 * 3600,
        "steps_done": 5 * 3600,
        "steps_per_s": 1.0,
        "rate_margin": 1.0,
        "region": "r1",
    }
    return Situation(**{**common, **more})


DEAR = offer("a", 1.0)
UP = {"up": True, "since": NOON - 9 * HOUR}
BUY = {"on_shortage": "on_demand"}
ON_DEMAND = offer("a", 4.0, market=MarketKind.ON_DEMAND)
REFUSED = Refusal(pool="b/t/spot", at=NOON + 4.5 * HOUR, kind=RefusalKind.CAPACITY, answer="none")

SWAPS: dict[str, tuple[Situation, str]] = {
    "half the price": (seen([DEAR, offer("b", 0.5)]), "b"),
    "for a job with a deadline too": (seen([DEAR, offer("b", 0.5), ON_DEMAND], limits=BUY), "b"),
    "a little cheaper: stay": (seen([DEAR, offer("b", 0.97)]), ""),
    "dearer: stay": (seen([DEAR, offer("b", 1.5)]), ""),
    "the machine is less than an hour old: stay": (
        seen([DEAR, offer("b", 0.5)], running=on("a", NOON + 4.1 * HOUR)),
        "",
    ),
    "little work left: stay": (seen([DEAR, offer("b", 0.5)], steps_done=25 * 3600 - 900), ""),
    "a long changeover: stay": (seen([DEAR, offer("b", 0.7)], changeover=HOUR), ""),
    "no commit is known: stay": (seen([DEAR, offer("b", 0.5)], saves=False), ""),
    "a pool that has just refused: stay": (seen([DEAR, offer("b", 0.5)], refusals=(REFUSED,)), ""),
    "a pool that is known to be down: stay": (seen([DEAR, offer("b", 0.1, up=False, since=NOON)]), ""),
    "a young run is dearer than its price": (
        seen([DEAR, offer("b", 0.75, up=True, since=NOON + 4.9 * HOUR)], changeover=timedelta(minutes=3)),
        "",
    ),
    "an old one is not": (seen([DEAR, offer("b", 0.75, **UP)], changeover=timedelta(minutes=3)), "b"),
    "another region, and little to bring": (seen([DEAR, offer("b", 0.5, region="r2")], state_bytes=10**9), "b"),
    "another region, and a terabyte to bring: stay": (
        seen([DEAR, offer("b", 0.5, region="r2")], state_bytes=10**12),
        "",
    ),
    "no slack that the rule could spare: stay": (
        seen([DEAR, offer("b", 0.5), ON_DEMAND], limits=BUY, steps_total=5 * 3600 + 39 * 3600),
        "",
    ),
    "nor when only spot may be bought": (seen([DEAR, offer("b", 0.5)], steps_total=5 * 3600 + 40 * 3600 - 600), ""),
}


@pytest.mark.parametrize(("before", "zone"), SWAPS.values(), ids=list(SWAPS))
def test_a_spot_machine_is_given_up_for_a_cheaper_one_where_that_pays(before: Situation, zone: str) -> None:
    """Where to, or nowhere."""
    decision = placement(before.limits).decide(before)
    if not zone:
        assert isinstance(decision, Stay), decision
    else:
        assert isinstance(decision, Move)
        assert decision.offer.zone == zone


def test_a_swap_says_what_it_gains_and_what_it_costs() -> None:
    """In dollars of all machines, and in one sentence."""
    decision = SpotOnly().decide(seen([DEAR, offer("b", 0.5, **UP)]))
    assert isinstance(decision, Move)
    assert decision.reason == (
        "$0.5000/h instead of $1.0000/h: of $2.97 that are expected to be saved within 5 h 46 min the move costs up to $0.15; "
        "slack 20 h 00 min"
    )


PRICES = st.floats(0.05, 3.9)
AGES = st.floats(0, 50)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    known = draw(st.booleans())
    ages = {"up": True, "since": NOON - draw(AGES) * HOUR} if known else {}
    offers = [offer(zone, draw(PRICES), region=draw(st.sampled_from(["r1", "r2"])), **ages) for zone in "abc"]
    buys = draw(st.booleans())
    return seen(
        [*offers, *([ON_DEMAND] if buys else [])],
        hours=draw(st.floats(0, 30)),
        limits=BUY if buys else None,
        steps_done=draw(st.integers(0, 25 * 3600)),
        changeover=draw(st.floats(0, 90)) * MINUTE,
        interval=draw(st.floats(0, 60)) * MINUTE,
        state_bytes=draw(st.sampled_from([0, 10**10, 10**12])),
        nodes=draw(st.sampled_from([1, 8])),
    )


@settings(max_examples=300, deadline=None)
@given(before=situations(), name=st.sampled_from(["greedy", "uniform_progress", "slack_reserve", "widening_reserve"]))
def test_no_move_gains_less_than_it_costs(before: Situation, name: str) -> None:
    """Even if prices stay as they are and no machine is lost the cheaper hours pay for the move: twice."""
    decision = Ruled(rule=RULES[name]).decide(before)
    if not isinstance(decision, Move) or decision.offer.market is MarketKind.ON_DEMAND:
        return
    here = next(it for it in before.offers if it.zone == "a" and it.market is MarketKind.SPOT)
    there = decision.offer
    prices = [float(it.price_usd_per_hour) * before.nodes for it in (here, there)]
    changeover_h = before.changeover / HOUR
    cost = changeover_h * sum(prices) + before.egress_usd(there)
    loss_h = changeover_h + 0.25 * (
        before.interval / HOUR
    )  # of progress, at each loss; here one an hour at the very most
    hours = before.work_left / HOUR
    assert prices[1] < prices[0]
    assert hours * (prices[0] - prices[1]) + prices[0] * loss_h >= PAYS * cost * (1 - 1e-9)
    assert before.now - NOON >= HOUR
    assert before.slack >= 2 * before.changeover


@settings(max_examples=300, deadline=None)
@given(
    here=st.floats(0.01, 100),
    there=st.floats(0.01, 100),
    runs=st.tuples(st.floats(0.03, 100), st.floats(0.03, 100)),
    work_h=st.floats(0, 100),
    changeover_s=st.floats(0, 9000),
)
def test_of_two_opposite_moves_one_at_most_pays(
    here: float, there: float, runs: tuple[float, float], work_h: float, changeover_s: float
) -> None:
    """At the same prices and ages nothing goes to and fro."""
    case = Case(work_s=work_h * 3600, deadline_s=1e9, changeover_s=changeover_s)
    common = {"moving_price": 0.0, "work_s": work_h * 3600}
    one = weigh(Swap(here_price=here, here_run_h=runs[0], there_price=there, there_run_h=runs[1], **common), case)
    back = weigh(Swap(here_price=there, here_run_h=runs[1], there_price=here, there_run_h=runs[0], **common), case)
    assert not (one[0] > 0 and back[0] > 0)
    assert one[1] == back[1] >= 0


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_prices_that_stay_move_a_job_down_and_then_no_more(data: st.DataObject) -> None:
    """Asked every ten minutes for a day: each move is to a lower price, so there are no more moves than other pools."""
    prices = {zone: data.draw(PRICES) for zone in "abcd"}
    told = walk(lambda at: prices, minutes=10)
    paid = [prices[zone] for _, zone in told]
    assert paid == sorted(paid, reverse=True)
    assert len(set(paid)) == len(paid)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_prices_that_swing_move_a_job_once_an_hour_at_most(data: st.DataObject) -> None:
    """However they swing, minute by minute."""
    swings = data.draw(st.lists(st.tuples(PRICES, PRICES), min_size=2, max_size=40))

    def prices(at: datetime) -> dict[str, float]:
        one, other = swings[int((at - NOON) / MINUTE) % len(swings)]
        return {"a": one, "b": other}

    told = walk(prices, minutes=7)
    assert all(later - earlier >= HOUR for (earlier, _), (later, _) in pairwise(told))


def walk(prices: Any, *, minutes: int) -> list[tuple[datetime, str]]:
    """The zones in which a job has its machines for a day, with the instants."""
    zone, since, at = "a", NOON, NOON
    told = [(since, zone)]
    while at < NOON + 24 * HOUR:
        at += minutes * MINUTE
        offers = [offer(name, usd, **UP) for name, usd in prices(at).items()]
        done = int((at - NOON).total_seconds() * 0.8)
        before = replace(seen(offers, running=on(zone, since), steps_done=done), now=at)
        decision = placement(before.limits).decide(before)
        if isinstance(decision, Move):
            zone, since = decision.offer.zone, at
            told.append((since, zone))
    return told
