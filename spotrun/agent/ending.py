"""How an attempt's command ended, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spotrun.job.message import EXIT_FENCED, Outcome, Progress, TrainingPhase

__all__ = ["Ending", "StopCause", "classify"]


class StopCause(Enum):
    """Why the agent asked the command to stop."""

    ASKED = "asked"  # the controller wants it
    LEASE = "lease"  # the lease has run out


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The end of an attempt. `exit_code` is None if the command never ran or cannot be killed."""

    outcome: Outcome
    exit_code: int | None = None


def classify(exit_code: int | None, *, stop: StopCause | None, progress: Progress | None) -> Outcome:
    """The outcome of a command that ran.

    Exit code 0 after being asked to stop means completed only if the training itself says so: it may have reached
    its end while the request was on its way.
    """
    if exit_code == EXIT_FENCED:
        return Outcome.FENCED
    done = progress is not None and progress.phase is TrainingPhase.DONE
    if exit_code == 0 and (stop is None or done):
        return Outcome.COMPLETED
    match stop:
        case StopCause.ASKED:
            return Outcome.STOPPED
        case StopCause.LEASE:
            return Outcome.LEASE_EXPIRED
        case None:
            return Outcome.FAILED
