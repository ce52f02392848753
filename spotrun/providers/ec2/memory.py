"""What was asked of AWS is kept for a while, so that many jobs and short turns ask once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from spotrun.clock import Clock

__all__ = ["Memory"]

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Memory(Generic[_K, _V]):
    """Values by key, each kept for `seconds` of wall time. Thread-safe; asks once at a time."""

    def __init__(self, seconds: float, *, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.RLock()
        self._kept: dict[_K, tuple[float, _V]] = {}

    def get(self, key: _K, ask: Callable[[], _V]) -> _V:
        """The value that is kept, or what `ask` gives now. What it raises is not kept."""
        with self._lock:
            kept = self._kept.get(key)
            now = self._clock.monotonic()
            if kept is not None and now - kept[0] < self._seconds:
                return kept[1]
            value = ask()
            self._kept[key] = (now, value)
            return value
