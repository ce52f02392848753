"""Where to run next, and whether to move: wait, launch this offer, stay, or move to that one.

With `on_shortage: wait` a job takes the cheapest spot capacity there is, waits when every pool is on hold, and never buys
on-demand. With `on_shortage: on_demand` one of the rules of `spotrun.policy.rule` decides by the slack: time left, less the
work left, less what a start-up still takes. The rule is asked while the job has no machine or one on demand; what it
says passes the safety layer, which buys on-demand in time even if spot vanishes the next moment. It reckons with upper
bounds: `Situation.changeover` and `Situation.work_left`.

Clouds do not tell whether a pool has capacity; launching is how one asks. So a pool counts as up while it is not on
hold (see `spotrun.policy.cooldown`). An idle job tries it at once: a refusal costs nothing. A job on demand would have to give
its machine up for the try, so it asks for a changeover more of slack, and for an hour since the pool's last refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from spotrun.job import Limits, OnShortage
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy.catalogue import DEFAULT, NamedRule
from spotrun.policy.cooldown import Cooldown, Hold
from spotrun.policy.rule import IDLE, ON_DEMAND, SPOT, Case, View, safe
from spotrun.policy.situation import Situation
from spotrun.policy.together import others_of, told
from spotrun.policy.zone import back_within, hourly_price
from spotrun.units import format_duration, format_percent

__all__ = ["Decision", "Greedy", "LaunchOffer", "Move", "Placement", "Ruled", "Stay", "Wait", "placement"]

# Without any offer there is no pool to wait for; the provider is asked again this often.
_ASK_AGAIN = timedelta(minutes=5)

_POOLS_NAMED = 4  # in a reason; more do not help a reader

# From a pool's last refusal or interruption until a job gives up an on-demand machine to try it again. Of outages in probe
# traces of single zones half last less than an hour.
_TRY_AGAIN = timedelta(hours=1)

# Between two looks at a job; how late a decision may come after its reason.
LOOK = timedelta(seconds=60)

_UNKNOWN_AVAILABILITY = 0.5
_HALVINGS = 24  # a reserve of a year to within a few seconds
_SOON = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOffer:
    """Launch this offer, or any of `others`, for the reason given in one sentence. See `spotrun.policy.together`."""

    offer: Offer
    reason: str
    others: tuple[Offer, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Ask again at `until`, for the reason given in one sentence."""

    until: datetime
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stay:
    """Keep the machine, for the reason given in one sentence."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """Save, give the machine up, and go on on this offer, for the reason given in one sentence."""

    offer: Offer
    reason: str


Decision: TypeAlias = LaunchOffer | Wait | Stay | Move


class Placement(Protocol):
    """Decides where a job runs. Pure, stateless: the same situation gives the same decision, however often it is asked."""

    def decide(self, situation: Situation) -> Decision:
        """What to do now: LaunchOffer or Wait for a job without a machine, Stay or Move for one with a machine. A `Wait`
        always lies in the future."""


def placement(
    limits: Limits, *, rule: NamedRule = DEFAULT, look: timedelta = LOOK, cooldown: Cooldown | None = None
) -> Placement:
    """The policy that these limits ask for.

    Args:
        rule: decides when on-demand may be bought.
        look: how often the job is looked at.
        cooldown: which pools are left alone, and for how long.
    """
    cooldown = cooldown or Cooldown()
    if limits.on_shortage is OnShortage.ON_DEMAND:
        return Ruled(rule=rule, look=look, cooldown=cooldown)
    return Greedy(cooldown)


@dataclass(frozen=True, slots=True)
class Greedy:
    """The cheapest spot pool that is not on hold; waits for the first hold to pass otherwise. Never moves."""

    cooldown: Cooldown = field(default_factory=Cooldown)

    def decide(self, situation: Situation) -> Decision:
        if situation.running is not None:
            return Stay(reason="it runs, and only spot may be bought")
        offers = _cheapest_first(situation, MarketKind.SPOT)
        holds = self.cooldown.holds(situation)
        free = [offer for offer in offers if _may_be_up(offer, holds)]
        if free:
            return _launch(free[0], free, situation, reason=_why_cheapest(free))
        held = [holds[offer.pool] for offer in offers if offer.pool in holds]
        until = min((hold.until for hold in held), default=situation.now + _ASK_AGAIN)
        return Wait(until=until, reason=_why_waiting(situation, held, until))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruled:
    """A rule over the slack, with the safety layer beneath. Buys on-demand only when the limits allow it.

    Attributes:
        rule: says what to do.
        look: how often the job is looked at: what is decided must hold for so long.
    """

    rule: NamedRule = DEFAULT
    look: timedelta = LOOK
    cooldown: Cooldown = field(default_factory=Cooldown)

    def decide(self, situation: Situation) -> Decision:
        if situation.limits.on_shortage is not OnShortage.ON_DEMAND:
            return Greedy(self.cooldown).decide(situation)
        market = _Market(situation, self.cooldown)
        view = _view(situation, market)
        choice = self._choice(view, market)
        if situation.running is None:
            return self._placed(situation, market, view, choice)
        return _moved(situation, market, choice)

    def _choice(self, view: View, market: _Market) -> int:
        if view.mode == SPOT:
            wanted = SPOT  # its progress is the cheapest there is
        elif market.heads_to is MarketKind.ON_DEMAND:
            wanted = ON_DEMAND
        else:
            wanted = self.rule.rule(view, self.rule.constants(view.case))
        return safe(view, wanted, 0.0, self.look.total_seconds())

    def _placed(self, situation: Situation, market: _Market, view: View, choice: int) -> LaunchOffer | Wait:
        spot, bought = market.spot, market.on_demand
        if choice == SPOT and spot is not None:
            return _launch(spot, market.usable, situation, reason=_why_spot(situation, market))
        if choice == ON_DEMAND and bought is not None:
            return _launch(bought, market.free_on_demand, situation, reason=_why_on_demand(situation, bought))
        if choice == ON_DEMAND and spot is not None:  # no on-demand to be had: late or not, spot is the best there is
            reason = f"{_why_spot(situation, market)}; no on-demand pool can be tried now"
            return _launch(spot, market.usable, situation, reason=reason)
        until = min([hold.until for hold in market.held] or [situation.now + _ASK_AGAIN])
        if choice != ON_DEMAND:
            last = situation.now + situation.slack - situation.changeover - self.look  # to wait without being late
            until = min(until, max(last, situation.now + self.look))
        hopes = f"{_slack_told(situation)}, {self._reserve_told(view)}, {_hope_told(view)}; "
        return Wait(until=until, reason=_why_waiting(situation, market.held_spots, until, hopes=hopes))

    def _reserve_told(self, view: View) -> str:
        """The least slack with which the rule still waits, found by asking it."""
        low, high = 0.0, max(view.left_s - view.work_s, 0.0)
        constants = self.rule.constants(view.case)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            waits = self.rule.rule(view._replace(left_s=view.work_s + middle), constants) == IDLE
            low, high = (low, middle) if waits else (middle, high)
        return f"reserve {format_duration(timedelta(seconds=round(high)))}"


def _launch(offer: Offer, free: Sequence[Offer], situation: Situation, *, reason: str) -> LaunchOffer:
    others = others_of(offer, free, situation)
    return LaunchOffer(offer=offer, reason=reason + told(offer, others), others=others)


def _moved(situation: Situation, market: _Market, choice: int) -> Stay | Move:
    running = situation.running
    assert running is not None, "only what runs can move"
    if choice == ON_DEMAND and running.market is MarketKind.SPOT and market.on_demand is not None:
        return Move(offer=market.on_demand, reason=_why_on_demand(situation, market.on_demand))
    if choice == SPOT and running.market is MarketKind.ON_DEMAND and market.spot is not None:
        return Move(offer=market.spot, reason=_why_spot(situation, market))
    return Stay(reason=f"on {running.market.value.replace('_', '-')}: {_slack_told(situation)}")


class _Market:
    """What can be had, as far as is known.

    Attributes:
        spot, on_demand: the best offers that can be tried now.
        usable, free_on_demand: all that can be tried now.
        held, held_spots: the holds on all pools, and on spot pools.
        pools: how many spot pools there are.
        heads_to: the market to which the last machine was given up.
    """

    def __init__(self, situation: Situation, cooldown: Cooldown) -> None:
        holds = cooldown.holds(situation)
        spots, bought = _cheapest_first(situation, MarketKind.SPOT), _cheapest_first(situation, MarketKind.ON_DEMAND)
        free = [offer for offer in bought if offer.pool not in holds]
        dearest = min((offer.price_usd_per_hour for offer in bought), default=None)
        spots = [offer for offer in spots if dearest is None or offer.price_usd_per_hour < dearest]
        usable = [offer for offer in spots if _may_be_up(offer, holds)]
        running = situation.running
        if running is not None and running.market is MarketKind.ON_DEMAND:
            usable = [offer for offer in usable if offer.up or not _tried_lately(situation, offer)]
        self.pools = len(spots)
        self.free_on_demand = free
        self.on_demand = free[0] if free else None
        self.spot = min(usable, key=lambda offer: _expected_price(situation, offer), default=None)
        self.usable = usable
        self.held = [holds[offer.pool] for offer in (*spots, *bought) if offer.pool in holds]
        self.held_spots = [holds[offer.pool] for offer in spots if offer.pool in holds]
        heading = situation.heading.rpartition("/")[2]
        self.heads_to = MarketKind(heading) if heading else None


def _view(situation: Situation, market: _Market) -> View:
    """The situation in the numbers of a rule."""
    running, spot = situation.running, market.spot
    mode = IDLE
    if running is not None:
        mode = SPOT if running.market is MarketKind.SPOT else ON_DEMAND
    elif market.heads_to is MarketKind.SPOT:
        mode = ON_DEMAND  # it was on demand when the move was decided, and the move is to be judged by the same measure
    left_s = (situation.deadline - situation.now).total_seconds()
    if mode == ON_DEMAND and running is not None and spot is not None and spot.up is None:
        left_s -= situation.changeover.total_seconds()  # the try may fail, and the way back is another changeover
    outages = [offer.since for offer in situation.offers if offer.up is False and offer.since is not None]
    outage = max(outages) if outages else situation.spot_ended_at or situation.submitted_at
    ratio = 1.0
    if spot is not None and spot.price_usd_per_hour > 0:
        ratio = float(spot.on_demand_usd_per_hour / spot.price_usd_per_hour)
    work_s = situation.work_left.total_seconds()
    return View(
        mode=mode,
        up=mode == SPOT or spot is not None,
        left_s=left_s,
        work_s=work_s,
        start_s=situation.starting.total_seconds(),
        age_s=0.0 if spot is None else _age_s(situation, spot),
        outage_s=max(0.0, (situation.now - outage).total_seconds()),
        elapsed_s=(situation.now - situation.submitted_at).total_seconds(),
        zones=max(1, market.pools),
        case=Case(
            work_s=situation.total_s,
            deadline_s=situation.limits.max_wait.total_seconds(),
            changeover_s=situation.changeover.total_seconds(),
            interval_s=situation.interval.total_seconds(),
            on_demand_price=ratio,
        ),
    )


def _may_be_up(offer: Offer, holds: Mapping[str, Hold]) -> bool:
    """What is known of the pool decides; where nothing is, whether it is on hold."""
    return offer.pool not in holds if offer.up is None else offer.up


def _age_s(situation: Situation, offer: Offer) -> float:
    """For how long the pool has been up, as far as is known."""
    return max(0.0, (situation.now - offer.since).total_seconds()) if offer.up and offer.since else 0.0


def _expected_price(situation: Situation, offer: Offer) -> tuple[float, str]:
    price = hourly_price(
        float(offer.price_usd_per_hour),
        age_s=_age_s(situation, offer),
        availability=_UNKNOWN_AVAILABILITY,
        changeover_s=situation.changeover.total_seconds(),
    )
    return price, offer.pool


def _tried_lately(situation: Situation, offer: Offer) -> bool:
    instants = [refusal.at for refusal in situation.refusals if refusal.pool == offer.pool]
    instants += [lost.at for lost in situation.interruptions if lost.pool == offer.pool]
    return any(situation.now - at < _TRY_AGAIN for at in instants)


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


def _why_spot(situation: Situation, market: _Market) -> str:
    offer = market.spot
    assert offer is not None, "only an offer has a reason"
    others = [it for it in market.usable if it.pool != offer.pool]
    return f"{_why_cheapest([offer, *others])}; {_slack_told(situation)}"


def _hope_told(view: View) -> str:
    share = back_within(_SOON.total_seconds(), outage_s=view.outage_s)
    return f"{format_percent(share)} of recorded outages of this age were over within half an hour"


def _slack_told(situation: Situation) -> str:
    return f"slack {format_duration(situation.slack)}"


def _why_on_demand(situation: Situation, offer: Offer) -> str:
    bound = "" if situation.knows_its_end else " (the training tells no total, so max_run counts)"
    return (
        f"on demand at ${offer.price_usd_per_hour:.4f}/h to be done by {_clock(situation, situation.deadline)}: "
        f"up to {format_duration(situation.work_left)} of work{bound} and {format_duration(situation.changeover)} for a "
        f"changeover are left, and {format_duration(situation.deadline - situation.now)} of max_wait"
    )


def _why_waiting(situation: Situation, held: list[Hold], until: datetime, *, hopes: str = "") -> str:
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


def _ago(span: timedelta) -> str:
    minutes = round(span.total_seconds() / 60)
    return "just now" if minutes < 1 else f"{minutes} min ago"


def _clock(situation: Situation, at: datetime) -> str:
    return f"{at:%H:%M} UTC" if at.date() == situation.now.date() else f"{at:%Y-%m-%d %H:%M} UTC"
