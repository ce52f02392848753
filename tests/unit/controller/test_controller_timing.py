"""Pauses between tries."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone

import pytest

from spotrun.clock import ScaledClock, SystemClock
from spotrun.controller.timing import Pace, Timing, at_least


class HandClock(SystemClock):
    """Its monotonic time is set by hand."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def monotonic(self) -> float:
        return self.at_s


def test_pauses_grow_with_each_failure_up_to_a_minute_and_are_spread() -> None:
    clock = HandClock()
    pace = Pace(clock=clock, chance=random.Random(1))
    assert pace.ready("launch 1")
    longest = 1.0
    for _ in range(40):
        pace.failed("launch 1")
        assert not pace.ready("launch 1")
        assert pace.ready("launch 2")
        pause_s = pace.wait_s()
        assert 0.199 <= pause_s <= min(60.0, longest) + 0.001
        clock.at_s += pause_s + 0.001
        assert pace.ready("launch 1")
        longest *= 2


def test_success_forgets_the_failures() -> None:
    clock = HandClock()
    pace = Pace(clock=clock, chance=random.Random(1))
    for _ in range(9):
        pace.failed("x")
    pace.succeeded("x")
    assert pace.ready("x")
    assert pace.wait_s() == float("inf")
    pace.failed("x")
    assert pace.wait_s() <= 1.0


def test_what_worked_may_be_told_to_wait_before_it_is_repeated() -> None:
    clock = HandClock()
    pace = Pace(clock=clock, chance=random.Random(1))
    pace.succeeded("terminate i-1", again_in_s=30)
    assert not pace.ready("terminate i-1")
    clock.at_s += 30
    assert pace.ready("terminate i-1")


def test_floors_in_wall_time_hold_on_fast_clocks() -> None:
    origin = datetime(2026, 3, 1, tzinfo=timezone.utc)
    assert at_least(SystemClock(), 300, 15) == timedelta(seconds=300)
    assert at_least(ScaledClock(origin, 600.0), 300, 15) == timedelta(seconds=9000)


def test_impossible_timings_are_refused() -> None:
    with pytest.raises(ValueError, match="poll_s must be positive"):
        Timing(poll_s=0)
