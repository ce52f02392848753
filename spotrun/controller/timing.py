"""How often the controller looks and how long it waits, in one value; and how it backs off."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta

from spotrun.clock import Clock

__all__ = ["Pace", "Timing", "at_least"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """`_s` is job time; the `_wall_s` beside it is its floor in wall time, for clocks that run fast."""

    lease_wall_s: float = 15.0  # how long a dead controller keeps others waiting; Kubernetes' leader election: 15 s
    idle_wall_s: float = 1.0  # between looks into the journal for new jobs and requests
    poll_s: float = 5.0  # between looks at a job that has a machine
    poll_wall_s: float = 0.2
    poll_wall_max_s: float = 2.0  # a person is watching
    wait_wall_max_s: float = 60.0  # the longest sleep of a job that waits: its limits are looked at
    attempt_lease_s: float = 300.0  # how long an attempt outlives the last word of a controller
    attempt_lease_wall_s: float = 15.0
    missing_s: float = 300.0  # an instance that the provider does not list is lost after this
    missing_wall_s: float = 10.0
    unread_s: float = 600.0  # the exit record of a machine that is gone is given up after this
    unread_wall_s: float = 30.0
    sweep_s: float = 900.0  # how long a job that is over is still swept for machines
    sweep_wall_s: float = 5.0
    terminate_s: float = 30.0  # between two requests to end the same machine
    terminate_wall_s: float = 1.0

    def __post_init__(self) -> None:
        wrong = [name for name in self.__slots__ if not getattr(self, name) > 0]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} must be positive")

    def polled_wall_s(self, clock: Clock) -> float:
        """Wall time between two looks at a job that has a machine."""
        return min(max(clock.wall(self.poll_s), self.poll_wall_s), self.poll_wall_max_s)

    def polled(self, clock: Clock) -> timedelta:
        """The same in job time."""
        return timedelta(seconds=self.polled_wall_s(clock) / clock.wall(1.0))


def at_least(clock: Clock, seconds: float, wall_s: float) -> timedelta:
    """`seconds` of job time, or what `wall_s` of wall time are in it if that is more."""
    return timedelta(seconds=max(seconds, wall_s / clock.wall(1.0)))


class Pace:
    """When each thing may be tried again: exponential with full jitter, in wall time, by name.

    The delay after the n-th failure in a row is drawn from [0, min(60 s, 2^n s)), at least 0.2 s: the spread keeps many
    jobs from asking a throttling provider in step. Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """

    FIRST_S = 1.0
    MAX_S = 60.0
    MIN_S = 0.2

    def __init__(self, *, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self._chance = chance
        self._failures: dict[str, int] = {}
        self._ready_at: dict[str, float] = {}

    def ready(self, name: str) -> bool:
        """Whether it may be tried now."""
        return self._clock.monotonic() >= self._ready_at.get(name, float("-inf"))

    def failed(self, name: str) -> None:
        """It failed: the next try waits longer than this one did."""
        count = self._failures.get(name, 0)
        self._failures[name] = count + 1
        limit = min(self.MAX_S, self.FIRST_S * 2.0 ** min(count, 10))
        self._ready_at[name] = self._clock.monotonic() + max(self.MIN_S, self._chance.uniform(0, limit))

    def succeeded(self, name: str, *, again_in_s: float = 0.0) -> None:
        """It worked; the next try, if there is one, may come after `again_in_s` of wall time."""
        self._failures.pop(name, None)
        self._ready_at.pop(name, None)
        if again_in_s > 0:
            self._ready_at[name] = self._clock.monotonic() + again_in_s

    def wait_s(self) -> float:
        """Seconds of wall time until the next thing that failed may be tried; infinite if nothing failed."""
        now = self._clock.monotonic()
        return min((max(0.0, self._ready_at[name] - now) for name in self._failures), default=float("inf"))
