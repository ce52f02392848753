"""The simulated machine: `python -m spotrun.providers.local.host <state folder>`.

The host *is* the machine. It takes the folder's lock or gives up, serves the metadata, waits for the launch delay, and
starts the agent in a session of its own. Then it waits for the first of: the agent's end, the notice, the loss, a
request to terminate. When it ends, everything it has started is dead and the end record is written, in this order.
It survives the controller, and if it is killed itself, whoever looks next finds the lock free and clears up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from types import FrameType

from spotrun.clock import SystemClock, clock_from_text
from spotrun.providers.local.environment import agent_environment
from spotrun.providers.local.imds import MetadataServer
from spotrun.providers.local.process import INSTANCE_TAG, kill_group, kill_tagged, wait_for_end
from spotrun.providers.local.state import EndRecord, HostRecord, StateFolder
from spotrun.providers.provider import EndCause

__all__ = ["Host", "main"]

_POLL_WALL_S = 0.1  # how late a request to terminate may be noticed
_BEAT_WALL_S = 1.0
_GRACE_WALL_S = 2.0  # between SIGTERM and SIGKILL when terminated; EC2 gives the operating system a moment, too
_LOCK_WALL_S = 5.0  # others hold the lock only while they look; a host that holds it longer is alive


class _Happening(Enum):
    """Why a machine ends."""

    EXIT = EndCause.EXITED
    LOSS = EndCause.INTERRUPTED
    TERMINATION = EndCause.TERMINATED
    SHUTDOWN = EndCause.LOST  # somebody asked the host itself to end, as a system does that goes down


def main() -> int:
    """Runs the machine whose state folder is the only argument; gives the exit code."""
    folder = StateFolder(Path(sys.argv[1]))
    clock = SystemClock()
    until = clock.monotonic() + _LOCK_WALL_S
    while True:
        with folder.lock() as ours:
            if ours:
                if folder.host() is None and folder.end() is None:
                    Host(folder).run()
                return 0
        if clock.monotonic() > until:
            return 0  # another host holds it
        clock.sleep(0.02)


class Host:
    """One machine; `run` it once, in the main thread, while holding the folder's lock."""

    def __init__(self, folder: StateFolder) -> None:
        self._folder = folder
        self._machine = folder.machine()
        self._clock = clock_from_text(self._machine.clock)
        self._metadata = MetadataServer(
            instance_id=self._machine.id,
            zone=self._machine.zone,
            instance_type=self._machine.instance_type,
            market=self._machine.market,
        )
        self._record = HostRecord(metadata_url=self._metadata.url)
        self._agent: subprocess.Popen[bytes] | None = None
        self._exited = threading.Event()
        self._shutdown = False
        self._next_beat = 0.0
        self._details: list[str] = []

    def run(self) -> None:
        """Lives the machine's life; returns when all of it is over and recorded."""
        signal.signal(signal.SIGTERM, self._asked_to_end)
        signal.signal(signal.SIGINT, self._asked_to_end)
        self._write()
        try:
            happening = self._wait_for_end()
        except BaseException:
            if self._agent is not None:
                kill_group(self._agent)  # better lost than running unwatched
            raise
        self._end(happening)
        self._metadata.close()

    def _wait_for_end(self) -> _Happening:
        machine = self._machine
        while True:
            now = self._clock.now()
            if self._exited.is_set():
                return _Happening.EXIT
            if machine.loss_at is not None and now >= machine.loss_at:
                return _Happening.LOSS
            if self._folder.termination_asked():
                return _Happening.TERMINATION
            if self._shutdown:
                return _Happening.SHUTDOWN
            if machine.notice_at is not None and now >= machine.notice_at:
                self._announce()
            if self._agent is None and now >= machine.ready_at:
                self._start_agent(now)
            self._beat(now)
            self._exited.wait(self._patience_s(self._clock.now()))

    def _patience_s(self, now: datetime) -> float:
        """Seconds of wall time until the next due moment, or until it is time to look for requests."""
        machine = self._machine
        due = [machine.loss_at, machine.notice_at, machine.ready_at if self._agent is None else None]
        ahead = [(at - now).total_seconds() for at in due if at is not None and at > now]
        return min([_POLL_WALL_S, *(self._clock.wall(seconds) for seconds in ahead)])

    def _announce(self) -> None:
        if self._record.notice_deadline is None and self._machine.loss_at is not None:
            self._metadata.publish_termination(self._machine.loss_at)
            self._record = self._record.model_copy(update={"notice_deadline": self._machine.loss_at})
            self._write()

    def _start_agent(self, now: datetime) -> None:
        environment = agent_environment(
            dict(os.environ),
            self._machine,
            metadata_url=self._metadata.url,
            scratch=str(self._folder.scratch),
        )
        try:
            with (self._folder.path / "agent.log").open("ab") as log:
                self._agent = subprocess.Popen(
                    self._machine.agent_argv,
                    env=environment,
                    cwd=self._folder.scratch,  # -m puts it on sys.path: it must hold no module of the user's
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as err:
            self._details.append(f"the agent could not be started: {err}")
            self._exited.set()
            return
        threading.Thread(target=self._watch, args=(self._agent,), daemon=True).start()
        self._record = self._record.model_copy(update={"agent_started_at": now})
        self._write()

    def _watch(self, agent: subprocess.Popen[bytes]) -> None:
        wait_for_end(agent)
        self._exited.set()

    def _end(self, happening: _Happening) -> None:
        agent = self._agent
        ended_at = self._machine.loss_at if happening is _Happening.LOSS and agent is None else None
        if agent is not None:
            if happening in {_Happening.TERMINATION, _Happening.SHUTDOWN}:
                self._let_go(agent)
            kill_group(agent)
        ended_at = ended_at or self._clock.now()
        _, living = kill_tagged(INSTANCE_TAG, self._machine.id, session=None if agent is None else agent.pid)
        if living:
            self._details.append(f"{living} processes do not end: they hang in the kernel")
        if agent is not None:
            agent.wait()
            if happening is _Happening.EXIT:
                self._details.append(f"the agent's exit code was {agent.returncode}")
        detail = "; ".join(self._details)
        self._folder.write_end(EndRecord(cause=happening.value, ended_at=ended_at, detail=detail))

    def _let_go(self, agent: subprocess.Popen[bytes]) -> None:
        """A moment for the agent to end by itself, but not beyond the loss."""
        agent.send_signal(signal.SIGTERM)
        left_s = _GRACE_WALL_S
        if self._machine.loss_at is not None:
            left_s = min(left_s, self._clock.wall((self._machine.loss_at - self._clock.now()) / timedelta(seconds=1)))
        self._exited.wait(max(0.0, left_s))

    def _beat(self, now: datetime) -> None:
        wall_s = self._clock.wall(self._clock.monotonic())
        if wall_s >= self._next_beat:
            self._next_beat = wall_s + _BEAT_WALL_S
            self._folder.beat(now)

    def _write(self) -> None:
        self._folder.write_host(self._record)

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._shutdown = True  # seen at the next look; an event's lock must not be taken in a signal handler


if __name__ == "__main__":
    sys.exit(main())
