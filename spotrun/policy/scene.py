"""A recorded or generated market as arrays for simulation: ages of runs, prices, and the best zone at each tick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spotrun.policy.episode import Scene
from spotrun.policy.zone import hourly_price, rest_of_run_h

__all__ = ["Pool", "make_scene"]

_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """One zone over some ticks.

    Attributes:
        up: by tick, whether there is capacity.
        price: per hour, of one machine or of the gang: one number, or one for each tick.
        noticed: by tick, whether a loss at its start was announced in time to save; None: never.
        opened: by tick, whether a launch would be answered with a machine; None: whenever it is up.
    """

    up: Sequence[bool] | NDArray[np.bool_]
    price: float | NDArray[np.float64] = 1.0
    noticed: NDArray[np.bool_] | None = None
    opened: NDArray[np.bool_] | None = None


def make_scene(
    pools: Sequence[Pool],
    *,
    gap_s: float,
    changeover_s: float = 360.0,
    moving_price: float = 0.0,
    availability: float | None = None,
    delay: NDArray[np.float64] | None = None,
) -> Scene:
    """The arrays of these pools.

    Args:
        pools: of the same number of ticks.
        gap_s: length of a tick.
        changeover_s, moving_price: what the choice of a zone reckons with.
        availability: what it takes each zone's to be; None: what it was on the day before each tick.
        delay: by tick, the share of the changeover that a start really takes.

    Raises:
        ValueError: the pools differ in length, there is none, or a price is not positive.
    """
    if not pools or len({len(pool.up) for pool in pools}) != 1 or len(pools[0].up) == 0:
        raise ValueError("a scene needs pools, all with the same number of ticks, at least one")
    ticks = len(pools[0].up)
    up = np.array([pool.up for pool in pools], np.uint8)
    opened = up & np.array([pool.up if pool.opened is None else pool.opened for pool in pools], np.uint8)
    price = np.array([np.broadcast_to(np.asarray(pool.price, np.float64), (ticks,)) for pool in pools])
    if not (np.isfinite(price).all() and (price > 0).all()):
        raise ValueError("prices must be positive and finite")
    noticed = [np.zeros(ticks, np.uint8) if it.noticed is None else np.asarray(it.noticed, np.uint8) for it in pools]
    age_s = np.array([_ages(row) for row in up]) * gap_s
    known = _availability(opened, gap_s) if availability is None else np.full(up.shape, availability)
    run_h = rest_of_run_h(age_s, availability=known)
    return Scene(
        gap_s=gap_s,
        up=up,
        best=_best(opened, price, run_h, changeover_s=changeover_s, moving_price=moving_price),
        age_s=age_s,
        run_h=run_h,
        outage_s=_ages((up.max(axis=0) == 0).astype(np.uint8)) * gap_s,
        price=np.ascontiguousarray(price),
        noticed=np.array(noticed),
        delay=np.ones(ticks) if delay is None else np.asarray(delay, np.float64),
    )


def _ages(row: NDArray[np.uint8]) -> NDArray[np.float64]:
    """For how many ticks each tick's run of ones had lasted at its start; zero where the row is zero."""
    ticks = np.arange(len(row))
    begins = np.where((row == 1) & (np.concatenate(([0], row[:-1])) == 0), ticks, 0)
    return np.where(row == 1, ticks - np.maximum.accumulate(begins), 0).astype(np.float64)


def _availability(up: NDArray[np.uint8], gap_s: float) -> NDArray[np.float64]:
    """The share of the day before each tick for which the zone was up; a half before anything is known."""
    window = max(1, round(_DAY_S / gap_s))
    total: NDArray[np.float64] = np.concatenate((np.zeros((len(up), 1)), np.cumsum(up, axis=1)), axis=1)
    ticks = np.arange(up.shape[1])
    first = np.maximum(0, ticks - window)
    known = ticks - first
    share: NDArray[np.float64] = np.where(known > 0, (total[:, ticks] - total[:, first]) / np.maximum(known, 1), 0.5)
    return share


def _best(
    opened: NDArray[np.uint8],
    price: NDArray[np.float64],
    run_h: NDArray[np.float64],
    *,
    changeover_s: float,
    moving_price: float,
) -> NDArray[np.int64]:
    """(zones + 1, ticks): by where the job was last, the last row for nowhere, the zone where a start is best."""
    zones = len(price)
    found = []
    for last in [*range(zones), None]:
        elsewhere = np.array([[0.0 if last in (None, zone) else moving_price] for zone in range(zones)])
        expected = hourly_price(price, run_h=run_h, changeover_s=changeover_s, moving_price=elsewhere)
        expected = np.where(opened == 1, expected, np.inf)
        found.append(np.where(opened.max(axis=0) == 1, expected.argmin(axis=0), -1))
    return np.array(found, np.int64)
