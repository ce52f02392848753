"""What a job can choose among now, as far as is known: the best spot offer, the best on-demand offer, and what is on hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from spotrun.market.offer import MarketKind, Offer
from spotrun.policy.cooldown import Cooldown, Hold
from spotrun.policy.situation import Situation
from spotrun.policy.zone import UNKNOWN_AVAILABILITY, hourly_price, rest_of_run_h

__all__ = ["Choice", "age_s", "run_h"]

# From a pool's last refusal or interruption until a job gives up a machine to try it again. Of outages in probe traces of
# single zones half last less than an hour.
_TRY_AGAIN = timedelta(hours=1)

# The age that the up-run of a pool is taken to have of which nothing is known: the mean length of a run in the recordings of
# `spotrun.market.generator`. Of one that is met at a random instant ten hours more can be expected there, so this is careful.
_UNKNOWN_AGE = timedelta(hours=3)


class Choice:
    """What can be had.

    Attributes:
        spot, on_demand: the best offers that can be tried now.
        usable, free_on_demand: all that can be tried now.
        held, held_spots: the holds on all pools, and on spot pools.
        pools: how many spot pools there are.
        heads_to, comes_from: the market to which the last machine was given up, and its own.
        down_since: since when there is no spot.
    """

    def __init__(self, situation: Situation, cooldown: Cooldown, *, may_buy: bool) -> None:
        holds = cooldown.holds(situation)
        spots, bought = _cheapest_first(situation, MarketKind.SPOT), _cheapest_first(situation, MarketKind.ON_DEMAND)
        if may_buy and bought:
            dearest = min(offer.price_usd_per_hour for offer in bought)
            spots = [offer for offer in spots if offer.price_usd_per_hour < dearest]
        free = [offer for offer in bought if offer.pool not in holds]
        self.pools = len(spots)
        self.usable = [offer for offer in spots if _may_be_tried(situation, offer, holds)]
        self.spot = min(self.usable, key=lambda offer: _expected_price(situation, offer), default=None)
        self.free_on_demand = free if may_buy else []
        self.on_demand = self.free_on_demand[0] if self.free_on_demand else None
        self.held = [holds[offer.pool] for offer in (*spots, *bought) if offer.pool in holds]
        self.held_spots = [holds[offer.pool] for offer in spots if offer.pool in holds]
        self.heads_to, self.comes_from = _market(situation.heading), _market(situation.leaving)
        self.down_since = _down_since(situation)


def run_h(situation: Situation, offer: Offer) -> float:
    """The hours that can still be expected of the up-run of a pool. A pool that the job has a machine of has been up for at
    least as long."""
    age = _UNKNOWN_AGE.total_seconds() if offer.up is None else age_s(situation, offer)
    running = situation.running
    if running is not None and running.pool == offer.pool:
        age = max(age, (situation.now - running.placed_at).total_seconds())
    return rest_of_run_h(age, availability=UNKNOWN_AVAILABILITY)


def age_s(situation: Situation, offer: Offer) -> float:
    """For how long the pool has been up, as far as is known."""
    return max(0.0, (situation.now - offer.since).total_seconds()) if offer.up and offer.since else 0.0


def _expected_price(situation: Situation, offer: Offer) -> tuple[float, str]:
    price = hourly_price(
        float(offer.price_usd_per_hour),
        run_h=run_h(situation, offer),
        changeover_s=situation.changeover.total_seconds(),
        moving_price=situation.egress_usd(offer) / situation.nodes,
    )
    return price, offer.pool


def _may_be_tried(situation: Situation, offer: Offer, holds: Mapping[str, Hold]) -> bool:
    """A job that has a machine does not give it up to try a pool that has lately refused, unless that is known to be up."""
    if offer.up is False or offer.pool in holds:
        return False
    return situation.running is None or offer.up is True or not _tried_lately(situation, offer)


def _tried_lately(situation: Situation, offer: Offer) -> bool:
    instants = [refusal.at for refusal in situation.refusals if refusal.pool == offer.pool]
    instants += [lost.at for lost in situation.interruptions if lost.pool == offer.pool]
    return any(situation.now - at < _TRY_AGAIN for at in instants)


def _down_since(situation: Situation) -> datetime:
    """Where it is told which pools are up, that counts; elsewhere the job's own last spot machine."""
    told = [offer for offer in situation.offers if offer.up is not None]
    if any(offer.up for offer in told):
        return situation.now
    downs = [offer.since for offer in told if offer.since is not None]
    return max(downs) if downs else situation.spot_ended_at or situation.submitted_at


def _cheapest_first(situation: Situation, kind: MarketKind) -> list[Offer]:
    offers = [offer for offer in situation.offers if offer.market is kind]
    return sorted(offers, key=lambda offer: (offer.price_usd_per_hour, offer.pool))


def _market(pool: str) -> MarketKind | None:
    kind = pool.rpartition("/")[2]
    return MarketKind(kind) if kind else None
