"""How often to save. A save costs its stall; an interruption costs the work since the last one.

With a mean of M seconds between interruptions and a cost of C seconds for a save, saving every sqrt(2 C M) seconds
wastes least: the saves of an hour then cost as much as the work that its interruptions throw away.

All instants and durations are seconds of job time on one clock that never goes back.

Source: J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974; J. T. Daly, "A
higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Protocol

__all__ = [
    "INTERVAL_MAX_S",
    "INTERVAL_MIN_S",
    "MTBI_S",
    "Cadence",
    "FixedInterval",
    "YoungDaly",
    "notice_save_due",
    "save_fits",
]

# Of single zones in recorded spot traces, up-runs last 0.7 to 10 h in the mean; a job that knows nothing better assumes
# a restless zone, as saving twice as often as needed costs little and half as often costs work.
MTBI_S = 2 * 3600.0

# A save that stalls nothing would be due all the time; each is some requests to a store, which cost money.
INTERVAL_MIN_S = 30.0

# However rare interruptions seem: a failure of the user's own, or an outage, throws away no more work than this.
INTERVAL_MAX_S = 3600.0

# A save at the last moment must be over before the machine is: the next one is taken to last this many times as long as
# the last, and some seconds, because the notice's deadline is itself not exact to the second.
_DURABLE_FACTOR = 1.5
_DEADLINE_MARGIN_S = 5.0

# Where saves take longer than the interval that was asked for, the store is given this much of a rest between them:
# without it, each save would find the one before in its way, and the network would never be free for the data.
_REST_FACTOR = 1.5

# With nothing in its way a save is begun under a notice although it seems too slow by up to this factor: what was measured
# was measured beside a training, the save may be smaller than the last, and deadlines are met early at times.
_HOPE = 0.5


class Cadence(Protocol):
    """Decides when the next save is due. Pure."""

    def interval_s(self, *, stall_s: float, durable_s: float = 0.0) -> float:
        """Seconds from one save to the next.

        Args:
            stall_s: how long a save stops the training, measured; zero if not known yet.
            durable_s: how long it takes until a save is durable, measured; saves do not overtake one another.
        """

    def due(self, *, now_s: float, last_save_s: float, stall_s: float, durable_s: float = 0.0) -> bool:
        """Whether a save should begin now; `last_save_s` is when the last one began, or the training did."""


@dataclass(frozen=True, slots=True)
class FixedInterval:
    """A save every so many seconds."""

    every_s: float

    def __post_init__(self) -> None:
        _check_positive("every_s", self.every_s)

    def interval_s(self, *, stall_s: float, durable_s: float = 0.0) -> float:  # noqa: ARG002  the user chose
        return max(self.every_s, _REST_FACTOR * durable_s)

    def due(self, *, now_s: float, last_save_s: float, stall_s: float, durable_s: float = 0.0) -> bool:
        return now_s - last_save_s >= self.interval_s(stall_s=stall_s, durable_s=durable_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class YoungDaly:
    """The interval that wastes least, from the measured cost of a save and the expected time between interruptions."""

    mean_time_between_interruptions_s: float = MTBI_S
    minimum_s: float = INTERVAL_MIN_S
    maximum_s: float = INTERVAL_MAX_S

    def __post_init__(self) -> None:
        _check_positive("mean_time_between_interruptions_s", self.mean_time_between_interruptions_s)
        _check_positive("minimum_s", self.minimum_s)
        if not self.minimum_s <= self.maximum_s < float("inf"):
            raise ValueError(f"maximum_s {self.maximum_s} must be finite and at least minimum_s {self.minimum_s}")

    def interval_s(self, *, stall_s: float, durable_s: float = 0.0) -> float:
        best = sqrt(2 * max(0.0, stall_s) * self.mean_time_between_interruptions_s)
        return max(min(max(best, self.minimum_s), self.maximum_s), _REST_FACTOR * durable_s)

    def due(self, *, now_s: float, last_save_s: float, stall_s: float, durable_s: float = 0.0) -> bool:
        return now_s - last_save_s >= self.interval_s(stall_s=stall_s, durable_s=durable_s)


def notice_save_due(*, now_s: float, deadline_s: float, saves: int, durable_s: float, step_s: float) -> bool:
    """Whether to save at this step boundary, after a notice: at once, and once more just before the deadline.

    The second save keeps the work done since the first. It is due at the last step boundary that still leaves time for
    it to become durable; if there is none, the first one stands.

    Args:
        deadline_s: when the machine may be gone.
        saves: how many saves have begun since the notice.
        durable_s: how long the last save took to become durable.
        step_s: how long a step takes: the next boundary is so far away.
    """
    if saves == 0:
        return True  # even if it may come too late: there is nothing to lose
    left_s = deadline_s - now_s
    needed_s = _DURABLE_FACTOR * durable_s + _DEADLINE_MARGIN_S
    return saves == 1 and needed_s <= left_s < needed_s + max(step_s, 0.0)


def save_fits(*, left_s: float, durable_s: float, in_flight_s: float | None) -> bool:
    """Whether a save that begins now is worth beginning with so little time left.

    If not, a save that is in flight is better left alone: its state is older, but it will be there.

    Args:
        left_s: until the machine may be gone.
        durable_s: how long the last save took to become durable; zero if none has.
        in_flight_s: how long ago the save began that would have to end first; None if there is none.
    """
    if in_flight_s is None:
        return left_s >= _HOPE * durable_s
    return left_s >= max(0.0, durable_s - in_flight_s) + durable_s


def _check_positive(name: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number of seconds, not {value}")
