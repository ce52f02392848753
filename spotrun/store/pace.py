"""Whether a transfer still moves: one that does not is cut, and begun anew on another connection.

A connection to a large service can be slow for no reason that the next one shares: a bad path, a sick server. Waiting
for it holds up the whole save. Three signs make a transfer *stalled*: nothing moved for a while (the socket's own
time-out says so), less than a floor moved in a window of time, or it is far slower than its siblings were. The last
is judged more and more mildly at each try, since then it may be the network as a whole that became slow.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from spotrun.clock import Clock

__all__ = ["Pace", "PaceLimits", "Rates", "Stalled"]

_LOOK_S = 1.0  # between two looks at a transfer that runs
_RATE_FROM_BYTES = 1 << 20  # smaller transfers are all latency
_RATES_KEPT = 32
_RATES_MIN = 4  # fewer siblings tell nothing


class Stalled(OSError):
    """A transfer that hardly moves; trying it again on a new connection is worth it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaceLimits:
    """When a transfer counts as stalled."""

    idle_s: float = 10.0  # without a byte
    floor_bytes_per_s: float = 8192.0  # a modem's; on average over `window_s`
    window_s: float = 15.0
    laggard_after_s: float = 5.0  # younger transfers are not compared with their siblings
    laggard_share: float = 0.125  # of the siblings' median rate


class Rates:
    """The rates of the last transfers of a store, in one direction."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=_RATES_KEPT)
        self._lock = threading.Lock()

    def add(self, size: int, seconds: float) -> None:
        """Notes a transfer that ended well."""
        if size >= _RATE_FROM_BYTES and seconds > 0:
            with self._lock:
                self._rates.append(size / seconds)

    @property
    def median(self) -> float:
        """Bytes per second; 0 while too few are known."""
        with self._lock:
            return statistics.median(self._rates) if len(self._rates) >= _RATES_MIN else 0.0


class Pace:
    """One transfer.

    Args:
        rates: of its siblings.
        limits: when it counts as stalled.
        clock: wall time.
        tries: how often it was begun before; each makes it comparable to its siblings at half their rate.
        report: takes how many bytes moved since it was last called.
    """

    def __init__(
        self, rates: Rates, *, limits: PaceLimits, clock: Clock, tries: int, report: Callable[[int], None]
    ) -> None:
        self.limits = limits
        self.done = 0
        self._rates = rates
        self._clock = clock
        self._share = limits.laggard_share / 2**tries
        self._report = report
        self._reported = 0
        self._began = self._looked = self._window = clock.monotonic()
        self._window_done = 0

    def moved(self, count: int) -> None:
        """Notes that `count` more bytes moved.

        Raises:
            Stalled: too few of them.
        """
        self.done += count
        now = self._clock.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            self._look(now)

    def finish(self, *, well: bool) -> None:
        """Notes the end."""
        self._tell()
        if well:
            self._rates.add(self.done, self._clock.monotonic() - self._began)

    def _look(self, now: float) -> None:
        self._tell()
        limits, elapsed = self.limits, now - self._began
        if now - self._window >= limits.window_s:
            if self.done - self._window_done < limits.floor_bytes_per_s * limits.window_s:
                raise Stalled(f"only {self.done - self._window_done} bytes moved in {now - self._window:.0f} s")
            self._window, self._window_done = now, self.done
        if elapsed >= limits.laggard_after_s and self.done < self._rates.median * self._share * elapsed:
            raise Stalled(f"only {self.done} bytes moved in {elapsed:.0f} s, far fewer than in transfers beside it")

    def _tell(self) -> None:
        self._report(self.done - self._reported)
        self._reported = self.done
