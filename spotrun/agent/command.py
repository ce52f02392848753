"""The user's command: one process of the agent's own group, its output read by a thread.

No shell in between: a shell would get the signals that are meant for the training. The same process group as the
agent, so that the machine's end takes all of them at once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from spotrun.agent.bell import Bell
from spotrun.agent.container import Container
from spotrun.agent.leftover import kill_leftovers
from spotrun.agent.log import OutputLog
from spotrun.agent.worker import Worker
from spotrun.errors import SpecError

__all__ = ["Command", "arguments"]

_READ_BYTES = 1 << 16  # what a Linux pipe holds
_DRAIN_WALL_S = 5.0  # everything is dead by then, so the pipe is at its end; longer means that somebody escaped


def arguments(command: str | tuple[str, ...]) -> list[str]:
    """The command as an argument list; a string is split as a POSIX shell would, and nothing else of a shell is done.

    Raises:
        SpecError: it is empty or its quotes do not match.
    """
    try:
        parts = shlex.split(command) if isinstance(command, str) else list(command)
    except ValueError as err:
        raise SpecError(f"command: {command!r} cannot be split into arguments: {err}") from err
    if not parts or not parts[0]:
        raise SpecError("command: it is empty")
    return parts


class Command:
    """Started once, watched and signalled by the main thread only: nobody else reaps it, so its id stays its own."""

    def __init__(self, *, instance_id: str, log: OutputLog, bell: Bell, container: Container | None = None) -> None:
        self._instance_id = instance_id
        self._container = container  # what runs in it is not ours to look into: our process is docker's client
        self._log = log
        self._bell = bell
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: Worker[None] | None = None
        self.signalled = False  # whether we sent SIGTERM

    def start(self, argv: list[str], *, directory: Path, environment: Mapping[str, str]) -> None:
        """Starts the process.

        Raises:
            SpecError: there is no such program or directory, or it may not be run; says which.
        """
        if not directory.is_dir():
            raise SpecError(f"the working directory {directory} does not exist on this machine")
        try:
            self._process = subprocess.Popen(
                argv,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as err:
            raise SpecError(f"the program {argv[0]!r} was not found on this machine, nor what it runs on") from err
        except PermissionError as err:
            raise SpecError(f"the program {argv[0]!r} may not be run: is it executable?") from err
        except (OSError, ValueError) as err:
            raise SpecError(f"the program {argv[0]!r} could not be started: {err}") from err
        self._reader = Worker("output", self._read, self._bell)

    @property
    def started(self) -> bool:
        """Whether there was ever a process."""
        return self._process is not None

    def ended(self) -> bool:
        """Whether the process is over."""
        return self._process is not None and self._process.poll() is not None

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.returncode if self._process else None

    def hears_sigterm(self) -> bool:
        """Whether SIGTERM is a message to the main process, not its end: it has a handler, and it is no launcher.
        False where the system does not tell (not Linux)."""
        if self._process is None or self._container is not None:
            return False
        return _catches(self._process.pid, signal.SIGTERM) and not _ranks(self._process.pid)

    def tell(self, number: signal.Signals) -> bool:
        """Sends a signal to whoever has a handler for it: the main process, or the ranks that it has launched. Nobody else
        gets it: loader workers inherit handlers that are not meant for them. Tells whether anybody got it."""
        if self._process is None or self.ended() or self._container is not None:
            return False
        heard = [pid for pid in _ranks(self._process.pid) or [self._process.pid] if _catches(pid, number)]
        for pid in heard:
            with contextlib.suppress(ProcessLookupError):  # a rank that is over
                os.kill(pid, number)
        return bool(heard)

    def processes(self) -> list[int]:
        """The ids of the main process and of all that descend from it now."""
        if self._process is None or self._process.returncode is not None:
            return []
        try:
            children = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.Error:
            return []
        return [self._process.pid, *(child.pid for child in children)]

    def terminate(self) -> None:
        """Sends SIGTERM to the main process and to nobody else: loader workers must live for the save to finish."""
        if self._process is not None:
            self.signalled = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to the main process and to everything it left on this machine."""
        if self._process is not None:
            if self._container is not None and not self.ended():
                self._container.kill()
            self._process.kill()
        self.sweep()

    def sweep(self) -> None:
        """Kills what is left of the command but its main process; takes a few seconds at most."""
        left = kill_leftovers(self._instance_id, spare=self._process.pid if self._process else None)
        if left:
            self._log.say(f"{left} processes of the command could not be killed")

    def drain(self) -> None:
        """Waits for the last output, after `sweep`."""
        if self._reader is not None and self._reader.join(_DRAIN_WALL_S):
            self._reader.result()
        self._log.close()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while data := os.read(pipe.fileno(), _READ_BYTES):
                self._log.feed(data)


def _catches(pid: int, number: signal.Signals) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _ranks(pid: int) -> list[int]:
    """The ranks of a training that the process has started: torchrun and its kind set LOCAL_RANK for them. Launchers take
    SIGTERM as the order to end them all, 30 s later by force."""
    try:
        process = psutil.Process(pid)
        if "LOCAL_RANK" in process.environ():
            return []
        return [child.pid for child in process.children() if "LOCAL_RANK" in child.environ()]
    except psutil.Error:
        return []  # it or a child is ending just now
