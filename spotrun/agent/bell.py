"""What the main thread sleeps on: anybody may ring it, even a signal handler or the kernel's signal delivery."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Callable

__all__ = ["Bell"]

_WAIT_S_MAX = 3600.0  # no system call takes an instant that is decades away


class Bell:
    """A pipe to oneself. A condition variable would deadlock when a signal handler of the thread that holds it rings;
    writing a byte cannot. Rings are not counted: after a wait, look at everything.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._reader, selectors.EVENT_READ)

    def ring(self) -> None:
        """Wakes the waiter, now or at its next wait. Safe from any thread and from signal handlers."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            return  # full of rings already

    def wait(self, timeout: float | None) -> None:
        """Blocks until somebody rings, or for `timeout` seconds of wall time; None waits for a ring only. It may return
        sooner: after a wait, look at everything."""
        if self._selector.select(None if timeout is None else min(max(0.0, timeout), _WAIT_S_MAX)):
            self._drain()

    def listen(self, terminated: Callable[[], None]) -> None:
        """Rings at the end of every child process and at SIGTERM, which also calls `terminated`. Main thread only."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: terminated())

    def close(self) -> None:
        """Frees the pipe; nobody may ring any more."""
        self._selector.close()
        os.close(self._reader)
        os.close(self._writer)

    def _drain(self) -> None:
        try:
            while os.read(self._reader, 4096):
                pass
        except BlockingIOError:
            return
