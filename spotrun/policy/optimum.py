"""The least possible cost of an episode for somebody who knows the future: exact, for comparison only.

Dynamic programming over (tick, waste), waste being the time so far that was no progress, in units of the greatest common
divisor of tick and changeover; the job has no machine, or one on demand that is past its start-up. Without loss three
kinds of moves are enough: idle for a tick; on demand for a tick, after a start-up that is not left before it is over; and
spot from now to the end of its up-run, since the optimum never leaves spot early (its progress is the cheapest there is)
and never starts what it will not use. With several zones at one price the run that ends last dominates, and a move made
before a run's end can be put off to it.

Exact for one spot price of 1, no loss of work, and starts that take the whole changeover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["optimum", "run_ends"]

_NEVER = 1e300
_SLOTS = 32  # ends of runs that are looked forward to at once: at most one for each zone


def optimum(
    ends: NDArray[np.int64],
    *,
    gap_s: int,
    work_s: int,
    changeover_s: int,
    deadlines_s: Sequence[int],
    on_demand_price: float,
) -> list[float]:
    """The least cost for each deadline, with spot at 1 an hour; infinite where a deadline cannot be met.

    Args:
        ends: by tick from the job's beginning, where the longest up-run that holds then ends; the tick itself where
            there is none.
        gap_s, work_s, changeover_s: whole seconds; the work must be a multiple of the unit.

    Raises:
        ValueError: the work or a deadline does not fit the grid, or the recording is too short.
    """
    unit_s = gcd(gap_s, changeover_s) if changeover_s else gap_s
    if work_s % unit_s:
        raise ValueError(f"the work of {work_s} s is no multiple of {unit_s} s")
    slack_s = max(deadlines_s) - work_s
    if slack_s < 0:
        return [float("inf")] * len(deadlines_s)
    ticks = -(-max(deadlines_s) // gap_s)
    if ticks > len(ends):
        raise ValueError(f"the recording has {len(ends)} ticks, the episode needs {ticks}")
    window = np.minimum(ends[:ticks], ticks)
    least = _solver()(
        window, gap_s // unit_s, changeover_s // unit_s, work_s // unit_s, slack_s // unit_s, on_demand_price
    )
    found = []
    for deadline_s in deadlines_s:
        last = (deadline_s - work_s) // unit_s
        value = float(least[: last + 1].min()) if last >= 0 else _NEVER
        found.append(float("inf") if value >= _NEVER else value * unit_s / 3600)
    return found


def run_ends(up: NDArray[np.uint8]) -> NDArray[np.int64]:
    """By tick, the end of the up-run that lasts longest of those that hold; the tick itself where no zone is up.

    Args:
        up: (zones, ticks), one where there is capacity.
    """
    zones, ticks = up.shape
    ends = np.arange(ticks)
    for zone in range(zones):
        end = ticks
        for tick in range(ticks - 1, -1, -1):
            if up[zone, tick] == 0:
                end = tick
            ends[tick] = max(ends[tick], end)
    found: NDArray[np.int64] = ends.astype(np.int64)
    return found


@cache
def _solver() -> Callable[..., NDArray[np.float64]]:
    if find_spec("numba") is None:
        return _solved
    import numba  # noqa: PLC0415  optional, and seconds to load
    from numba.extending import register_jitable  # noqa: PLC0415

    register_jitable(_slot)
    register_jitable(_pour)
    made: Callable[..., NDArray[np.float64]] = numba.njit(_solved)
    return made


def _solved(ends: NDArray[np.int64], gap: int, start: int, work: int, slack: int, price: float) -> Any:
    """The least cost by final waste, in units. `ends` is relative to the first tick; all lengths are in units.

    Idle states are kept by progress and those on demand by slack, as these stay the same from tick to tick. On-demand
    is started where a stretch without spot begins, at the first tick or at the end of a run: the same work later in the
    stretch costs the same. Spot is started at the first tick, at the begin of a run, and where another run has ended.
    """
    warm = -(-start // gap)  # ticks until a start-up on demand is over
    least = np.full(slack + 1, _NEVER)
    none = np.full(work + 1, _NEVER)  # no machine, by progress
    ready = np.full(slack + 1, _NEVER)  # on demand, by slack that is left; without what every tick of it costs
    later = np.full((warm + 1, slack + 1), _NEVER)  # ready, so many ticks ahead; a ring
    filled = np.zeros(warm + 1, np.bool_)  # whether there is something in each row of it
    spots = np.full((_SLOTS, work + 1), _NEVER)  # no machine again, at the end of a run, by progress
    slots = np.full(_SLOTS, -1)
    none[0] = 0.0
    for tick in range(len(ends)):
        now, paid = tick * gap, price * gap * tick
        first, last = max(0, now - slack), min(now, work - 1)  # progress of states that can still be in time
        arrived = tick == 0
        for slot in range(_SLOTS):
            if slots[slot] == tick:
                arrived, slots[slot] = True, -1
                _pour(spots[slot], none)
        here = tick % (warm + 1)
        if filled[here]:
            filled[here] = False
            _pour(later[here], ready)
        for done in range(first, last + 1):
            value = ready[slack - now + done] + paid
            none[done] = min(none[done], value)
        length = (ends[tick] - tick) * gap
        if length > start and (arrived or ends[tick] != ends[tick - 1]):
            slot = _slot(slots, ends[tick])
            for done in range(max(first, now + start - slack), last + 1):
                left = work - done
                waste = now - done + start
                if start + left <= length:
                    least[waste] = min(least[waste], none[done] + start + left)
                else:
                    after = done + length - start
                    spots[slot, after] = min(spots[slot, after], none[done] + length)
        if arrived:
            ahead = (tick + warm) % (warm + 1)
            filled[ahead] = warm > 0
            for done in range(max(first, now + start - slack), last + 1):
                left = work - done
                waste = now - done + start
                if warm > 0 and start + left <= warm * gap:
                    least[waste] = min(least[waste], none[done] + price * (start + left))
                elif warm > 0:
                    later[ahead, slack - waste] = min(later[ahead, slack - waste], none[done] - paid)
                else:
                    ready[slack - waste] = min(ready[slack - waste], none[done] - paid)
        for done in range(max(first, work - gap), last + 1):
            waste = now - done
            least[waste] = min(least[waste], ready[slack - waste] + paid + price * (work - done))
            ready[slack - waste] = _NEVER
    return least


def _pour(source: NDArray[np.float64], target: NDArray[np.float64]) -> None:
    """Takes over what is cheaper, and leaves the source empty."""
    for index in range(len(source)):
        target[index] = min(target[index], source[index])
        source[index] = _NEVER


def _slot(slots: NDArray[np.int64], end: int) -> int:
    """The slot of runs that end there, a new one if there is none yet."""
    free = -1
    for slot in range(len(slots)):
        if slots[slot] == end:
            return slot
        if slots[slot] < 0:
            free = slot
    slots[free] = end
    return free
