"""One attempt, from its start to its end, watched through what it announces, and ended where a fault says."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from spotrun.chaos.fault import Fault, Profile, Trigger, is_commit
from spotrun.chaos.process import Process, Start, Starter, kill
from spotrun.clock import Clock
from spotrun.job.message import Ask, Request
from spotrun.store.witness import Answer

__all__ = ["Guide", "Life", "Mark", "live"]

_LOOK_S = 0.01  # between two looks whether the process has ended
_LINE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the process announced, and when, in seconds since its start."""

    at_s: float
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Guide:
    """What is to become of an attempt.

    Attributes:
        fault: how it is interrupted, if at all.
        profile: of the uninterrupted run; needed for a fault.
        save_at: which boundaries are to be committed before the training goes on.
        looks: write down a census before each step of an optimizer.
        notice_s: how long it lives after a notice at most.
        limit_s: how long it may live; then it hangs, and is killed.
        request: where the training looks for requests.
        told: called with each boundary.
        signals_group: a notice's signal goes to loader workers too.
    """

    request: Path
    fault: Fault | None = None
    profile: Profile | None = None
    save_at: Callable[[int], bool] = lambda _: False
    looks: bool = False
    notice_s: float = 120.0
    limit_s: float = 600.0
    told: Callable[[int], None] = lambda _: None
    signals_group: bool = False


@dataclass(slots=True)
class Life:
    """What became of it. Times are wall seconds since the start of the process.

    Attributes:
        struck_s: when it was killed; None if it ended by itself.
        noticed_s: when it was told.
        saved_s: when a commit followed.
        children: processes that it had when it was told.
        hung: it was killed because it did not end.
        looks: the number of each census, by boundary and how many steps of optimizers there were since.
    """

    marks: list[Mark] = field(default_factory=list)
    exit_code: int | None = None
    ended_s: float = 0.0
    struck_s: float | None = None
    noticed_s: float | None = None
    saved_s: float | None = None
    children: int = 0
    hung: bool = False
    looks: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def attached(self) -> bool:
        """Whether it called `spotrun.attach`."""
        return any(mark.what == "attach" for mark in self.marks)

    @property
    def lost(self) -> bool:
        """Whether the harness ended it, as the end of its machine."""
        return self.struck_s is not None and not self.hung

    def times(self, verb: str) -> list[tuple[int, float]]:
        """Number and time of each announcement of this kind: `boundary` or `optimizer`."""
        marks = [(mark.what.split(), mark.at_s) for mark in self.marks if mark.what.startswith(verb)]
        return [(int(words[1]), at_s) for words, at_s in marks]


def live(starter: Starter, start: Start, guide: Guide, clock: Clock) -> Life:
    """Starts the script and watches it to its end."""
    start.place.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix="spotrun-") as directory,  # a socket's path must be short
        contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as server,
    ):
        address = str(Path(directory) / "witness")
        server.bind(address)
        server.listen()
        environment = {**start.environment, "SPOTRUN_WITNESS": address}
        watcher = _Watcher(
            starter.start(replace(start, environment=environment, witness=address)), server, guide, clock
        )
        try:
            return watcher.watch()
        finally:
            kill(watcher.process)
            watcher.close()


class _Watcher:
    def __init__(self, process: Process, server: socket.socket, guide: Guide, clock: Clock) -> None:
        self.process = process
        self._server = server
        self._guide = guide
        self._clock = clock
        self._began = clock.monotonic()
        self._life = Life()
        self._trigger = (
            Trigger(guide.fault, guide.profile) if guide.fault is not None and guide.profile is not None else None
        )
        self._due: float | None = None  # when the fault happens
        self._steps_left = 0  # until it happens in any case
        self._end: float | None = None  # when the machine goes
        self._boundary = 0
        self._since = 0  # steps of optimizers since the boundary
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)
        self._buffers: dict[socket.socket, bytes] = {}

    def watch(self) -> Life:
        life = self._life
        while (code := self.process.poll()) is None:
            now = self._now()
            if self._due is not None and now >= self._due:
                self._happen()
            if self._end is not None and now >= self._end and life.struck_s is None:
                self._strike()
            if now >= self._guide.limit_s and life.struck_s is None:
                life.hung = True
                self._strike()
            self._listen(min(_LOOK_S, max((self._due or now + _LOOK_S) - now, 0.0)))
        life.exit_code, life.ended_s = code, self._now()
        return life

    def close(self) -> None:
        for connection in self._buffers:
            connection.close()
        self._selector.close()

    def _now(self) -> float:
        return self._clock.monotonic() - self._began

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._server:
                connection, _ = self._server.accept()
                self._buffers[connection] = b""
                self._selector.register(connection, selectors.EVENT_READ)
                continue
            connection = key.fileobj  # type: ignore[assignment]  # only sockets are registered
            data = b""
            with contextlib.suppress(OSError):
                data = connection.recv(_LINE_BYTES)
            if not data:
                self._selector.unregister(connection)
                del self._buffers[connection]
                connection.close()
                continue
            *lines, rest = (self._buffers[connection] + data).split(b"\n")
            self._buffers[connection] = rest
            for line in lines:
                answer = self._answer(line.decode(errors="replace"))
                if self._life.struck_s is None:
                    with contextlib.suppress(OSError):
                        connection.sendall(answer.value.encode())

    def _answer(self, what: str) -> Answer:
        life, guide, now = self._life, self._guide, self._now()
        if life.struck_s is not None:
            return Answer.GO
        life.marks.append(Mark(now, what))
        answer = Answer.GO
        if what.startswith("boundary"):
            self._boundary, self._since = int(what.split()[1]), 0
            self._guide.told(self._boundary)
            if self._guide.save_at(self._boundary):
                answer = Answer.COMMIT
        elif what.startswith("optimizer"):
            self._since += 1
            if self._guide.looks:
                life.looks[self._boundary, self._since] = int(what.split()[1])
                answer = Answer.LOOK
        if self._trigger is not None and self._due is None and life.noticed_s is None:
            delay_s = self._trigger.hear(what)
            answer = Answer.SAVE if self._trigger.saves else answer
            if delay_s is not None:
                self._due = now + delay_s
                self._steps_left = max(1, math.ceil(guide.fault.delay)) if guide.fault is not None else 1
                if delay_s <= 0:
                    self._happen()
        elif self._due is not None and what.startswith("boundary" if life.attached else "optimizer"):
            # Steps may be quicker than they were in the uninterrupted run: then they count, and not the time.
            self._steps_left -= 1
            if self._steps_left == 0:
                self._happen()
        elif life.noticed_s is not None and life.saved_s is None and is_commit(what):
            life.saved_s = now
            self._end = min(self._end or now, now + self._rest_s())
        return answer

    def _happen(self) -> None:
        """The fault is due: the machine goes, or a notice comes."""
        self._due = None
        guide = self._guide
        assert guide.fault is not None
        if not guide.fault.notice:
            self._strike()
            return
        now = self._now()
        self._life.noticed_s = now
        self._end = now + guide.notice_s
        deadline = self._clock.now() + timedelta(seconds=guide.notice_s)
        temporary = guide.request.with_name(".request.new")
        temporary.write_bytes(Request(ask=Ask.SAVE, deadline=deadline).to_bytes())
        temporary.replace(guide.request)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._life.children = len(psutil.Process(self.process.pid).children(recursive=True))
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if guide.signals_group else os.kill)(self.process.pid, signal.SIGTERM)

    def _rest_s(self) -> float:
        """How long it trains on after it has committed under a notice: a few steps, which are then lost."""
        guide = self._guide
        return guide.profile.step_s * guide.fault.delay if guide.profile and guide.fault else 0.0

    def _strike(self) -> None:
        self._life.struck_s = self._now()
        kill(self.process)
