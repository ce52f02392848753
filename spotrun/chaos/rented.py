"""Attempts through spotrun's agent, as on rented machines: for scripts with checkpoints of their own.

The agent restores the script's folder, runs the script, and commits what the script has left whole (docs/folder.md). Each
attempt finds a new machine: nothing of the last one's disk. The agent's clock runs faster than the wall's, so that it
looks at the folder more than once in a short training.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from spotrun.chaos.process import Start, child_arguments
from spotrun.clock import Clock, ScaledClock
from spotrun.errors import StoreMissing
from spotrun.job import JobSpec
from spotrun.job.message import Exit, Outcome, Place, parse
from spotrun.store import open_store

__all__ = ["SCALE", "AgentStarter"]

SCALE = 20.0  # seconds of the agent's clock in one of the wall's
_LEASE_S = 1e7  # nobody renews it
_NO_METADATA = "http://127.0.0.1:9"  # nobody answers there: notices come as SIGTERM to the agent
_LEFT = 143  # it ended because it was told to


class AgentStarter:
    """Each process is an agent, which runs the script in a process of its own.

    Args:
        folder: the script's, relative to where it runs.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = ScaledClock(clock.now(), SCALE)

    def start(self, what: Start) -> _Agent:
        """See `Starter`."""
        root = what.environment["SPOTRUN_CHECKPOINT_URI"]
        described = {
            "name": what.environment["SPOTRUN_JOB_ID"],
            "command": [sys.executable, "-m", "spotrun.chaos.child", *child_arguments(what)],
            "checkpoint": {"uri": root, "folder": str(self._folder)},
        }
        environment = {
            **what.environment,
            "SPOTRUN_SPEC": json.dumps(JobSpec.model_validate(described).to_json()),
            "SPOTRUN_WORKDIR": str(what.cwd),
            "SPOTRUN_LEASE_S": str(_LEASE_S),
            "SPOTRUN_CLOCK": self._clock.to_text(),
            "SPOTRUN_IMDS": _NO_METADATA,
        }
        with what.output.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "spotrun.agent"],
                cwd=what.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        place = f"{root}/{what.environment['SPOTRUN_JOB_ID']}"
        return _Agent(process, place, int(what.environment["SPOTRUN_ATTEMPT"]), what.output)

    def close(self) -> None:
        """See `Starter`."""


@dataclass(slots=True)
class _Agent:
    """An agent's process, whose exit code is what became of its command."""

    process: subprocess.Popen[bytes]
    place: str
    attempt: int
    output: Path
    _code: int | None = field(init=False, default=None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        if self._code is None and (code := self.process.poll()) is not None:
            self._code = code if code < 0 else self._outcome(code)
        return self._code

    def _outcome(self, code: int) -> int:
        """The command's exit code, from the agent's last word; what the command printed last goes to the output."""
        try:
            told = parse(Exit, open_store(self.place).read(Place(self.attempt).exit))
        except StoreMissing:
            told = None
        if told is None:
            return code or 1
        if told.outcome is Outcome.COMPLETED:
            return 0
        with self.output.open("a", encoding="utf-8") as output:
            output.writelines(f"{line}\n" for line in told.tail)
        return _LEFT if told.outcome is Outcome.STOPPED else told.exit_code or 1
