"""Where to run next: the cheapest spot capacity there is, and on-demand only for a deadline that needs it.

Spot capacity comes and goes, so a job waits when every pool is on hold. With `on_shortage: on_demand` there is a safety
net: once the slack is used up, that is when time left is no more than the work left and two changeovers, it buys
on-demand capacity and stays there. One changeover pays for a start on spot, the other for starting again if it is lost.
Below that, one more wait could cost the deadline; above it, waiting costs nothing.

Source: Wu et al., "Can't Be Late: Optimizing Spot Instance Savings under Deadlines", NSDI 2024 (its greedy policy with
the safety net).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from spotrun.job import Limits, OnShortage
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy.cooldown import Cooldown, Hold
from spotrun.policy.situation import Situation
from spotrun.units import format_duration, format_percent

__all__ = ["Deadline", "Decision", "Greedy", "LaunchOffer", "Placement", "Wait", "placement"]

# Without any offer there is no pool to wait for; the provider is asked again this often.
_ASK_AGAIN = timedelta(minutes=5)

_POOLS_NAMED = 4  # in a reason; more do not help a reader


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOffer:
    """Launch this offer, for the reason given in one sentence."""

    offer: Offer
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Ask again at `until`, for the reason given in one sentence."""

    until: datetime
    reason: str


Decision: TypeAlias = LaunchOffer | Wait


class Placement(Protocol):
    """Decides where a job without a machine runs next. Pure: the same situation gives the same decision."""

    def decide(self, situation: Situation) -> Decision:
        """What to do now; a `Wait` always lies in the future."""


def placement(limits: Limits) -> Placement:
    """The policy that these limits ask for."""
    return Deadline(Greedy()) if limits.on_shortage is OnShortage.ON_DEMAND else Greedy()


@dataclass(frozen=True, slots=True)
class Greedy:
    """The cheapest spot pool that is not on hold; waits for the first hold to pass otherwise."""

    cooldown: Cooldown = field(default_factory=Cooldown)

    def decide(self, situation: Situation) -> Decision:
        offers = _cheapest_first(situation, MarketKind.SPOT)
        holds = self.cooldown.holds(situation)
        free = [offer for offer in offers if offer.pool not in holds]
        if free:
            return LaunchOffer(offer=free[0], reason=_why_cheapest(free))
        held = [holds[offer.pool] for offer in offers]
        until = min((hold.until for hold in held), default=situation.now + _ASK_AGAIN)
        return Wait(until=until, reason=_why_waiting(situation, held, until))


@dataclass(frozen=True, slots=True)
class Deadline:
    """Another policy, with the safety net below it: on-demand capacity once the slack is used up.

    Buys on-demand only when the limits say `on_shortage: on_demand`.
    """

    inner: Placement
    cooldown: Cooldown = field(default_factory=Cooldown)

    def decide(self, situation: Situation) -> Decision:
        if situation.limits.on_shortage is not OnShortage.ON_DEMAND:
            return self.inner.decide(situation)
        if situation.slack > timedelta(0):
            decision = self.inner.decide(situation)
            out_of_slack = situation.now + situation.slack
            if isinstance(decision, Wait) and decision.until > out_of_slack:
                decision = replace(decision, until=out_of_slack)
            return decision
        holds = self.cooldown.holds(situation)
        free = [offer for offer in _cheapest_first(situation, MarketKind.ON_DEMAND) if offer.pool not in holds]
        if free:
            return LaunchOffer(offer=free[0], reason=_why_on_demand(situation, free[0]))
        decision = self.inner.decide(situation)  # late or not, spot is the best there is
        if isinstance(decision, Wait):
            held = [holds[offer.pool].until for offer in _of_kind(situation, MarketKind.ON_DEMAND)]
            decision = replace(decision, until=min([decision.until, *held]))
        return decision


def _of_kind(situation: Situation, kind: MarketKind) -> list[Offer]:
    return [offer for offer in situation.offers if offer.market is kind]


def _cheapest_first(situation: Situation, kind: MarketKind) -> list[Offer]:
    return sorted(_of_kind(situation, kind), key=lambda offer: (offer.price_usd_per_hour, offer.pool))


def _why_cheapest(free: list[Offer]) -> str:
    offer = free[0]
    rank = "the only spot pool" if len(free) == 1 else f"the cheapest of {len(free)} spot pools"
    price = f"{rank} free to try: ${offer.price_usd_per_hour:.4f}/h"
    if offer.on_demand_usd_per_hour <= 0:
        return price
    saving = 1 - offer.price_usd_per_hour / offer.on_demand_usd_per_hour
    return f"{price}, {format_percent(saving)} below on-demand"


def _why_on_demand(situation: Situation, offer: Offer) -> str:
    return (
        f"on demand at ${offer.price_usd_per_hour:.4f}/h to be done by {_clock(situation, situation.deadline)}: "
        f"up to {format_duration(situation.work_left)} of work and {format_duration(2 * situation.changeover)} for "
        f"changeovers are left, and {format_duration(situation.deadline - situation.now)} of max_wait"
    )


def _why_waiting(situation: Situation, held: list[Hold], until: datetime) -> str:
    if not held:
        what = "the provider offers no spot pool that fits the resources"
    else:
        latest = sorted(held, key=lambda hold: (hold.until, hold.pool))
        told = [
            f"{hold.pool.removesuffix('/spot')} {hold.why} {_ago(situation.now - hold.since)}"
            for hold in latest[:_POOLS_NAMED]
        ]
        more = f", and {len(held) - _POOLS_NAMED} more" if len(held) > _POOLS_NAMED else ""
        what = f"no spot pool can be tried now ({', '.join(told)}{more})"
    left = format_duration(max(timedelta(0), situation.deadline - situation.now))
    return f"waiting: {what}; next try {_clock(situation, until)}; {left} of max_wait left"


def _ago(span: timedelta) -> str:
    minutes = round(span.total_seconds() / 60)
    return "just now" if minutes < 1 else f"{minutes} min ago"


def _clock(situation: Situation, at: datetime) -> str:
    return f"{at:%H:%M} UTC" if at.date() == situation.now.date() else f"{at:%Y-%m-%d %H:%M} UTC"
