"""Time as an argument: the only module that reads a clock.

A job lives in *job time*. On real capacity job time is wall time. On the local provider it may run faster: a
`ScaledClock` starts at the wall time of the submission and then runs `scale` times as fast, so that limits, prices,
notices and reports are all told in the same hours that a real job would see.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Protocol

__all__ = ["Clock", "ScaledClock", "SystemClock", "clock_from_text"]


class Clock(Protocol):
    """A source of time. Thread-safe; never goes back but by a change of the system's wall clock."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment, never going back; for intervals."""

    def sleep(self, seconds: float) -> None:
        """Blocks for `seconds` of this clock's time; returns at once for zero or less."""

    def wall(self, seconds: float) -> float:
        """How many seconds of wall time `seconds` of this clock take, for time-outs of the operating system."""


class SystemClock:
    """Wall time."""

    def now(self) -> datetime:
        return datetime.now(timezone.utc)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)

    def wall(self, seconds: float) -> float:
        return seconds

    def to_text(self) -> str:
        """The form in which a child process inherits this clock."""
        return "1@0"


@dataclass(frozen=True, slots=True)
class ScaledClock:
    """Time that left wall time at `origin` and runs `scale` times as fast since.

    Args:
        origin: the instant, aware, at which both clocks agree.
        scale: seconds of this clock in one second of wall time, positive.
    """

    origin: datetime
    scale: float

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be positive and finite, not {self.scale}")

    def now(self) -> datetime:
        return self.origin + timedelta(seconds=(time.time() - self.origin.timestamp()) * self.scale)

    def monotonic(self) -> float:
        return time.monotonic() * self.scale

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds / self.scale)

    def wall(self, seconds: float) -> float:
        return seconds / self.scale

    def to_text(self) -> str:
        """The form in which a child process inherits this clock."""
        return f"{self.scale!r}@{self.origin.timestamp()!r}"


def clock_from_text(text: str | None) -> SystemClock | ScaledClock:
    """The clock that `to_text` described; the system's clock for None, the empty string and scale 1.

    Raises:
        ValueError: the text describes no clock.
    """
    if not text:
        return SystemClock()
    scale, _, origin = text.partition("@")
    try:
        if float(scale) == 1.0:
            return SystemClock()
        return ScaledClock(datetime.fromtimestamp(float(origin), timezone.utc), float(scale))
    except (ValueError, OverflowError, OSError) as err:  # the last two: instants that no calendar has
        raise ValueError(f"{text!r} is no clock; it is written as scale@origin, like 60.0@1767268800.0") from err
