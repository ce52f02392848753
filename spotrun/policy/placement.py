"""Where to run next, and whether to move: wait, launch this offer, stay, or move to that one.

With `on_shortage: wait` a job takes the cheapest spot capacity there is, waits when every pool is on hold, and never buys
on-demand. With `on_shortage: on_demand` one of the rules of `spotrun.policy.rule` decides by the slack: time left, less the
work left, less what a start-up still takes. The rule is asked while the job has no machine or one on demand; what it
says passes the safety layer, which buys on-demand in time even if spot vanishes the next moment. It reckons with upper
bounds: `Situation.changeover` and `Situation.work_left`. A job on spot may move to cheaper spot where that pays; see
`spotrun.policy.swap`.

Clouds do not tell whether a pool has capacity; launching is how one asks. So a pool counts as up while it is not on
hold (see `spotrun.policy.cooldown`). An idle job tries it at once: a refusal costs nothing. A job that has a machine would
have to give it up for the try, so it asks for a changeover more of slack on demand, for twice the gain on spot, and for
an hour since the pool's last refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Protocol, TypeAlias

from spotrun.job import Limits, OnShortage
from spotrun.market.offer import MarketKind, Offer
from spotrun.policy import reason
from spotrun.policy.catalogue import DEFAULT, NamedRule, named
from spotrun.policy.choice import Choice, age_s, run_h
from spotrun.policy.cooldown import Cooldown
from spotrun.policy.rule import IDLE, ON_DEMAND, SPOT, Case, View, safe
from spotrun.policy.situation import Situation
from spotrun.policy.swap import HELD_S, PAYS, Swap, spare, weigh
from spotrun.policy.together import others_of, told
from spotrun.policy.zone import UNKNOWN_AVAILABILITY

__all__ = ["Decision", "LaunchOffer", "Move", "Placement", "Ruled", "SpotOnly", "Stay", "Wait", "placement"]

# Without any offer there is no pool to wait for; the provider is asked again this often.
_ASK_AGAIN = timedelta(minutes=5)

# Between two looks at a job; how late a decision may come after its reason.
LOOK = timedelta(seconds=60)

_HALVINGS = 24  # a reserve of a year to within a few seconds


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
    limits: Limits, *, look: timedelta = LOOK, polled: timedelta = timedelta(0), cooldown: Cooldown | None = None
) -> Placement:
    """The policy that these limits ask for.

    Args:
        look: how often the job is looked at.
        polled: how late a look may come, and how late it may be seen what became of it.
        cooldown: which pools are left alone, and for how long.
    """
    rule, cooldown = named(limits.policy), cooldown or Cooldown()
    if limits.on_shortage is OnShortage.ON_DEMAND:
        return Ruled(rule=rule, look=look, polled=polled, cooldown=cooldown)
    return SpotOnly(rule=rule, cooldown=cooldown)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotOnly:
    """The cheapest spot pool that is not on hold; waits for the first hold to pass otherwise. Moves only to cheaper spot.

    Attributes:
        rule: says whether the slack of a move can be spared.
    """

    rule: NamedRule = DEFAULT
    cooldown: Cooldown = field(default_factory=Cooldown)

    def decide(self, situation: Situation) -> Decision:
        choice = Choice(situation, self.cooldown, may_buy=False)
        if situation.running is not None:
            view = _view(situation, choice, may_buy=False)
            moved = _cheaper(situation, choice, view, self.rule)
            return moved or Stay(reason="it runs, and only spot may be bought")
        if choice.spot is not None:
            return _launch(choice.spot, choice.usable, situation, why=reason.cheapest(choice))
        until = min((hold.until for hold in choice.held_spots), default=situation.now + _ASK_AGAIN)
        return Wait(until=until, reason=reason.waiting(situation, choice.held_spots, until))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruled:
    """A rule over the slack, with the safety layer beneath. Buys on-demand only when the limits allow it.

    Attributes:
        rule: says what to do.
        look: how often the job is looked at.
        polled: how late a look may come, and how late it may be seen what became of the machine.
        lasts: whether spot that is up is kept until the next look, and saves come on time: in simulations alone.
    """

    rule: NamedRule = DEFAULT
    look: timedelta = LOOK
    polled: timedelta = timedelta(0)
    lasts: bool = False
    cooldown: Cooldown = field(default_factory=Cooldown)

    def decide(self, situation: Situation) -> Decision:
        if situation.limits.on_shortage is not OnShortage.ON_DEMAND:
            return SpotOnly(rule=self.rule, cooldown=self.cooldown).decide(situation)
        choice = Choice(situation, self.cooldown, may_buy=True)
        view = _view(situation, choice, may_buy=True)
        mode = self._mode(situation, view, choice)
        if situation.running is None:
            return self._placed(situation, choice, view, mode)
        return self._moved(situation, choice, view, mode)

    def _mode(self, situation: Situation, view: View, choice: Choice) -> int:
        if view.mode == SPOT:
            wanted = SPOT  # its progress is the cheapest there is
        elif choice.heads_to is MarketKind.ON_DEMAND:
            wanted = ON_DEMAND
        else:
            wanted = self.rule.rule(view, self.rule.constants(view.case))
        undone_s, look_s = situation.undone.total_seconds(), self.look.total_seconds()
        if wanted == IDLE:  # until it is to be asked again, and nothing can be lost
            return safe(view, wanted, undone_s, look_s, self.lasts)
        return self._guarded(view, wanted, undone_s)

    def _guarded(self, view: View, wanted: int, undone_s: float) -> int:
        """What is safe until the next look, which may come late, and then until it is seen what became of the machine."""
        polled_s = self.polled.total_seconds()
        seen = view._replace(left_s=view.left_s - polled_s)
        return safe(seen, wanted, undone_s, self.look.total_seconds() + polled_s, self.lasts)

    def _placed(self, situation: Situation, choice: Choice, view: View, mode: int) -> LaunchOffer | Wait:
        spot, bought = choice.spot, choice.on_demand
        if mode == SPOT and spot is not None:
            return _launch(spot, choice.usable, situation, why=reason.spot(situation, choice))
        if mode == ON_DEMAND and bought is not None:
            return _launch(bought, choice.free_on_demand, situation, why=reason.on_demand(situation, bought))
        if mode == ON_DEMAND and spot is not None:  # no on-demand to be had: late or not, spot is the best there is
            why = f"{reason.spot(situation, choice)}; no on-demand pool can be tried now"
            return _launch(spot, choice.usable, situation, why=why)
        until = min([hold.until for hold in choice.held] or [situation.now + _ASK_AGAIN])
        if mode != ON_DEMAND:
            last = situation.now + situation.slack - situation.changeover - self.look  # to wait without being late
            until = min(until, max(last, situation.now + self.look))
            until = self._while_it_waits(situation, view, until)
        hopes = f"{reason.slack(situation)}, {self._reserve_told(view)}, {reason.hope(view)}; "
        return Wait(until=until, reason=reason.waiting(situation, choice.held_spots, until, hopes=hopes))

    def _moved(self, situation: Situation, choice: Choice, view: View, mode: int) -> Stay | Move:
        running = situation.running
        assert running is not None, "only what runs can move"
        if mode == ON_DEMAND and running.market is MarketKind.SPOT and choice.on_demand is not None:
            return Move(offer=choice.on_demand, reason=reason.on_demand(situation, choice.on_demand))
        if mode == SPOT and running.market is MarketKind.ON_DEMAND and choice.spot is not None and situation.saves:
            return Move(offer=choice.spot, reason=reason.spot(situation, choice))
        start = view._replace(mode=IDLE, up=True, start_s=0.0)
        if view.mode == mode == SPOT and self._guarded(start, SPOT, 0.0) == SPOT:
            moved = _cheaper(situation, choice, view, self.rule)
            if moved is not None:
                return moved
        return Stay(reason=f"on {running.market.value.replace('_', '-')}: {reason.slack(situation)}")

    def _while_it_waits(self, situation: Situation, view: View, until: datetime) -> datetime:
        """The instant, `until` at the latest, at which the rule no longer waits: nobody has to ask in between."""
        constants = self.rule.constants(view.case)

        def waits(seconds: float) -> bool:
            elapsed_s, outage_s = view.elapsed_s + seconds, view.outage_s + seconds
            later = view._replace(left_s=view.left_s - seconds, elapsed_s=elapsed_s, outage_s=outage_s)
            return self.rule.rule(later, constants) == IDLE

        low, high = 0, ceil((until - situation.now).total_seconds())
        if waits(high):
            return until
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if waits(middle) else (low, middle)
        return min(until, situation.now + timedelta(seconds=high))

    def _reserve_told(self, view: View) -> str:
        """The least slack with which the rule still waits, found by asking it."""
        low, high = 0.0, max(view.left_s - view.work_s, 0.0)
        constants = self.rule.constants(view.case)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            waits = self.rule.rule(view._replace(left_s=view.work_s + middle), constants) == IDLE
            low, high = (low, middle) if waits else (middle, high)
        return reason.reserve(high, self.rule.name)


def _launch(offer: Offer, free: Sequence[Offer], situation: Situation, *, why: str) -> LaunchOffer:
    others = others_of(offer, free, situation)
    return LaunchOffer(offer=offer, reason=why + told(offer, others), others=others)


def _cheaper(situation: Situation, choice: Choice, view: View, rule: NamedRule) -> Move | None:
    """The move of a job on spot to the pool that is best for a start, where it pays and its slack can be spared."""
    running, there = situation.running, choice.spot
    assert running is not None, "only what runs can move"
    here = next((it for it in situation.offers if it.pool == running.pool), None)
    if not situation.saves or here is None or there is None or there.pool == here.pool:
        return None
    if (situation.now - running.placed_at).total_seconds() < HELD_S:
        return None
    swap = Swap(
        here_price=float(here.price_usd_per_hour) * situation.nodes,
        here_run_h=run_h(situation, here),
        there_price=float(there.price_usd_per_hour) * situation.nodes,
        there_run_h=run_h(situation, there),
        moving_price=situation.egress_usd(there),
        work_s=view.work_s,
        chance=1.0 if there.up else UNKNOWN_AVAILABILITY,
    )
    gain, price, hours = weigh(swap, view.case)
    if swap.there_price >= swap.here_price or gain <= 0 or gain < PAYS * price:
        return None
    if rule.rule(spare(view), rule.constants(view.case)) != IDLE:
        return None
    return Move(offer=there, reason=reason.cheaper(situation, here, there, (gain, price, hours)))


def _view(situation: Situation, choice: Choice, *, may_buy: bool) -> View:
    """The situation in the numbers of a rule."""
    running, spot = situation.running, choice.spot
    mode = IDLE
    if running is not None:
        mode = SPOT if running.market is MarketKind.SPOT else ON_DEMAND
    elif choice.heads_to is MarketKind.SPOT and choice.comes_from is not MarketKind.SPOT:
        mode = ON_DEMAND  # it was on demand when the move was decided, and the move is to be judged by the same measure
    left_s = (situation.deadline - situation.now).total_seconds()
    if mode == ON_DEMAND and running is not None and spot is not None and spot.up is None:
        left_s -= situation.changeover.total_seconds()  # the try may fail, and the way back is another changeover
    ratio = 1.0
    if spot is not None and spot.price_usd_per_hour > 0:
        ratio = float(spot.on_demand_usd_per_hour / spot.price_usd_per_hour)
    return View(
        mode=mode,
        up=mode == SPOT or spot is not None,
        left_s=left_s,
        work_s=situation.work_left.total_seconds(),
        start_s=situation.starting.total_seconds(),
        age_s=0.0 if spot is None else age_s(situation, spot),
        outage_s=max(0.0, (situation.now - choice.down_since).total_seconds()),
        elapsed_s=(situation.now - situation.submitted_at).total_seconds(),
        zones=max(1, choice.pools),
        case=Case(
            work_s=situation.total_s,
            deadline_s=situation.limits.max_wait.total_seconds(),
            changeover_s=situation.changeover.total_seconds(),
            interval_s=situation.interval.total_seconds(),
            on_demand_price=ratio,
            may_buy=may_buy,
        ),
    )
