"""Why a job is placed, moved or kept waiting, in one sentence each: what the journal keeps and `spotrun events` tells."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from spotrun.market.offer import Offer
from spotrun.policy.choice import Choice
from spotrun.policy.cooldown import Hold
from spotrun.policy.rule import View
from spotrun.policy.situation import Situation
from spotrun.policy.zone import back_within
from spotrun.units import format_duration, format_percent, format_usd

__all__ = ["cheaper", "cheapest", "hope", "on_demand", "reserve", "slack", "spot", "waiting"]

_POOLS_NAMED = 4  # more do not help a reader
_SOON = timedelta(minutes=30)


def cheapest(choice: Choice) -> str:
    """Why this spot offer, of those that can be tried."""
    offer = choice.spot
    assert offer is not None, "only an offer has a reason"
    others = [it for it in choice.usable if it.pool != offer.pool]
    rank = f"the cheapest of {len(others) + 1} spot pools" if others else "the only spot pool"
    if any(it.price_usd_per_hour < offer.price_usd_per_hour for it in others):
        rank = f"of {len(others) + 1} spot pools the cheapest for as long as each is expected to last, of those"
    price = f"{rank} free to try: ${offer.price_usd_per_hour:.4f}/h"
    if offer.on_demand_usd_per_hour <= 0:
        return price
    saving = 1 - offer.price_usd_per_hour / offer.on_demand_usd_per_hour
    return f"{price}, {format_percent(saving)} below on-demand"


def spot(situation: Situation, choice: Choice) -> str:
    """The same for a job with a deadline."""
    return f"{cheapest(choice)}; {slack(situation)}"


def cheaper(situation: Situation, here: Offer, there: Offer, weighed: tuple[float, float, float]) -> str:
    """Why a job gives up a spot machine for a cheaper one; `weighed` is gain, price and hours of the move."""
    gain, price, hours = weighed
    return (
        f"${there.price_usd_per_hour:.4f}/h instead of ${here.price_usd_per_hour:.4f}/h: of {_usd(gain)} that are "
        f"expected to be saved within {format_duration(timedelta(hours=hours))} the move costs up to {_usd(price)}; "
        f"{slack(situation)}"
    )


def on_demand(situation: Situation, offer: Offer) -> str:
    """Why on-demand is bought."""
    bound = "" if situation.knows_its_end else " (the training tells no total, so max_run counts)"
    return (
        f"on demand at ${offer.price_usd_per_hour:.4f}/h to be done by {_clock(situation, situation.deadline)}: "
        f"up to {format_duration(situation.work_left)} of work{bound} and {format_duration(situation.changeover)} for a "
        f"changeover are left, and {format_duration(situation.deadline - situation.now)} of max_wait"
    )


def waiting(situation: Situation, held: Sequence[Hold], until: datetime, *, hopes: str = "") -> str:
    """Why nothing is launched: what was tried, what the answers were, and when it is tried again."""
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
    return f"waiting: {hopes}{what}; next try {_clock(situation, until)}; {left} of max_wait left"


def slack(situation: Situation) -> str:
    """How long the job can still stand idle."""
    return f"slack {format_duration(situation.slack)}"


def reserve(seconds: float, policy: str) -> str:
    """The slack that a policy keeps."""
    return f"reserve {format_duration(timedelta(seconds=round(seconds)))} by {policy}"


def hope(view: View) -> str:
    """What recordings say of outages like this one."""
    share = back_within(_SOON.total_seconds(), outage_s=view.outage_s)
    return f"{format_percent(share)} of recorded outages of this age were over within half an hour"


def _usd(amount: float) -> str:
    return format_usd(Decimal(f"{amount:.4f}"))


def _ago(span: timedelta) -> str:
    minutes = round(span.total_seconds() / 60)
    return "just now" if minutes < 1 else f"{minutes} min ago"


def _clock(situation: Situation, at: datetime) -> str:
    return f"{at:%H:%M} UTC" if at.date() == situation.now.date() else f"{at:%Y-%m-%d %H:%M} UTC"
