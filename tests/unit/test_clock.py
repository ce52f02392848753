"""Clocks: wall time, and a job's time that runs faster."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from spotrun.clock import ScaledClock, SystemClock, clock_from_text

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def test_the_systems_clock_is_wall_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Aware, going on, and one second is one second."""
    clock = SystemClock()
    before, after = clock.now(), clock.now()
    assert before.tzinfo is timezone.utc
    assert before <= after
    assert clock.wall(5.0) == 5.0
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert clock.monotonic() == 7.0


def test_a_scaled_clock_leaves_wall_time_at_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty times as fast: a minute after the origin, an hour has passed; before it, time runs as fast too."""
    clock = ScaledClock(NOON, 60.0)
    for wall_s, job in [(0, NOON), (60, NOON + timedelta(hours=1)), (-1, NOON - timedelta(minutes=1))]:
        monkeypatch.setattr(time, "time", lambda wall_s=wall_s: NOON.timestamp() + wall_s)
        assert clock.now() == job
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert clock.monotonic() == 420.0
    assert clock.wall(90.0) == 1.5


def test_sleeping_takes_the_clocks_own_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled for the system, and not at all for nothing or less."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for clock in (SystemClock(), ScaledClock(NOON, 60.0)):
        for seconds in (120.0, 0.0, -1.0):
            clock.sleep(seconds)
    assert slept == [120.0, 2.0]


@pytest.mark.parametrize(
    "clock", [SystemClock(), ScaledClock(NOON, 60.0), ScaledClock(NOON + timedelta(microseconds=7), 0.1)]
)
def test_a_child_process_inherits_the_very_same_clock(clock: SystemClock | ScaledClock) -> None:
    """As text, through its environment."""
    child = clock_from_text(clock.to_text())
    assert type(child) is type(clock)
    assert child.to_text() == clock.to_text()
    if isinstance(clock, ScaledClock):
        assert child == clock


@pytest.mark.parametrize("text", [None, "", "1@0", "1.0@1767268800.0"])
def test_nothing_and_scale_one_are_the_systems_clock(text: str | None) -> None:
    """Outside of a job nothing is set, and real capacity lives in wall time."""
    assert isinstance(clock_from_text(text), SystemClock)


@pytest.mark.parametrize("text", ["fast", "60", "60@", "60@noon", "0@0", "-1@0", "nan@0", "inf@0", "60@1e300"])
def test_a_malformed_clock_is_refused(text: str) -> None:
    """A training with another idea of time than its job would believe in deadlines that have passed."""
    with pytest.raises(ValueError, match=r"is no clock; it is written as scale@origin"):
        clock_from_text(text)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    """Time neither stands still nor runs back."""
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        ScaledClock(NOON, scale)
