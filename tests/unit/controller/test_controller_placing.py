"""Leaving a machine that AWS calls at risk: only if the user wants to, and only for another pool."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from spotrun.controller.placing import leave, may_leave
from spotrun.job import AttemptEnded, EndReason, Job, Launched, MoveDecided, Placed, Submitted, fold, launch_token, step
from spotrun.job.spec import JobSpec
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy.cooldown import Cooldown
from spotrun.policy.situation import situation

START = datetime(2026, 11, 20, 10, tzinfo=timezone.utc)
JOB = "gpt-7x"


def job(*, rebalance: str = "move", market: str = "spot") -> Job:
    """A job that runs in use1-az1."""
    spec = JobSpec.model_validate(
        {
            "name": "gpt",
            "command": "python train.py",
            "provider": "ec2",
            "checkpoint": {"uri": "s3://runs/x"},
            "limits": {"max_run": "6h", "max_wait": "24h", "on_shortage": "on_demand"},
            "ec2": {"rebalance": rebalance},
        }
    )
    placed = Placed(
        at=START,
        attempt=1,
        token=launch_token(JOB, 1),
        provider="ec2",
        region="us-east-1",
        zone="use1-az1",
        instance_type="g5.xlarge",
        market=market,  # type: ignore[arg-type]
        price_usd_per_hour=Decimal("0.4"),
        on_demand_usd_per_hour=Decimal("1.006"),
        reason="the test",
    )
    launched = Launched(at=START, attempt=1, instance_id="i-1", launched_at=START)
    return fold([Submitted(at=START, job_id=JOB, spec=spec.to_json()), placed, launched])


def offer(zone: str, usd: str, market: MarketKind = MarketKind.SPOT) -> Offer:
    told: dict[str, Any] = {"provider": "ec2", "region": "us-east-1", "instance_type": "g5.xlarge", "market": market}
    return Offer(zone=zone, price_usd_per_hour=Decimal(usd), on_demand_usd_per_hour=Decimal("1.006"), **told)


OFFERS = [
    offer("use1-az1", "0.30"),
    offer("use1-az2", "0.45"),
    offer("use1-az4", "0.41"),
    offer("use1-az4", "1.006", MarketKind.ON_DEMAND),
]
LATER = START + timedelta(minutes=30)


def test_a_recommendation_leads_to_the_cheapest_other_spot_pool() -> None:
    """Never to on-demand, whose machines nobody has agreed to buy for this."""
    event = leave(job(), OFFERS, LATER)
    assert isinstance(event, MoveDecided)
    assert (event.pool, event.market) == ("use1-az4/g5.xlarge/spot", "spot")
    assert leave(job(), [OFFERS[0], OFFERS[3]], LATER) is None
    assert leave(job(market="on_demand"), OFFERS, LATER) is None


def test_it_is_followed_only_if_the_user_wants_to_and_while_there_is_something_to_leave() -> None:
    """A machine with a notice, or one that ends anyway, is left to its end."""
    assert may_leave(job(), LATER)
    assert not may_leave(job(), None)
    assert not may_leave(job(rebalance="save"), LATER)
    leaving, _ = step(job(), leave(job(), OFFERS, LATER))  # type: ignore[arg-type]
    assert not may_leave(leaving, LATER)


def test_the_pool_that_was_left_is_avoided_for_a_while() -> None:
    """It is about to take machines back, and would be the cheapest."""
    event = leave(job(), OFFERS, LATER)
    assert event is not None
    leaving, _ = step(job(), event)
    over = AttemptEnded(at=LATER, attempt=1, ended_at=LATER, reason=EndReason.EXITED)
    left, _ = step(leaving, over)
    holds = Cooldown().holds(situation(left, now=LATER + timedelta(minutes=1), offers=OFFERS))
    assert list(holds) == ["use1-az1/g5.xlarge/spot"]
