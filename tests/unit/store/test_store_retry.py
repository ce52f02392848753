"""Patience: how often, how long, and with whom."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime

import pytest
from store_run import AT

from spotrun.errors import StoreDenied, StoreMissing, StoreUnavailable
from spotrun.store import MemoryStore, Patience, RetryingStore
from spotrun.store.digest import Part


class FakeClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []

    def now(self) -> datetime:
        return AT

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds

    def wall(self, seconds: float) -> float:
        return seconds


class Away(MemoryStore):
    """Says that it is away for the next `times` requests."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times
        self.asked = 0

    def _pass(self) -> None:
        self.asked += 1
        if self.asked <= self.times:
            raise StoreUnavailable(f"away {self.asked}")

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        self._pass()
        return super().read(key, start, end)

    def write(self, key: str, parts: Sequence[Part]) -> None:
        self._pass()
        super().write(key, parts)

    def create(self, key: str, data: bytes) -> bool:
        self._pass()
        return super().create(key, data)

    def list(self, prefix: str) -> list[str]:
        self._pass()
        return super().list(prefix)

    def delete(self, key: str) -> None:
        self._pass()
        super().delete(key)


def patient(inner: MemoryStore, clock: FakeClock, **how: float) -> RetryingStore:
    return RetryingStore(inner, patience=Patience(**how), clock=clock, dice=random.Random(1))


@pytest.mark.parametrize("ask", ["read", "write", "create", "list", "delete"])
def test_a_store_that_is_away_for_a_moment_is_asked_again(ask: str) -> None:
    """Each operation, with pauses that grow."""
    clock, inner = FakeClock(), Away(0)
    inner.write("k", [b"x"])
    inner.asked, inner.times = 0, 4
    store = patient(inner, clock)
    asks = {
        "read": lambda: store.read("k") == b"x",
        "write": lambda: store.write("k", [b"y"]) is None,
        "create": lambda: store.create("new", b"y"),
        "list": lambda: store.list("") == ["k"],
        "delete": lambda: store.delete("k") is None,
    }
    assert asks[ask]()
    assert inner.asked == 5
    assert clock.pauses == sorted(clock.pauses)
    assert 0.05 <= clock.pauses[0] <= 0.2


def test_patience_ends_in_time_with_the_stores_last_word() -> None:
    """The total is a bound, the longest pause another; the last pause ends with the total."""
    clock, inner = FakeClock(), Away(float("inf"))
    with pytest.raises(StoreUnavailable) as caught:
        patient(inner, clock, total_s=90).read("k")
    assert str(caught.value) == f"away {inner.asked}"
    assert clock.time == pytest.approx(90)
    assert max(clock.pauses) <= 8
    assert 15 <= inner.asked <= 40


def test_a_minute_of_refusals_is_ridden_out() -> None:
    """S3 scales up within about that time."""
    clock = FakeClock()

    class AwayForAMinute(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            if clock.time < 60:
                raise StoreUnavailable("503 Slow Down")
            return super().create(key, data)

    assert patient(AwayForAMinute(), clock).create("k", b"x")


@pytest.mark.parametrize("error", [StoreDenied("no"), StoreMissing("k"), ValueError("ours")])
def test_what_will_not_pass_is_not_tried_again(error: Exception) -> None:
    """Nobody should wait a minute and a half to learn that a key is missing."""
    clock = FakeClock()

    class Refusing(MemoryStore):
        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            raise error

    with pytest.raises(type(error)):
        patient(Refusing(), clock).read("k")
    assert clock.pauses == []


def test_pauses_differ_between_writers() -> None:
    """Else a herd comes back as one."""
    pauses = set()
    for seed in range(20):
        clock = FakeClock()
        RetryingStore(Away(1), clock=clock, dice=random.Random(seed)).list("")
        pauses.add(clock.pauses[0])
    assert len(pauses) == 20


def test_impossible_patience_is_refused() -> None:
    """At once, with the numbers."""
    for how in ({"total_s": 0.0}, {"first_s": 0.0}, {"first_s": 9.0}, {"longest_s": 100.0}):
        with pytest.raises(ValueError):
            Patience(**how)
