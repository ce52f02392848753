"""Asks the placement policy, and puts its answer into the words of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from spotrun.job import Job, Placed, Waited, launch_token
from spotrun.market.offer import Offer
from spotrun.policy.placement import LaunchOffer, Wait, placement
from spotrun.policy.situation import situation

__all__ = ["place", "placed"]


def place(job: Job, offers: Sequence[Offer], at: datetime) -> Placed | Waited:
    """Where the job's next attempt goes, or until when it waits, by the policy that its limits ask for."""
    decision = placement(job.spec.limits).decide(situation(job, now=at, offers=offers))
    match decision:
        case Wait():
            return Waited(at=at, until=decision.until, reason=decision.reason)
        case LaunchOffer():
            return placed(job, decision.offer, at, reason=decision.reason)


def placed(job: Job, offer: Offer, at: datetime, *, reason: str) -> Placed:
    """The next attempt of the job on this offer, with the token that makes its launch repeatable."""
    number = len(job.attempts) + 1
    return Placed(
        at=at,
        attempt=number,
        token=launch_token(job.id, number),
        provider=offer.provider,
        region=offer.region,
        zone=offer.zone,
        instance_type=offer.instance_type,
        market=offer.market.value,
        price_usd_per_hour=offer.price_usd_per_hour,
        on_demand_usd_per_hour=offer.on_demand_usd_per_hour,
        reason=reason,
    )
