"""Which of several pools: the one whose hour of progress is expected to cost least.

That is its price, times what a changeover adds over the run that can still be expected of it, and the price of moving
there spread over that run. Where run lengths are heavy-tailed, of an up-run that has lasted a hours about a more hours can
be expected, and more of them in a zone that was up for more of the last day. With one price everywhere the zone is taken
that is oldest and most available.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spotrun.market.generator import AGES_H, DOWN_HAZARDS

__all__ = ["UNKNOWN_AVAILABILITY", "back_within", "hourly_price", "rest_of_run_h"]

_Number = TypeVar("_Number", float, NDArray[np.float64])

_YOUNG_H = 0.25  # a run that has just begun is worth as much as one of twice this age is beyond it
_AVAILABILITY_FLOOR = 0.05  # a zone that was down all day may still be the one that lasts

UNKNOWN_AVAILABILITY = 0.5  # of a zone of which nothing is known


def rest_of_run_h(age_s: _Number, *, availability: _Number) -> _Number:
    """The hours that can still be expected of an up-run.

    Args:
        age_s: for how long it has lasted.
        availability: the share of the last day for which the zone was up.
    """
    return 2.0 * (age_s / 3600.0 + _YOUNG_H) * (availability + _AVAILABILITY_FLOOR)


def hourly_price(
    price: _Number, *, run_h: _Number, changeover_s: float = 0.0, moving_price: _Number | float = 0.0
) -> _Number:
    """What an hour of progress on a pool is expected to cost, in the unit of its price.

    Args:
        price: per hour.
        run_h: the hours that can still be expected of its up-run.
        changeover_s, moving_price: what a start there takes, and costs beside its time.
    """
    return price * (1.0 + changeover_s / 3600.0 / run_h) + moving_price / run_h


def back_within(span_s: float, *, outage_s: float) -> float:
    """The share of recorded outages, of those that had lasted for so long, that were over within so much more time. See
    `spotrun.market.generator` for the recordings."""
    begin_h, end_h = outage_s / 3600.0, (outage_s + span_s) / 3600.0
    return 1.0 - exp(-_integral(DOWN_HAZARDS, begin_h, end_h))


def _integral(hazards: Sequence[float], begin_h: float, end_h: float) -> float:
    total = 0.0
    for index, hazard in enumerate(hazards):
        upper = AGES_H[index + 1] if index + 1 < len(AGES_H) else inf
        total += hazard * max(0.0, min(end_h, upper) - max(begin_h, AGES_H[index]))
    return total
