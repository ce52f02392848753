"""Notices of interruption: from the instance metadata service (IMDSv2), and from the agent's own SIGTERM.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html (2026-11): `GET
/latest/meta-data/spot/instance-action` answers 404 while there is none, then `{"action": ..., "time": ...}`; AWS
recommends a look every 5 seconds. The notice is best effort and may never come. `events/recommendations/rebalance` may come
before it, at the same time, or alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotrun.agent.bell import Bell
from spotrun.agent.config import Timing, at_least
from spotrun.agent.metadata import MetadataService
from spotrun.clock import Clock

__all__ = ["Notice", "NoticeBoard", "NoticeWatcher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """The machine may be gone at `deadline`. `first` is False when only the deadline of a known one became exact."""

    deadline: datetime
    first: bool


class NoticeBoard:
    """Where notices are put up, and where each is taken from exactly once. Thread-safe."""

    def __init__(self, *, bell: Bell, notice_s: float) -> None:
        self._bell = bell
        self._notice = timedelta(seconds=notice_s)
        self._lock = threading.Lock()
        self._published: datetime | None = None  # newest deadline that the metadata service told
        self._taken: datetime | None = None  # the one of those that was taken last
        self._signalled = False
        self._deadline: datetime | None = None
        self._guessed = False
        self._recommended = False

    def publish(self, deadline: datetime) -> None:
        """The metadata service tells this deadline; telling it again changes nothing."""
        with self._lock:
            if deadline == self._published:
                return
            self._published = deadline
        self._bell.ring()

    def recommend(self) -> None:
        """The metadata service recommends to leave this machine, whose interruption has become likely."""
        with self._lock:
            self._recommended = True
        self._bell.ring()

    def take_recommendation(self) -> bool:
        """Whether there is a recommendation that was not taken before. Main thread only."""
        with self._lock:
            taken, self._recommended = self._recommended, False
            return taken

    def signalled(self) -> None:
        """The agent got SIGTERM. Fit for a signal handler: takes no lock; the signal itself rings the bell."""
        self._signalled = True

    def take(self, now: datetime) -> Notice | None:
        """The notice that was not taken before, if there is one. Main thread only."""
        signalled = self._signalled
        if signalled:  # only then: a signal that comes between these lines must not be forgotten
            self._signalled = False
        with self._lock:
            known = self._deadline is not None and now < self._deadline
            if self._published is not None and self._published != self._taken:
                self._taken = self._deadline = self._published
                first = not (known and self._guessed)
                self._guessed = False
                return Notice(deadline=self._deadline, first=first)
            if signalled and not known:
                self._deadline = now + self._notice
                self._guessed = True
                return Notice(deadline=self._deadline, first=True)
            return None

    @property
    def deadline(self) -> datetime | None:
        """The deadline of the notice taken last; None before the first."""
        with self._lock:
            return self._deadline


class NoticeWatcher:
    """Looks at the metadata service again and again, until told to stop."""

    def __init__(
        self,
        service: MetadataService,
        board: NoticeBoard,
        *,
        clock: Clock,
        timing: Timing,
        recommendations: bool = False,
    ) -> None:
        self._service = service
        self._recommendations = recommendations  # whether to look for those too
        self._board = board
        self._clock = clock
        self._period_s = at_least(clock, timing.poll_s, timing.poll_wall_s)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Watches until `stop`; for a thread of its own."""
        while not self._stopped.is_set():
            due_s = self._clock.monotonic() + self._period_s
            deadline = self._service.deadline()
            if deadline is not None:
                self._board.publish(deadline)
            if self._recommendations and self._service.recommended_at() is not None:
                self._board.recommend()
                self._recommendations = False  # it is told once, and stays
            self._stopped.wait(max(0.0, self._clock.wall(due_s - self._clock.monotonic())))

    def stop(self) -> None:
        """Ends `run` within the metadata service's time-out."""
        self._stopped.set()
