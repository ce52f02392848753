"""Which of several pools: the one whose hour of progress is expected to cost least.

That is its price, times what a changeover adds over the run that can still be expected of it, and the price of moving
there spread over that run. Where run lengths are heavy-tailed, of an up-run that has lasted a hours about a more hours can
be expected, and more of them in a zone that was up for more of the last day. With one price everywhere the zone is taken
that is oldest and most available.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["hourly_price"]

_Number = TypeVar("_Number", float, NDArray[np.float64])

_YOUNG_H = 0.25  # a run that has just begun is worth as much as one of twice this age is beyond it
_AVAILABILITY_FLOOR = 0.05  # a zone that was down all day may still be the one that lasts


def hourly_price(
    price: _Number,
    *,
    age_s: _Number,
    availability: _Number,
    changeover_s: float = 0.0,
    moving_price: float = 0.0,
) -> _Number:
    """What an hour of progress on a pool is expected to cost, in the unit of its price.

    Args:
        price: per hour.
        age_s: of its up-run.
        availability: the share of the last day for which it was up.
        changeover_s, moving_price: what a start there takes, and costs beside its time.
    """
    run_h = 2.0 * (age_s / 3600.0 + _YOUNG_H) * (availability + _AVAILABILITY_FLOOR)
    return price * (1.0 + changeover_s / 3600.0 / run_h) + moving_price / run_h
