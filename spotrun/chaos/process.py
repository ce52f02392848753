"""Processes that run a script for the harness: started anew, or forked from one that has imported torch."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from spotrun.errors import SpotrunError

__all__ = ["ForkStarter", "FreshStarter", "HarnessFailed", "Process", "Start", "Starter", "kill"]

_NURSERY_S = 30.0  # for the nursery to end once nothing is asked of it any more


class HarnessFailed(SpotrunError):
    """The harness itself cannot go on; says nothing of the script."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What to run.

    Attributes:
        argv: the script and its arguments.
        place: for the census; see `spotrun.chaos.child`.
        witness: the socket of whoever listens.
        output: a file, for stdout and stderr.
        detect: let torch name what is not deterministic.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    place: Path
    output: Path
    witness: str = ""
    detect: bool = False


class Process(Protocol):
    """A process that was started; it leads a group of its own."""

    @property
    def pid(self) -> int:
        """Its id."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None as long as it runs."""


class Starter(Protocol):
    """Starts processes, one at a time."""

    def start(self, what: Start) -> Process:
        """Starts one; the one before has ended."""

    def close(self) -> None:
        """Leaves nothing behind."""


class FreshStarter:
    """Each process is a new interpreter, as on a new machine."""

    def start(self, what: Start) -> Process:
        """See `Starter`."""
        options = ["--detect"] if what.detect else []
        command = [
            sys.executable,
            "-m",
            "spotrun.chaos.child",
            str(what.place),
            what.witness,
            *options,
            "--",
            *what.argv,
        ]
        with what.output.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=what.cwd,
                env=dict(what.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def close(self) -> None:
        """See `Starter`."""


class ForkStarter:
    """Each process is forked from one that has imported torch: no new process has to, and that is most of a start.

    What a script does before its own code runs is left out of the test by this: the imports, and settings that torch
    reads from the environment when it is imported.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "spotrun.chaos.nursery"],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, what: Start) -> Process:
        """See `Starter`.

        Raises:
            HarnessFailed: the process that forks has ended.
        """
        assert self._nursery.stdin
        request = {
            "argv": list(what.argv),
            "environment": dict(what.environment),
            "cwd": str(what.cwd),
            "place": str(what.place),
            "output": str(what.output),
            "witness": what.witness,
            "detect": what.detect,
        }
        with contextlib.suppress(BrokenPipeError):
            self._nursery.stdin.write(json.dumps(request).encode() + b"\n")
            self._nursery.stdin.flush()
        return _Forked(self._nursery)

    def close(self) -> None:
        """See `Starter`."""
        assert self._nursery.stdin
        assert self._nursery.stdout
        with contextlib.suppress(BrokenPipeError):
            self._nursery.stdin.close()
        try:
            self._nursery.wait(_NURSERY_S)
        except subprocess.TimeoutExpired:
            self._nursery.kill()
            self._nursery.wait()
        self._nursery.stdout.close()


class _Forked:
    def __init__(self, nursery: subprocess.Popen[bytes]) -> None:
        assert nursery.stdout
        self._stdout = nursery.stdout
        self._code: int | None = None
        self.pid = self._number()

    def poll(self) -> int | None:
        if self._code is None and select.select([self._stdout], [], [], 0)[0]:
            self._code = self._number()
        return self._code

    def _number(self) -> int:
        line = self._stdout.readline()
        if not line:
            raise HarnessFailed("the process that forks the script's processes has ended; try without --fast")
        return int(line)


def kill(process: Process) -> None:
    """SIGKILL to the process and all of its group, as when a machine goes."""
    if process.poll() is not None:
        return
    for send, target in ((os.killpg, process.pid), (os.kill, process.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(target, signal.SIGKILL)
