"""When a zone has capacity: up-runs in chunks, drawn or read one chunk at a time.

A time line is cut into chunks of one length. Chunk number *i* is asked for only when somebody looks there, and each is
a pure function of its number, so a look at month nine costs as much as a look at hour one. An up-run that touches a
chunk's end and another that begins the next chunk are one run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import ceil

__all__ = ["Chunk", "Timeline", "UpRun"]

_CHUNKS_KEPT = 8  # a job looks at now and a little ahead
_CHUNKS_AHEAD_MAX = 64  # a run that outlasts so many chunks is told as one that never ends
_ZERO = timedelta(0)


@dataclass(frozen=True, slots=True)
class UpRun:
    """Capacity is there in [start, end), counted from the beginning of the chunk; `notice`: its loss is announced."""

    start: timedelta
    end: timedelta
    notice: bool


Chunk = tuple[UpRun, ...]


class Timeline:
    """The up-runs of one zone, as offsets from the market's start.

    Args:
        span: length of a chunk, positive.
        draw: the up-runs of chunk `i`, in order, disjoint, within [0, span]. Must be pure. Two runs may touch: the zone
            is then lost and comes back in the same instant.
    """

    def __init__(self, span: timedelta, draw: Callable[[int], Chunk]) -> None:
        if span <= _ZERO:
            raise ValueError(f"a chunk must have a positive length, not {span}")
        self._span = span
        self._draw = draw
        self._kept: OrderedDict[int, Chunk] = OrderedDict()

    def up(self, at: timedelta) -> bool:
        """Whether there is capacity at `at`."""
        return self._run_at(at) is not None

    def loss(self, at: timedelta) -> tuple[timedelta, bool] | None:
        """The end of the up-run that holds at `at`, and whether it is announced.

        None when the zone is down at `at`, or when no end is in sight.
        """
        found = self._run_at(at)
        if found is None:
            return None
        index, run = found
        for ahead in range(index, index + _CHUNKS_AHEAD_MAX):
            if run.end < self._span:
                return ahead * self._span + run.end, run.notice
            following = self._chunk(ahead + 1)
            if not following or following[0].start > _ZERO:
                return (ahead + 1) * self._span, run.notice
            run = following[0]
        return None

    def next_up(self, at: timedelta) -> timedelta | None:
        """The first moment from `at` on with capacity; `at` itself when it is there; None when none is in sight."""
        if self.up(at):
            return at
        first = at // self._span
        for index in range(first, first + _CHUNKS_AHEAD_MAX):
            for run in self._chunk(index):
                begin = index * self._span + run.start
                if begin >= at:
                    return begin
        return None

    def ticks_up(self, gap_s: float, count: int) -> Iterator[range]:
        """Of the ticks 0 to `count`, `gap_s` seconds apart, those at which there is capacity, as ranges: what `up` says of each
        of them, in the time of as many answers as there are runs."""
        end = timedelta(seconds=count * gap_s)
        for index in range(-(-end // self._span) + 1):
            for run in self._chunk(index):
                begin, until = index * self._span + run.start, index * self._span + run.end
                ticks = range(min(_tick(begin, gap_s), count), min(_tick(until, gap_s), count))
                if ticks:
                    yield ticks

    def _run_at(self, at: timedelta) -> tuple[int, UpRun] | None:
        index, offset = divmod(at, self._span)
        chunk = self._chunk(index)
        position = bisect_right(chunk, offset, key=lambda run: run.start) - 1
        if position >= 0 and offset < chunk[position].end:
            return index, chunk[position]
        return None

    def _chunk(self, index: int) -> Chunk:
        chunk = self._kept.get(index)
        if chunk is None:
            chunk = self._draw(index)
            self._kept[index] = chunk
            if len(self._kept) > _CHUNKS_KEPT:
                self._kept.popitem(last=False)
        return chunk


def _tick(at: timedelta, gap_s: float) -> int:
    """The first tick that is not before `at`. Ticks are whole microseconds, so the division is only near it."""
    tick = max(0, ceil(at.total_seconds() / gap_s) - 1)
    while timedelta(seconds=tick * gap_s) < at:
        tick += 1
    return tick
