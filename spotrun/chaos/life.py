"""One attempt, from its start to its end, watched through what it announces, and ended where a fault says."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from spotrun.chaos.child import witness_of
from spotrun.chaos.fault import Fault, Profile, Trigger, is_commit
from spotrun.chaos.process import Process, Start, Starter, kill, kill_alone
from spotrun.clock import Clock
from spotrun.job.message import Ask, Request
from spotrun.store.witness import Answer

__all__ = ["STRANDED_S", "Guide", "Life", "Mark", "live"]

_LOOK_S = 0.01  # between two looks whether the process has ended
_LINE_BYTES = 4096
STRANDED_S = 120.0  # that the others may live on after one of several processes was killed: torchrun gives them 30 s


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
        request: where the training looks for requests; None where the agent is told by the signal alone.
        told: called with each boundary.
        signals_group: a notice's signal goes to loader workers too.
    """

    request: Path | None
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
        stranded: one of several processes was killed, and the others did not end for it.
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
    stranded: bool = False
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
        contextlib.ExitStack() as sockets,
    ):
        address = str(Path(directory) / "witness")
        servers = []
        for rank in range(start.processes):
            server = sockets.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)))
            server.bind(witness_of(address, rank))
            server.listen()
            servers.append(server)
        environment = {**start.environment, "SPOTRUN_WITNESS": address}
        watcher = _Watcher(
            starter.start(replace(start, environment=environment, witness=address)), servers, guide, clock
        )
        try:
            return watcher.watch()
        finally:
            kill(watcher.process)
            watcher.close()


@dataclass(slots=True)
class _Line:
    """A connection to one of the processes."""

    rank: int
    heard: bytes = b""


class _Watcher:
    def __init__(self, process: Process, servers: Sequence[socket.socket], guide: Guide, clock: Clock) -> None:
        self.process = process
        self._servers = servers
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
        for server in servers:
            self._selector.register(server, selectors.EVENT_READ)
        self._lines: dict[socket.socket, _Line] = {}
        self._pids: dict[int, int] = {}  # of the processes that train, by rank
        self._alone = guide.fault.rank if guide.fault is not None else None
        self._hears = self._alone or 0  # whose announcements the fault follows

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
            if life.struck_s is not None and now >= life.struck_s + STRANDED_S and not life.stranded:
                life.stranded = True
                kill(self.process)
            self._listen(min(_LOOK_S, max((self._due or now + _LOOK_S) - now, 0.0)))
        life.exit_code, life.ended_s = code, self._now()
        return life

    def close(self) -> None:
        for connection in self._lines:
            connection.close()
        self._selector.close()

    def _now(self) -> float:
        return self._clock.monotonic() - self._began

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj in self._servers:
                connection, _ = key.fileobj.accept()  # type: ignore[union-attr]  # only sockets are registered
                self._lines[connection] = _Line(self._servers.index(key.fileobj))
                self._selector.register(connection, selectors.EVENT_READ)
            else:
                self._hear(key.fileobj)  # type: ignore[arg-type]

    def _hear(self, connection: socket.socket) -> None:
        line = self._lines[connection]
        data = b""
        with contextlib.suppress(OSError):
            data = connection.recv(_LINE_BYTES)
        if not data:
            self._selector.unregister(connection)
            del self._lines[connection]
            connection.close()
            return
        *told, line.heard = (line.heard + data).split(b"\n")
        for each in told:
            answer = self._answer(each.decode(errors="replace"), line.rank)
            if self._life.struck_s is None or self._alone not in (None, line.rank):
                with contextlib.suppress(OSError):
                    connection.sendall(answer.value.encode())

    def _answer(self, what: str, rank: int) -> Answer:
        life = self._life
        if what.startswith("process"):
            self._pids[rank] = int(what.split()[1])
            return Answer.GO
        if life.struck_s is not None:
            return Answer.GO
        warned = life.noticed_s is not None and life.saved_s is None
        answer = self._mark(what) if rank == 0 else Answer.GO
        if self._guide.looks and what.startswith("optimizer"):
            answer = Answer.LOOK
        if rank == self._hears and self._wait_for_fault(what):
            answer = Answer.SAVE
        if rank == 0 and warned and is_commit(what):
            life.saved_s = self._now()
            self._end = min(self._end or life.saved_s, life.saved_s + self._rest_s())
        return answer

    def _mark(self, what: str) -> Answer:
        """Keeps what the first process announces, and tells it what to do."""
        life, guide = self._life, self._guide
        life.marks.append(Mark(self._now(), what))
        if what.startswith("boundary"):
            self._boundary, self._since = int(what.split()[1]), 0
            guide.told(self._boundary)
            if guide.save_at(self._boundary):
                return Answer.COMMIT
        elif what.startswith("optimizer"):
            self._since += 1
            if guide.looks:
                life.looks[self._boundary, self._since] = int(what.split()[1])
        return Answer.GO

    def _wait_for_fault(self, what: str) -> bool:
        """Lets the fault happen if it is due; whether the boundary that was announced is to be saved for it."""
        guide, now = self._guide, self._now()
        if self._trigger is not None and self._due is None and self._life.noticed_s is None:
            delay_s = self._trigger.hear(what)
            if delay_s is not None:
                self._due = now + delay_s
                self._steps_left = max(1, math.ceil(guide.fault.delay)) if guide.fault is not None else 1
                if delay_s <= 0:
                    self._happen()
            return self._trigger.saves
        if self._due is not None and what.startswith("boundary" if self._life.attached else "optimizer"):
            # Steps may be quicker than they were in the uninterrupted run: then they count, and not the time.
            self._steps_left -= 1
            if self._steps_left == 0:
                self._happen()
        return False

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
        if guide.request is not None:
            deadline = self._clock.now() + timedelta(seconds=guide.notice_s)
            temporary = guide.request.with_name(".request.new")
            temporary.write_bytes(Request(ask=Ask.SAVE, deadline=deadline).to_bytes())
            temporary.replace(guide.request)
        with contextlib.suppress(psutil.NoSuchProcess):
            self._life.children = len(psutil.Process(self.process.pid).children(recursive=True))
        if len(self._servers) > 1:
            return  # a launcher ends at a signal, so the agent sends it none
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if guide.signals_group else os.kill)(self.process.pid, signal.SIGTERM)

    def _rest_s(self) -> float:
        """How long it trains on after it has committed under a notice: a few steps, which are then lost."""
        guide = self._guide
        return guide.profile.step_s * guide.fault.delay if guide.profile and guide.fault else 0.0

    def _strike(self) -> None:
        self._life.struck_s = self._now()
        if self._alone is not None and not self._life.hung and (pid := self._pids.get(self._alone)) is not None:
            kill_alone(pid)
        else:
            kill(self.process)
