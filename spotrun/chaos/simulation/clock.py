"""Virtual time: a line of events that happen one after the other, and clocks that tell it, each with an error of its own.

Nobody waits. Who would wait lets the others act meanwhile: `Timeline.wait` runs what is due until then inside the call that
waits. So a controller that stands still in the middle of a call, and another one that takes over just then, are two frames of
one stack, and the same seed gives the same stack.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

__all__ = ["EPOCH", "SkewedClock", "Timeline"]

EPOCH = datetime(2026, 3, 1, tzinfo=timezone.utc)

DEPTH_MAX = 3  # calls that stand still inside one another; a wait below that takes no time

Deed = Callable[[], None]


class Timeline:
    """What is still to happen, in order of time and then of being asked for.

    Args:
        after_each: called after every event, at whatever depth.
    """

    def __init__(self, after_each: Deed = lambda: None) -> None:
        self.at_s = 0.0
        self.count = 0  # of events that have happened
        self._after_each = after_each
        self._heap: list[tuple[float, int, Deed]] = []
        self._asked = 0
        self._depth = 0

    def now(self) -> datetime:
        """The true time."""
        return EPOCH + timedelta(seconds=self.at_s)

    def after(self, seconds: float, deed: Deed) -> None:
        """Has something happen in so many seconds."""
        self._asked += 1
        heapq.heappush(self._heap, (self.at_s + max(0.0, seconds), self._asked, deed))

    def run(self, until: Callable[[], bool]) -> None:
        """Lets things happen until something is true, or nothing is left."""
        while self._heap and not until():
            self._next()

    def wait(self, seconds: float) -> None:
        """Lets time pass for one who stands still: what is due meanwhile happens now."""
        if self._depth >= DEPTH_MAX:
            return
        end_s = self.at_s + max(0.0, seconds)
        self._depth += 1
        try:
            while self._heap and self._heap[0][0] <= end_s:
                self._next()
        finally:
            self._depth -= 1
        self.at_s = max(self.at_s, end_s)

    def _next(self) -> None:
        at_s, _, deed = heapq.heappop(self._heap)
        self.at_s = max(self.at_s, at_s)
        self.count += 1
        deed()
        self._after_each()


class SkewedClock:
    """A computer's clock, some seconds ahead or behind. A `JobClock`."""

    def __init__(self, timeline: Timeline, skew_s: float = 0.0) -> None:
        self._timeline = timeline
        self.skew_s = skew_s

    def now(self) -> datetime:
        """See `Clock.now`."""
        return EPOCH + timedelta(seconds=self._timeline.at_s + self.skew_s)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._timeline.at_s

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`; the others act meanwhile."""
        self._timeline.wait(seconds)

    def wall(self, seconds: float) -> float:
        """See `Clock.wall`."""
        return seconds

    def to_text(self) -> str:
        """See `JobClock.to_text`."""
        return "1@0"
