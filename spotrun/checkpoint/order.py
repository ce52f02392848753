"""What the outside wants of the training: signals, and requests of the agent. Looked at between two steps.

A signal only sets a flag. In a job the agent writes request.json and then sends SIGTERM, which makes the next look a
careful one. Outside a job the first SIGINT or SIGTERM asks to save and end after the step; a second SIGINT ends at
once. After the last commit a notice has nothing left to save, and must not end the script that is still evaluating or
exporting: in a job the handler stays, and lets only a stop through. Processes forked from this one (loader workers) inherit the handler as an object but not its meaning: there it
does what would have happened without us.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from torch.utils.data import get_worker_info

from spotrun.clock import Clock, SystemClock
from spotrun.job.message import Ask, Request, parse
from spotrun.store.witness import Answer, Witness

__all__ = ["Notice", "Orders", "Stop"]

_LOOK_EVERY_S = 0.1  # wall time between two looks for a request; a signal makes the next one immediate


@dataclass(frozen=True, slots=True)
class Stop:
    """Save, then end with this exit code."""

    exit_code: int
    why: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Save now; the machine may be gone at the deadline."""

    deadline: datetime | None


class Orders:
    """Collects orders; `poll` hands out each once, between two steps.

    Args:
        request: the agent's request.json; None outside a job.
        wall: wall time, which bounds how often the file is looked at.
        witness: is told of each boundary, and may ask for a save of it.
    """

    def __init__(self, request: Path | None, *, wall: Clock | None = None, witness: Witness | None = None) -> None:
        self._request = request
        self._witness = witness or Witness()
        self._wall = wall or SystemClock()
        self._owner = os.getpid()
        self._signal: int | None = None
        self._count = 0
        self._looked = float("-inf")
        self._seen: tuple[int, int] | None = None
        self._last: Request | None = None
        self._previous: dict[int, Any] = {}
        self._over = False  # all is committed

    @property
    def rung(self) -> bool:
        """Whether a signal waits for the next look."""
        return self._signal is not None

    def listen(self) -> str | None:
        """Takes SIGTERM and, outside a job, SIGINT over; gives a warning where that is impossible."""
        if self._previous:
            return None
        if threading.current_thread() is not threading.main_thread():
            return (
                "attach was not called in the main thread, so signals cannot be heard: a stop may lose the last steps"
            )
        wanted = (signal.SIGTERM,) if self._request is not None else (signal.SIGTERM, signal.SIGINT)
        for number in wanted:
            before = signal.getsignal(number)
            older = getattr(before, "__self__", None)
            if isinstance(older, Orders):  # of a run in this process that was not closed: we take its place
                before = older._previous.get(number, signal.SIG_DFL)
            if before is not signal.SIG_IGN:  # started in the background, say: then it is to be ignored
                self._previous[number] = before
                signal.signal(number, self._hear)
        return None

    def release(self) -> None:
        """Puts back the handlers that were there before, unless somebody has replaced ours."""
        if os.getpid() != self._owner or threading.current_thread() is not threading.main_thread():
            return
        for number, before in self._previous.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._previous = {}

    def rest(self) -> None:
        """All is committed: from now on signals do what they would have done without us, but for a notice in a job."""
        self._over = True
        if self._request is None:
            self.release()

    def chained(self) -> Callable[[], None] | None:
        """The user's own handler of the signal that was heard, to be called once all is saved."""
        number = self._signal
        before = self._previous.get(number) if number is not None else None
        if number is None or before is signal.default_int_handler or not callable(before):
            return None
        return lambda: before(number, None)

    def witnessed(self, step: int) -> bool | None:
        """Tells the witness of a boundary; gives whether a save that it asks for is to be waited for, None without one."""
        answer = self._witness.tell(f"boundary {step}")
        return answer is Answer.COMMIT if answer in (Answer.SAVE, Answer.COMMIT) else None

    def poll(self) -> Stop | Notice | None:
        """The order that came since the last look, if any."""
        now = self._wall.monotonic()
        if self._signal is None and (self._request is None or now - self._looked < _LOOK_EVERY_S):
            return None
        self._looked = now
        request = self._read()
        if request is not None and request.ask is Ask.STOP:
            return Stop(0, "asked to stop")
        if request is not None and request.ask is Ask.SAVE:
            self._signal = None
            return Notice(request.deadline)
        if self._signal is None:
            return None
        if self._last is not None and self._last.ask is Ask.SAVE:
            self._signal = None  # a bell for a request that was answered before it rang
            return None
        return Stop(128 + self._signal, signal.Signals(self._signal).name)

    def _read(self) -> Request | None:
        """The request, if it is another than at the last look."""
        if self._request is None:
            return None
        try:
            status = self._request.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen == self._seen:
                return None
            request = parse(Request, self._request.read_bytes())
        except OSError:
            return None
        self._seen = seen
        if request is None or request == self._last:
            return None
        self._last = request
        return request

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            self._as_before(number, frame)
            return
        if self._over:
            self._read()
            if self._last is None or self._last.ask is not Ask.SAVE:
                self._as_before(number, frame)
            return
        self._count += number == signal.SIGINT
        self._signal = number
        if self._count > 1:
            self._count = 0
            raise KeyboardInterrupt
        if self._request is None:
            # Not through sys.stderr, which may be in the middle of a write of its own.
            os.write(2, b"\nspotrun: finishing this step, then saving (Ctrl-C again to leave at once)\n")

    def _as_before(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and get_worker_info() is not None:
            return  # Ctrl-C reaches the whole group; the batch in hand is still wanted, and the loader ends its workers
        before = self._previous.get(number)
        if callable(before):
            before(number, frame)
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
