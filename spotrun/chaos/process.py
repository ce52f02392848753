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

import psutil

from spotrun.errors import SpotrunError

__all__ = [
    "ForkStarter",
    "FreshStarter",
    "HarnessFailed",
    "Process",
    "Start",
    "Starter",
    "child_arguments",
    "kill",
    "kill_alone",
]

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
        processes: that train together, as torchrun would start them on one machine.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    place: Path
    output: Path
    witness: str = ""
    detect: bool = False
    processes: int = 1


class Process(Protocol):
    """A process that was started; it leads a group of its own. Of several that train together: the one that started them."""

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
        with what.output.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *_launcher(what.processes), "-m", "spotrun.chaos.child", *child_arguments(what)],
                cwd=what.cwd,
                env=dict(what.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def close(self) -> None:
        """See `Starter`."""


def child_arguments(what: Start) -> list[str]:
    """What `spotrun.chaos.child` is told on its command line."""
    return [str(what.place), what.witness, *(["--detect"] if what.detect else []), "--", *what.argv]


def _launcher(processes: int) -> list[str]:
    """torchrun, where there is more than one process; what it starts has an interpreter of its own each."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []


class ForkStarter:
    """Each process is forked from one that has imported torch: no new process has to, and that is most of a start.

    What a script does before its own code runs is left out of the test by this: the imports, and settings that torch
    reads from the environment when it is imported.

    Args:
        imports: modules to import beforehand, too.
    """

    def __init__(self, environment: Mapping[str, str], *, imports: Sequence[str] = ()) -> None:
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "spotrun.chaos.nursery", *imports],
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
            "processes": what.processes,
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
    """SIGKILL to the process, its group and all that descends from it, as when a machine goes."""
    if process.poll() is not None:
        return
    family = _descendants(process.pid)  # torchrun's processes lead sessions of their own
    for send, target in ((os.killpg, process.pid), (os.kill, process.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            send(target, signal.SIGKILL)
    _kill_all(family)


def kill_alone(pid: int) -> None:
    """SIGKILL to one of several processes that train together, and to its loader workers."""
    family = _descendants(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _kill_all(family)


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _kill_all(processes: Sequence[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
