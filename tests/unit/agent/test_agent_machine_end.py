"""A machine with a notice is left to the provider for a while, since what EC2 ends in its first hour is free."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import cast

import pytest

from spotrun.agent.machine import leave_to_the_provider
from spotrun.agent.metadata import MetadataService
from spotrun.clock import SystemClock

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


class Metadata:
    def __init__(self, deadline: datetime | None) -> None:
        self._deadline = deadline

    def deadline(self) -> datetime | None:
        return self._deadline


class StillClock(SystemClock):
    """A clock at which nobody waits."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> datetime:
        return NOW

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("ahead_s", "slept"),
    [(100, [160.0]), (-30, [30.0]), (-61, []), (86_400, [300.0])],
)
def test_the_provider_has_until_a_minute_after_its_deadline(ahead_s: int, slept: list[float]) -> None:
    """Not for ever: a deadline that is long over, or a day ahead, does not keep a machine."""
    clock = StillClock()
    deadline = NOW + timedelta(seconds=ahead_s)
    leave_to_the_provider(cast("MetadataService", Metadata(deadline)), clock)
    assert clock.slept == slept


def test_without_a_notice_the_machine_ends_at_once() -> None:
    """Each second costs."""
    clock = StillClock()
    leave_to_the_provider(cast("MetadataService", Metadata(None)), clock)
    assert clock.slept == []
