"""Which pools are asked for in one launch: the best one, and those that do as well.

A launch can name several pools where the offers say so (`Offer.asked_with`: on EC2, those of a region), and gives one of
them. That is made use of in two cases.

1. Nothing distinguishes them: their prices are alike, nothing is known of their ages or outages that would, none is on
   hold, and all of them or none have refused before. Then the provider, which knows how deep its pools are, chooses.
2. Shortage: a pool has refused lately. Then all that are not on hold are asked for at once, whatever they cost, and the
   cheapest that has capacity is given. That is what asking one by one comes to, in one call instead of dozens.

Nobody gets what asking one by one could not have given: only offers that may be tried now are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from spotrun.job import RefusalKind
from spotrun.market.offer import Offer, alike
from spotrun.policy.situation import Situation

__all__ = ["POOLS_MAX", "others_of", "told"]

POOLS_MAX = 100  # in one launch; EC2 documents no bound for an instant fleet, and 300 for the other kinds

# How long a refusal for want of capacity says something of the pools beside it: three of the longest pauses.
_SHORTAGE = timedelta(minutes=30)


def others_of(first: Offer, free: Sequence[Offer], situation: Situation) -> tuple[Offer, ...]:
    """The offers to ask for together with the best one, cheapest first.

    Args:
        first: the best offer.
        free: all that may be tried now.
        situation: whose refusals tell of a shortage.
    """
    if not first.asked_with:
        return ()
    beside = [it for it in free if _lot(it) == _lot(first) and it.pool != first.pool]
    if not _is_short(first, situation):
        refused = {refusal.pool for refusal in situation.refusals}
        beside = [it for it in beside if _is_like(it, first) and (it.pool in refused) == (first.pool in refused)]
    beside.sort(key=lambda it: (it.price_usd_per_hour, it.pool))
    return tuple(beside[: POOLS_MAX - 1])


def told(first: Offer, others: Sequence[Offer]) -> str:
    """What a reason says of them; empty if there are none."""
    if not others:
        return ""
    prices = [it.price_usd_per_hour for it in (first, *others)]
    many = "1 other" if len(others) == 1 else f"{len(others)} others"
    if alike(prices):
        return f"; asked for together with {many} at about that price"
    return f"; capacity is short, so {many} up to ${max(prices):.4f}/h are asked for at once, the cheapest first"


def _lot(offer: Offer) -> tuple[object, ...]:
    return offer.asked_with, offer.market


def _is_short(first: Offer, situation: Situation) -> bool:
    pools = {it.pool for it in situation.offers if _lot(it) == _lot(first)}
    return any(
        refusal.pool in pools and refusal.kind is RefusalKind.CAPACITY and situation.now - refusal.at <= _SHORTAGE
        for refusal in situation.refusals
    )


def _is_like(offer: Offer, first: Offer) -> bool:
    """Cheaper ones than the best are not like it: something else made it the best."""
    price = first.price_usd_per_hour
    return (
        offer.price_usd_per_hour >= price
        and alike((offer.price_usd_per_hour, price))
        and (offer.up, offer.since) == (first.up, first.since)
    )
