"""The agent's licence to go on: until when, and whether the controller wants it to stop earlier.

The lease guards against leaks: an instance that no controller knows of any more ends itself. It is renewed through
the store, so it also runs out when the store cannot be read for its whole length. That is intended: an agent that
cannot be reached cannot be told to stop, and it costs money by the second.
"""

from __future__ import annotations

import threading
from datetime import datetime

from spotrun.agent.bell import Bell
from spotrun.job.message import Ask, Control

__all__ = ["Lease"]


class Lease:
    """Renewed by the courier, watched by the main thread. Thread-safe.

    The first lease is a promise of the launch: an older control document cannot shorten it.
    """

    def __init__(self, *, attempt: int, first_until: datetime, bell: Bell) -> None:
        self._attempt = attempt
        self._first_until = first_until
        self._bell = bell
        self._lock = threading.Lock()
        self._until = first_until
        self._stop_reason: str | None = None

    def renew(self, control: Control) -> None:
        """Takes in what the controller says; a document for another attempt is not for us. A stop is for good."""
        if control.attempt != self._attempt:
            return
        with self._lock:
            self._until = max(self._first_until, control.lease_until)
            if control.ask is Ask.STOP and self._stop_reason is None:
                self._stop_reason = control.reason or "the controller asked for it"
        self._bell.ring()

    @property
    def until(self) -> datetime:
        """When the lease runs out unless it is renewed, in job time."""
        with self._lock:
            return self._until

    @property
    def stop_reason(self) -> str | None:
        """Why the controller wants the attempt to stop; None while it does not."""
        with self._lock:
            return self._stop_reason
