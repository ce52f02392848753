"""An interruption that is to happen: where, and with or without a notice. And the moment at which it is due."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Fault", "Point", "Profile", "Trigger", "is_commit"]

_LOG = "after create log/"  # with it a commit is there


class Point(str, Enum):
    """Where a training can be interrupted."""

    START_UP = "start-up"  # attached, and nothing claimed yet; without spotrun.attach: before its first step
    RESTORE = "restore"  # at a call to the store before the first step
    STEP = "step"  # in the middle of a step
    SAVE = "save"  # before or after a call to the store while a checkpoint is saved
    UPLOAD = "upload"  # a moment after the bytes of a checkpoint began to be sent
    EVALUATION = "evaluation"  # between the last step of an epoch and the end of the epoch
    EPOCH = "epoch"  # between two epochs
    FINISH = "finish"  # at a call to the store after the last step


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One interruption.

    Attributes:
        step: the first boundary between steps at which it may happen.
        call: of the calls to the store, which; from 1.
        after: right after that call; else right before it.
        delay: how long after the boundary, in mean steps.
        notice: the training is told before, and lost once it has committed or its time is up.
        rank: of several processes the one that is killed alone, by its own announcements; None for the whole machine.
        since_start: `step` counts from the start of the attempt, not of the run.
        pause_s: wall time without capacity before the next attempt.
    """

    point: Point
    step: int = 1
    call: int = 1
    after: bool = False
    delay: float = 0.0
    notice: bool = False
    rank: int | None = None
    since_start: bool = False
    pause_s: float = 0.0

    def __str__(self) -> str:
        where: str = self.point.value
        match self.point:
            case Point.STEP if self.since_start:
                where += f" {self.step} of the attempt"
            case Point.STEP | Point.UPLOAD:
                where += f" {self.step}"
            case Point.SAVE | Point.RESTORE | Point.FINISH:
                of = f" of step {self.step}" if self.point is Point.SAVE else ""
                where += f"{of}, {'after' if self.after else 'before'} call {self.call}"
            case Point.EVALUATION | Point.EPOCH:
                where += f" after step {self.step}"
        if self.rank is not None:
            where += f", process {self.rank} alone"
        if self.notice:
            where += ", notice"
        return where + (f", then {self.pause_s:.1f} s without capacity" if self.pause_s else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What the uninterrupted run was seen to do: what there is to interrupt.

    Attributes:
        attached: it called `spotrun.attach`.
        steps: boundaries between steps, or steps of optimizers without `attach`.
        step_s: mean wall time of one.
        ends: steps after which an epoch ended, with the time between the two.
        calls: to the store in one save, of the first process.
        processes: that train together.
    """

    attached: bool
    steps: int
    step_s: float
    ends: dict[int, float]
    calls: int
    processes: int = 1


class Trigger:
    """Goes through what a process announces, the first one or the one that is to be killed, and says when a fault is due.

    Attributes:
        saves: whether the boundary that was just announced is to be saved for this fault.
    """

    def __init__(self, fault: Fault, profile: Profile) -> None:
        self._fault = fault
        self._profile = profile
        self._calls = 0
        self._before: int | None = None
        self._armed = False
        self._times_last = 0
        self._first: int | None = None  # step of this attempt
        self.saves = False

    def hear(self, what: str) -> float | None:
        """Seconds from now on until the fault is due; None if it is not yet."""
        self.saves = False
        step = int(what.split()[1]) if what.startswith(("boundary", "optimizer")) else None
        if what.startswith("optimizer") and self._profile.attached:
            step = None
        match self._fault.point:
            case Point.START_UP:
                return 0.0 if what == "attach" or step is not None else None
            case Point.RESTORE:
                self._armed |= what == "attach"
                return 0.0 if step is not None else self._call(what)
            case Point.STEP:
                return self._delay_s() if step is not None and self._counted(step) >= self._fault.step else None
            case Point.SAVE | Point.UPLOAD:
                return self._saving(what, step)
            case Point.EVALUATION | Point.EPOCH:
                return self._ending(step)
            case Point.FINISH:
                twice = 1 + (self._profile.steps in self._profile.ends)
                self._times_last += step == self._profile.steps
                self._armed |= self._times_last >= twice
                return self._call(what)

    def _counted(self, step: int) -> int:
        if not self._fault.since_start:
            return step
        self._first = step if self._first is None else self._first
        return step - self._first + 1

    def _saving(self, what: str, step: int | None) -> float | None:
        if step is not None and step >= self._fault.step and not self._armed:
            self._armed = self.saves = True
            return None
        if self._fault.point is Point.UPLOAD:
            return self._delay_s() if self._armed and what.startswith("before write blobs/") else None
        return self._call(what)

    def _ending(self, step: int | None) -> float | None:
        before, self._before = self._before, step if step is not None else self._before
        if step is None or step < self._fault.step or step not in self._profile.ends:
            return None
        if self._fault.point is Point.EPOCH:
            return 0.0 if before == step else None
        return min(self._fault.delay, 0.9) * self._profile.ends[step]

    def _call(self, what: str) -> float | None:
        when, _, call = what.partition(" ")
        if not self._armed or when not in ("before", "after") or not call:
            return None
        self._calls += when == "before"
        return 0.0 if self._calls >= self._fault.call and (when == "after") == self._fault.after else None

    def _delay_s(self) -> float:
        return self._fault.delay * self._profile.step_s


def is_commit(what: str) -> bool:
    """Whether this announcement says that an entry of the log is there."""
    return what.startswith(_LOG)
