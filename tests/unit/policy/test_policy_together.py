"""Which pools one launch asks for: those that nothing distinguishes, and in a shortage all at once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from spotrun.job import Limits, Refusal, RefusalKind
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy import Interruption, LaunchOffer, Situation, placement
from spotrun.policy.together import POOLS_MAX

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def offer(zone: str, price: str, *, region: str = "east", kind: str = "g5.xlarge", **more: Any) -> Offer:
    values: dict[str, Any] = {"provider": "ec2", "market": MarketKind.SPOT, "asked_with": region, **more}
    known = {"region": region, "zone": zone, "instance_type": kind}
    return Offer(price_usd_per_hour=Decimal(price), on_demand_usd_per_hour=Decimal("1.0"), **known, **values)


def refusal(zone: str, minutes_ago: float, kind: RefusalKind = RefusalKind.CAPACITY, *, repeats: int = 1) -> Refusal:
    at = NOON - timedelta(minutes=minutes_ago)
    return Refusal(pool=f"{zone}/g5.xlarge/spot", at=at, kind=kind, answer="none", repeats=repeats)


def asked(*offers: Offer, on_shortage: str = "wait", **more: Any) -> tuple[list[str], str]:
    """The zones that the launch names, the best one first, and its reason."""
    limits = Limits(max_run="6h", max_wait="48h", on_shortage=on_shortage)
    now = Situation(now=NOON, submitted_at=NOON, limits=limits, offers=offers, **more)
    decision = placement(limits).decide(now)
    assert isinstance(decision, LaunchOffer)
    return [it.zone for it in (decision.offer, *decision.others)], decision.reason


ON_DEMAND = {"market": MarketKind.ON_DEMAND}
CASES: dict[str, tuple[list[Offer], dict[str, Any], list[str]]] = {
    "prices within a twentieth are no reason": (
        [offer("z1", "0.40"), offer("z2", "0.42"), offer("z3", "0.43")],
        {},
        ["z1", "z2"],
    ),
    "a launch is of one region": ([offer("z1", "0.40"), offer("w1", "0.40", region="west")], {}, ["w1"]),
    "other types do as well at that price": (
        [offer("z1", "0.40"), offer("z2", "0.41", kind="g6.xlarge")],
        {},
        ["z1", "z2"],
    ),
    "a provider that takes one pool is asked for one": (
        [offer("z1", "0.40", asked_with=""), offer("z2", "0.40", asked_with="")],
        {},
        ["z1"],
    ),
    "markets are not mixed": ([offer("z1", "0.40"), offer("z2", "0.41", **ON_DEMAND)], {}, ["z1"]),
    "what is on hold is not asked for": (
        [offer("z1", "0.40"), offer("z2", "0.40"), offer("z3", "0.40")],
        {"interruptions": (Interruption(pool="z2/g5.xlarge/spot", at=NOON - timedelta(minutes=2)),)},
        ["z1", "z3"],
    ),
    "a known age distinguishes": (
        [offer("z1", "0.40", up=True, since=NOON - timedelta(hours=1)), offer("z2", "0.40", up=True, since=NOON)],
        {},
        ["z1"],
    ),
    "so does a refusal of hours ago": (
        [offer("z1", "0.40"), offer("z2", "0.40"), offer("z3", "0.40")],
        {"refusals": (refusal("z3", 200),)},
        ["z1", "z2"],
    ),
    "after a refusal all the rest at once, whatever they ask": (
        [offer("z1", "0.40"), offer("z2", "0.60"), offer("z3", "0.90"), offer("w1", "0.95", region="west")],
        {"refusals": (refusal("z1", 0.1),)},
        ["z2", "z3"],
    ),
    "and those whose pause is over with them": (
        [offer("z1", "0.40"), offer("z2", "0.60"), offer("z3", "0.90")],
        {"refusals": tuple(refusal(zone, 2) for zone in ("z1", "z2", "z3"))},
        ["z1", "z2", "z3"],
    ),
    "a quota is no shortage": (
        [offer("z1", "0.40"), offer("z2", "0.60"), offer("z3", "0.90")],
        {"refusals": (refusal("z1", 0.1, RefusalKind.QUOTA),)},
        ["z2"],
    ),
    "nor is another region's refusal": (
        [offer("z1", "0.40"), offer("z2", "0.60"), offer("w1", "0.30", region="west")],
        {"refusals": (refusal("w1", 0.1),)},
        ["z1"],
    ),
}


@pytest.mark.parametrize(("offers", "more", "zones"), CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("on_shortage", ["wait", "on_demand"])
def test_a_launch_names_all_pools_that_do_as_well(
    offers: list[Offer], more: dict[str, Any], zones: list[str], on_shortage: str
) -> None:
    """The best one first; under both policies, as long as there is slack."""
    assert asked(*offers, on_shortage=on_shortage, **more)[0] == zones


def test_the_reason_says_that_others_were_asked_for_and_why() -> None:
    """At about the same price, or because capacity is short."""
    _, reason = asked(offer("z1", "0.40"), offer("z2", "0.41"))
    assert reason.endswith("; asked for together with 1 other at about that price")
    short = (refusal("z1", 0.1),)
    _, reason = asked(offer("z1", "0.40"), offer("z2", "0.60"), offer("z3", "0.90"), refusals=short)
    assert "capacity is short, so 1 other up to $0.9000/h are asked for at once, the cheapest first" in reason


def test_on_demand_asks_all_zones_of_a_type() -> None:
    """They have one price, and AWS knows where there is some."""
    bought = [offer(zone, "1.0", **ON_DEMAND) for zone in ("z1", "z2", "z3")]
    limits = Limits(max_run="6h", max_wait="6h", on_shortage="on_demand")
    now = Situation(now=NOON, submitted_at=NOON, limits=limits, offers=tuple(bought))
    decision = placement(limits).decide(now)
    assert isinstance(decision, LaunchOffer)
    assert [it.zone for it in (decision.offer, *decision.others)] == ["z1", "z2", "z3"]


def test_a_launch_names_a_bounded_number_of_pools() -> None:
    """The cheapest; the journal keeps each of them."""
    zones, _ = asked(*(offer(f"z{number:03d}", "0.40") for number in range(150)))
    assert zones == [f"z{number:03d}" for number in range(POOLS_MAX)]
