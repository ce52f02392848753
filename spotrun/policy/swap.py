"""Whether a spot machine should be given up for one on a cheaper spot pool: only where that pays in dollars.

    gain   so many hours of progress there instead of here, each at what it is expected to cost: its price, and what a loss
           costs over the run that can still be expected. So the risk of a younger run is in its price. The hours are
           those for which all of it can be expected to hold: both runs last, and there is work left.
    price  a changeover at the price of each of the two machines (the one saves and ends, the other starts), and what
           bringing the state to another region costs.

**It never flaps.** A move wants the gain to be twice its price, and a machine that has been had for an hour, so that it is
followed by a move back only if prices have crossed by that much again, and never within the hour.

**It never costs the deadline.** A move takes a changeover of slack, which is worth nothing only while the rule would still
wait for spot with so much less; `spare` is the view in which it is asked that. `spotrun.policy.rule.safe` lies beneath.
"""

from __future__ import annotations

from typing import NamedTuple

from spotrun.policy.rule import IDLE, Case, View

__all__ = ["HELD_S", "PAYS", "Swap", "spare", "weigh"]

PAYS = 2.0  # times its price a move must gain: prices are as of now, and may be others in an hour
HELD_S = 3600.0  # a machine is had for at least so long before it is given up for a cheaper one
_SETTLED_S = 1e6  # an outage of this age is not over soon
_LOSS = 0.25  # of the checkpoint interval counts as part of what a loss costs, as in the rules


class Swap(NamedTuple):
    """A spot machine for another one. Prices per hour, all in one unit."""

    here_price: float
    here_run_h: float  # that can still be expected of the up-run
    there_price: float
    there_run_h: float
    moving_price: float  # of bringing the state there
    work_s: float  # left
    chance: float = 1.0  # that the other pool answers with a machine


def weigh(swap: Swap, case: Case) -> tuple[float, float, float]:
    """What a move is expected to gain before its price, that price, and the hours for which it gains."""
    hours = min(swap.here_run_h, swap.there_run_h, swap.work_s / 3600.0)
    loss_h = (case.changeover_s + _LOSS * case.interval_s) / 3600.0
    here = swap.here_price * (1.0 + loss_h / swap.here_run_h)
    there = swap.there_price * (1.0 + loss_h / swap.there_run_h)
    price = case.changeover_s / 3600.0 * (swap.here_price + swap.there_price) + swap.moving_price
    return swap.chance * hours * (here - there), price, hours


def spare(view: View) -> View:
    """The view in which a rule that waits says that a changeover of slack can be spared: without it, and without spot."""
    case = view.case
    left_s = view.left_s - case.changeover_s
    return View(IDLE, False, left_s, view.work_s, 0.0, 0.0, _SETTLED_S, view.elapsed_s, view.zones, case)
