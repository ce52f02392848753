"""What the training tells of itself: progress.json for the agent, metrics.jsonl for the curves, lines for the user."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from spotrun.clock import Clock, SystemClock
from spotrun.errors import SpecError
from spotrun.job.message import SHIPPED, Progress, TrainingPhase
from spotrun.store.manifest import METRICS_MAX

__all__ = ["Metrics", "Reporter", "say", "unshipped"]

_WRITE_EVERY_S = 0.2  # wall time between two progress files, but for what must be known at once
_RATE_STEPS = 50  # steps over which the speed is measured
_WARNINGS_MAX = 50
_LINE_MAX = 1000  # characters; a longer line of metrics is left to the agent alone


def say(sentence: str) -> None:
    """Tells the user something, on stderr. One that cannot be written, as into a file on a full disk, ends no training."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"spotrun: {sentence}\n")
        sys.stderr.flush()


class Reporter:
    """Keeps progress.json up to date. `set` changes what is known; `write` puts it on disk when it is time.

    Args:
        scratch: the directory; made if need be.
        clock: the job's time, by which everything is dated.
        wall: wall time, which bounds how often the file is written.
    """

    def __init__(self, scratch: Path, *, clock: Clock, wall: Clock | None = None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._path = scratch / "progress.json"
        self._clock = clock
        self._wall = wall or SystemClock()
        self._written = float("-inf")
        self._ends: deque[float] = deque(maxlen=_RATE_STEPS + 1)
        self._failed = False
        self.metrics = Metrics(scratch, clock=clock, warn=self.warn)
        self.progress = Progress(phase=TrainingPhase.STARTING, at=clock.now())

    def set(self, **known: Any) -> None:
        """Changes fields of the progress."""
        self.progress = self.progress.model_copy(update=known)

    def warn(self, sentence: str) -> None:
        """Tells the user and remembers it in the progress; the same sentence only once."""
        if sentence in self.progress.warnings:
            return
        say(f"warning: {sentence}")
        self.set(warnings=(*self.progress.warnings, sentence)[-_WARNINGS_MAX:])

    def stepped(self, step: int, at: datetime) -> None:
        """A step has ended."""
        self._ends.append(self._clock.monotonic())
        span = self._ends[-1] - self._ends[0]
        rate = (len(self._ends) - 1) / span if span > 0 else None
        here = self.progress.steps_here + 1
        self.set(step=step, steps_here=here, last_step_at=at, steps_per_s=rate)

    @property
    def step_s(self) -> float:
        """Seconds of job time that a step takes, as measured; 0 before the second step."""
        return 1 / self.progress.steps_per_s if self.progress.steps_per_s else 0.0

    def close(self) -> None:
        """Writes the last word."""
        self.write(now=True)
        self.metrics.close()

    def write(self, *, now: bool = False) -> None:
        """Replaces the file, at most five times a second unless `now`. A full disk does not stop the training."""
        wall = self._wall.monotonic()
        if not now and wall - self._written < _WRITE_EVERY_S:
            return
        self._written = wall
        self.set(at=self._clock.now())
        temporary = self._path.with_name(".progress.json.new")
        try:
            temporary.write_bytes(self.progress.to_bytes())
            temporary.replace(self._path)
        except OSError as err:
            if not self._failed:
                self._failed = True
                self.warn(f"{self._path} cannot be written ({err}); the training goes on")


class Metrics:
    """metrics.jsonl: one line for each step, in the order of steps. What is logged before `begin` is dropped, and so is what
    the disk does not take: numbers are no reason to end a training.

    Attributes:
        latest: the newest number of each name; a commit carries them along, so that the best ones can be kept.
    """

    def __init__(self, scratch: Path, *, clock: Clock, warn: Callable[[str], None] = say) -> None:
        self._path = scratch / "metrics.jsonl"
        self._clock = clock
        self._warn = warn
        self._values: dict[str, float | None] = {}
        self.latest: dict[str, float] = {}
        self._file: FileIO | None = None
        self._torn = False  # the last line in the file has no end

    def begin(self, step: int, brought: Sequence[str] = ()) -> None:
        """Opens the file. Lines of steps after `step` are of work that was lost and is done again: they go.

        Args:
            step: the step that the run goes on from.
            brought: lines that the commit carried, because the machine of the attempt before may have died with them.
        """
        try:
            _drop_after(self._path, step)
            self._file = self._path.open("ab", buffering=0)
            empty = self._file.tell() == 0
        except OSError as err:
            self._fail(str(err))
            return
        for line in brought if empty else ():
            self._append(line)

    @property
    def loss(self) -> float | None:
        """The loss of the current step, if it was logged."""
        return self._values.get("loss")

    def add(self, **values: Any) -> None:
        """Adds values to the current step's line.

        Raises:
            SpecError: a value is not a number.
        """
        for name, value in values.items():
            if name in ("step", "at"):
                raise SpecError(f"log: {name} is written by spotrun itself")
            number = self._values[name] = _number(name, value)
            if number is None:
                self.latest.pop(name, None)
            else:
                self.latest[name] = number

    def write(self, step: int, at: datetime) -> None:
        """Writes the step's line, if anything was logged."""
        if not self._values or self._file is None:
            return
        line = {"step": step, "at": at.isoformat(), "loss": None, **self._values}
        self._values = {}
        self._append(json.dumps(line))

    def close(self) -> None:
        """Closes the file; what is logged later is dropped."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: str) -> None:
        """Writes a line at once and without a buffer, which would try again for ever what a full disk has refused."""
        assert self._file is not None
        data = ("\n" * self._torn + line + "\n").encode()
        try:
            written = self._file.write(data) or 0
        except OSError as err:
            self._fail(str(err))
            return
        if written < len(data):
            self._fail("the disk is full")
        self._torn = written < len(data)

    def _fail(self, why: str) -> None:
        self._warn(f"{self._path} cannot be written ({why}): numbers of these steps are lost, the training goes on")


def unshipped(scratch: Path) -> tuple[str, ...]:
    """The newest lines of the metrics that the agent has not brought to the store yet: a commit carries them along."""
    try:
        told = (scratch / SHIPPED).read_text(encoding="ascii")
        offset = int(told) if told.isdigit() else 0
    except FileNotFoundError:
        offset = 0
    try:
        with (scratch / "metrics.jsonl").open("rb") as file:
            file.seek(offset)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(line for line in lines[-METRICS_MAX:] if len(line) <= _LINE_MAX)


def _number(name: str, value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise SpecError(f"log: {name} is a tensor of shape {list(value.shape)}; log one number, e.g. its mean()")
        value = value.detach().item()
    if value is None:
        return None
    try:
        number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        raise SpecError(f"log: {name} is a {type(value).__qualname__}, not a number") from None
    return number if math.isfinite(number) else None  # JSON has no form for it


def _drop_after(path: Path, step: int) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if (of := _step_of(line)) is not None and of <= step]
    if len(kept) == len(lines):
        return
    temporary = path.with_name(".metrics.jsonl.new")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def _step_of(line: str) -> int | None:
    if not line.endswith("\n"):
        return None  # torn by a kill
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None
