"""What a store has moved so far, for whoever shows progress."""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["Moved", "Traffic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Bytes and requests since the store was opened. Bytes that went in vain and were sent again count twice."""

    sent: int = 0
    received: int = 0
    cut: int = 0  # transfers that stalled and were begun anew on another connection
    retried: int = 0  # parts that were asked for again, for whatever reason


class Traffic:
    """Counters that several threads raise."""

    def __init__(self) -> None:
        self._moved = [0, 0, 0, 0]
        self._lock = threading.Lock()

    @property
    def moved(self) -> Moved:
        """The counters at this moment; they grow while a transfer runs, at least once a second."""
        with self._lock:
            sent, received, cut, retried = self._moved
        return Moved(sent=sent, received=received, cut=cut, retried=retried)

    def add(self, *, sent: int = 0, received: int = 0, cut: int = 0, retried: int = 0) -> None:
        """Raises the counters."""
        with self._lock:
            for index, count in enumerate((sent, received, cut, retried)):
                self._moved[index] += count
