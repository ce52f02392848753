"""Asks the placement policy, and puts its answer into the words of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from spotrun.job import Alternative, Job, JobSpec, MoveDecided, OnShortage, Placed, Rebalance, Waited, launch_token
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy.cooldown import Cooldown
from spotrun.policy.placement import LOOK, LaunchOffer, Move, Stay, Wait, placement
from spotrun.policy.situation import situation

__all__ = ["leave", "look", "may_leave", "may_move", "move", "place", "placed"]

_LOOK_WALL_S = 2.0  # a controller on a fast clock looks no more often

# Where no deadline is guarded a look is for cheaper spot alone, whose prices change within hours.
_LOOK_FOR_PRICES = timedelta(minutes=10)


def place(
    job: Job, offers: Sequence[Offer], at: datetime, polled: timedelta, *, cooldown: Cooldown | None = None
) -> Placed | Waited:
    """Where the job's next attempt goes, or until when it waits, by the policy that its limits ask for. `polled` is the
    time between two looks of the controller."""
    policy = placement(job.spec.limits, look=look(job.spec), polled=polled, cooldown=cooldown)
    decision = policy.decide(situation(job, now=at, offers=offers))
    match decision:
        case Wait():
            return Waited(at=at, until=decision.until, reason=decision.reason)
        case LaunchOffer():
            return placed(job, decision.offer, at, reason=decision.reason, others=decision.others)
        case Stay() | Move():
            raise AssertionError(f"job {job.id} has no machine that could {type(decision).__name__.lower()}")


def move(job: Job, offers: Sequence[Offer], at: datetime, polled: timedelta) -> MoveDecided | None:
    """Where the work of the attempt that runs should go on instead; None: it stays."""
    attempt = job.attempt
    policy = placement(job.spec.limits, look=look(job.spec), polled=polled)
    decision = policy.decide(situation(job, now=at, offers=offers))
    if attempt is None or not isinstance(decision, Move):
        return None
    return MoveDecided(
        at=at,
        attempt=attempt.number,
        pool=decision.offer.pool,
        market=decision.offer.market.value,
        reason=decision.reason,
    )


def may_move(job: Job) -> bool:
    """Whether the job has a machine that could be given up for another: one that nobody wants to end yet, and that still
    trains."""
    attempt = job.attempt
    if attempt is None or attempt.instance_id is None or attempt.exit is not None or job.ending is not None:
        return False
    is_ending = attempt.stopping_since is not None or attempt.notice_deadline is not None
    return not is_ending and attempt.trained_until is None


def may_leave(job: Job, recommended_at: datetime | None) -> bool:
    """Whether AWS recommends to leave the job's machine, and the user wants to follow (`ec2.rebalance: move`)."""
    follows = job.spec.provider == "ec2" and job.spec.ec2.rebalance is Rebalance.MOVE
    return follows and recommended_at is not None and may_move(job)


def leave(job: Job, offers: Sequence[Offer], at: datetime) -> MoveDecided | None:
    """The cheapest other spot pool, to go on in before the present one takes its machine back; None: there is none that
    can be tried, and a machine at risk is better than none."""
    attempt = job.attempt
    if attempt is None or attempt.market != MarketKind.SPOT.value:
        return None  # on-demand machines are not at risk
    holds = Cooldown().holds(situation(job, now=at, offers=offers))
    others = [
        offer
        for offer in offers
        if offer.market is MarketKind.SPOT and offer.pool not in holds and offer.pool != attempt.pool
    ]
    if not others:
        return None
    best = min(others, key=lambda offer: (offer.price_usd_per_hour, offer.pool))
    return MoveDecided(
        at=at,
        attempt=attempt.number,
        pool=best.pool,
        market=best.market.value,
        reason=f"AWS recommends to leave {attempt.zone}: an interruption of this machine has become likely",
        at_risk=True,
    )


def look(spec: JobSpec) -> timedelta:
    """How often it is asked whether a job should move, in job time."""
    scale = spec.local.time_scale if spec.provider == "local" else 1.0
    least = LOOK if spec.limits.on_shortage is OnShortage.ON_DEMAND else _LOOK_FOR_PRICES
    return max(least, timedelta(seconds=_LOOK_WALL_S * scale))


def placed(job: Job, offer: Offer, at: datetime, *, reason: str, others: Sequence[Offer] = ()) -> Placed:
    """The next attempt of the job on this offer, or one of the others, with the token that makes its launch repeatable."""
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
        alternatives=tuple(
            Alternative(
                zone=it.zone,
                instance_type=it.instance_type,
                price_usd_per_hour=it.price_usd_per_hour,
                on_demand_usd_per_hour=it.on_demand_usd_per_hour,
            )
            for it in others
        ),
    )
