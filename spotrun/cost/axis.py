"""Scales and ticks of the charts: from instants and numbers to places on a drawing. Pure and deterministic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Scale", "Tick", "nice_ticks", "thin", "time_ticks"]

_TIME_STEPS_S = (1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_TICKS_MAX = 400  # no drawing needs more; a guard against nonsense spans


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from [low, high] in the data to [start, end] in the drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value, kept inside the drawing."""
        if self.high <= self.low:
            return self.start
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis and what is written there."""

    at: float
    label: str


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high], about `count` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, min(last, first + _TICKS_MAX) + 1)]


def time_ticks(start: datetime, end: datetime, count: int) -> list[tuple[datetime, str]]:
    """Round instants within [start, end], at most about `count`, as `14:30`; with the date where days are passed."""
    span_s = max((end - start).total_seconds(), 1.0)
    steps = [*_TIME_STEPS_S, *(86400 * days for days in (2, 5, 10, 30, 100, 365))]
    step_s = next((step for step in steps if span_s / step <= count), steps[-1])
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    first = math.ceil((start - midnight).total_seconds() / step_s)
    ticks = []
    for index in range(first, first + _TICKS_MAX):
        moment = midnight + timedelta(seconds=index * step_s)
        if moment > end:
            break
        ticks.append((moment, _time_label(moment, step_s, many_days=span_s > 86400)))
    return ticks


def thin(points: Sequence[tuple[float, float]], count_max: int) -> list[tuple[float, float]]:
    """At most `count_max` of the points, in order: of each equal run of them its lowest and highest, so spikes stay.

    The first and the last point always stay. The same points give the same answer.

    Args:
        count_max: at least 4.
    """
    if len(points) <= count_max:
        return list(points)
    inner = points[1:-1]
    runs = (count_max - 2) // 2
    kept = {0, len(points) - 1}
    for run in range(runs):
        indices = range(len(inner) * run // runs, len(inner) * (run + 1) // runs)
        kept.add(1 + min(indices, key=lambda index: (inner[index][1], index)))
        kept.add(1 + max(indices, key=lambda index: (inner[index][1], -index)))
    return [points[index] for index in sorted(kept)]


def _time_label(moment: datetime, step_s: int, *, many_days: bool) -> str:
    if step_s >= 86400 or (many_days and moment.hour == 0 and moment.minute == 0):
        return f"{moment:%b} {moment.day}"
    return f"{moment:%H:%M:%S}" if step_s < 60 else f"{moment:%H:%M}"
