"""Placement rules as plain arithmetic: what is known at a moment -> idle, spot or on-demand.

A rule is a function `rule(view, constants) -> IDLE | SPOT | ON_DEMAND`, of numbers alone, stateless, so that one and the
same definition decides in the controller, in the forecast and, compiled, over millions of simulated hours. It is asked
while the job has no machine or one on demand; on spot a job stays for as long as it is let (leaving early gives up the
cheapest progress there is), unless a cheaper pool pays: see `spotrun.policy.swap`. Beneath every rule lies `safe`, which
lets pass only what cannot cost the deadline.

    t elapsed, R = deadline - t, rem work left, d changeover, S = R - rem - (what a start-up still takes): the slack
    S never grows: it falls with every idle hour and by d with every changeover; while work is done it stands still.

| rule | in a sentence |
|---|---|
| `greedy` | spot when there is some, otherwise wait until two changeovers' slack is left |
| `uniform_progress` | never fall behind the line from (0, 0) to (deadline, work): on demand while behind it |
| `reserve` | keep the slack that coming changeovers will use, and some for spot that comes later; by its constants |
| `table` | the decision of least expected cost, looked up; `spotrun.policy.stochastic` makes the table |
| `on_demand` | on demand from the first minute |

Source: greedy and uniform progress (as its authors' code has it): Wu et al., "Can't Be Late: Optimizing Spot Instance
Savings under Deadlines", NSDI 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "IDLE",
    "ON_DEMAND",
    "SLACK_RESERVE",
    "SPOT",
    "WIDENING_RESERVE",
    "Case",
    "GreedyConstants",
    "NoConstants",
    "ReserveConstants",
    "Rule",
    "View",
    "greedy",
    "on_demand",
    "reserve",
    "safe",
    "uniform_progress",
]

IDLE, SPOT, ON_DEMAND = 0, 1, 2


class Case(NamedTuple):
    """What stays the same over an episode. Durations in seconds."""

    work_s: float  # compute of the whole job
    deadline_s: float  # from its beginning
    changeover_s: float  # upper bound of the time from a launch to progress
    interval_s: float = 0.0  # between checkpoints; zero: an interruption loses nothing
    on_demand_price: float = 3.0  # per hour, in the unit of the spot prices
    moving_price: float = 0.0  # paid once for a start in another place than the last one: egress
    may_buy: bool = True  # on-demand; if not, nothing ever is, and the deadline is not guarded
    budget: float = 1e300  # what may be spent


class View(NamedTuple):
    """What is known at a moment. Durations in seconds."""

    mode: int  # IDLE, SPOT or ON_DEMAND
    up: bool  # spot can be had now, as far as is known
    left_s: float  # until the deadline
    work_s: float  # work left
    start_s: float  # what the start-up under way still takes
    age_s: float  # of the up-run of the best spot pool, if there is one
    outage_s: float  # for how long there has been none
    elapsed_s: float  # since the job began
    zones: int  # pools that spot may come from
    case: Case


Rule: TypeAlias = Callable[[View, Any], int]


class NoConstants(NamedTuple):
    """For rules without any."""

    unused: float = 0.0


class GreedyConstants(NamedTuple):
    """See `greedy`."""

    net: float = 2.0  # changeovers of slack at which waiting ends


class ReserveConstants(NamedTuple):
    """See `reserve`. In changeovers, hours and shares."""

    start: float  # changeovers of slack for a start on spot from idle
    base: float  # changeovers of slack kept in any case
    per_hour: float  # and for each hour of work left, once an outage is settled
    hope: float  # share of what is kept beyond the base while an outage is young
    young_h: float  # age of an outage until which it is young
    settled_h: float  # and from which all is kept; in between the share grows
    later_per_hour: float = 0.0  # share of the work left that is kept for later spot, for each hour of it
    later_max: float = 0.0  # of the work left, at most
    zones: float = 0.0  # of more than two zones the share falls with this power of half their number
    move: float = 0.5  # changeovers of slack for a move from on-demand to spot
    move_per_hour: float = 0.5  # and for each hour of work left, over 1 + the up-run's age in hours
    loss: float = 0.25  # of the checkpoint interval counts as part of a changeover


# Tuned on recorded traces at three times spot's price, and flat around these values.
SLACK_RESERVE = ReserveConstants(start=2.6, base=6.0, per_hour=1.2, hope=0.65, young_h=0.9, settled_h=0.9)

# Read off the policy of least expected cost and rounded; flat around these values.
WIDENING_RESERVE = ReserveConstants(
    start=2.5,
    base=4.5,
    per_hour=1.1,
    hope=0.5,
    young_h=0.0,
    settled_h=2.0,
    later_per_hour=0.003,
    later_max=0.15,
    zones=0.6,
)


def on_demand(view: View, constants: NoConstants) -> int:  # noqa: ARG001  the signature of a rule
    """On demand from the first minute: what the savings are measured against."""
    return ON_DEMAND


def greedy(view: View, constants: GreedyConstants) -> int:
    """Spot when there is some; otherwise waits until the slack is gone, then stays on demand."""
    if view.mode == ON_DEMAND:
        return ON_DEMAND
    if view.left_s <= view.work_s + constants.net * view.case.changeover_s:
        return ON_DEMAND
    return SPOT if view.up else IDLE


def uniform_progress(view: View, constants: GreedyConstants) -> int:
    """Spot whenever it is up; on demand while progress lags behind the even pace, and from then on until spot is up and
    progress is two changeovers ahead."""
    case = view.case
    done_s = case.work_s - view.work_s
    pace = case.work_s / case.deadline_s
    if view.mode == ON_DEMAND:
        ahead = done_s > pace * (view.elapsed_s + 2.0 * case.changeover_s)
        return SPOT if view.up and ahead else ON_DEMAND
    if view.left_s <= view.work_s + constants.net * case.changeover_s:
        return ON_DEMAND
    if view.up:
        return SPOT
    return ON_DEMAND if done_s < pace * view.elapsed_s else IDLE


def reserve(view: View, constants: ReserveConstants) -> int:
    """Guards the slack that coming changeovers will use, and no more, however loose the deadline is; and a part for later.

    Of a job with much work left some of its changeovers are still to come: each costs slack. An hour waited for spot now
    is an hour that cannot be waited when spot may be nearer, and the more work is left the more such hours will come. An
    outage that has just begun may be over soon, so less is kept then. An up-run that is old will last, so less slack is
    asked for to move to it; short runs die young.
    """
    slack_s = view.left_s - view.work_s - view.start_s
    changeover_s = view.case.changeover_s + constants.loss * view.case.interval_s
    work_h = view.work_s / 3600.0
    if view.mode == ON_DEMAND and view.work_s <= view.case.changeover_s:
        return ON_DEMAND  # a start would cost more than the rest of the work saves
    if view.up:
        moves_s = changeover_s * (constants.move + constants.move_per_hour / (1.0 + view.age_s / 3600.0) * work_h)
        if view.mode != ON_DEMAND:  # what would be left for spot at once is not bought
            moves_s = min(constants.start * changeover_s, view.case.changeover_s + moves_s)
        return SPOT if slack_s >= moves_s else ON_DEMAND
    if view.mode == ON_DEMAND:
        return ON_DEMAND
    outage_h = view.outage_s / 3600.0
    share = 1.0
    if outage_h <= constants.young_h:
        share = constants.hope
    elif outage_h < constants.settled_h:
        grown = (outage_h - constants.young_h) / (constants.settled_h - constants.young_h)
        share = constants.hope + (1.0 - constants.hope) * grown
    later_s = view.work_s * min(constants.later_per_hour * work_h, constants.later_max)
    if view.zones > 2:  # they are seldom all down, and not for long
        share *= (2.0 / view.zones) ** constants.zones
    kept_s = changeover_s * (constants.base + share * constants.per_hour * work_h) + share * later_s
    return ON_DEMAND if slack_s < kept_s else IDLE


def safe(view: View, choice: int, undone_s: float, period_s: float, lasts: bool) -> int:
    """The choice, or on-demand if the choice could cost the deadline should spot vanish before the next look.

    Spot that cannot be had becomes waiting, or staying on demand; on-demand that must not be bought becomes spot, or
    waiting. By induction no job is late that starts with time for its work and one changeover: whatever passes leaves that much
    at the next look.

    Args:
        undone_s: work of the machine that runs which is not yet saved.
        period_s: until the next look, at most.
        lasts: whether spot that is up now is kept until then, and saves come on time, as in the ticks of a simulation.
    """
    case = view.case
    if not case.may_buy:
        return SPOT if view.up and choice != IDLE else IDLE
    if choice == SPOT and not view.up:
        choice = view.mode
    if choice == ON_DEMAND:
        return ON_DEMAND
    if choice == IDLE:
        return IDLE if view.left_s - period_s >= view.work_s + case.changeover_s else ON_DEMAND
    stays = view.mode == SPOT
    start_s = view.start_s if stays else case.changeover_s
    if start_s + view.work_s <= min(period_s, view.left_s):
        if lasts or view.left_s < view.work_s + case.changeover_s:  # on demand it would be late
            return SPOT
        period_s = start_s + view.work_s
    progress_s = max(0.0, period_s - start_s)
    at_risk_s = 0.0
    if case.interval_s > 0.0:
        at_risk_s = (undone_s if stays else 0.0) + progress_s
        if lasts:
            at_risk_s %= case.interval_s
        elif progress_s >= case.interval_s:  # a save in the period is not counted on, unless there must be one
            at_risk_s = case.interval_s
    needed_s = view.work_s - progress_s + at_risk_s + case.changeover_s
    return SPOT if view.left_s - period_s >= needed_s else ON_DEMAND
