"""How an attempt's command ended, in one value."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum

from spotrun.job.message import EXIT_FENCED, Outcome, Progress, TrainingPhase

__all__ = ["Ending", "StopCause", "classify"]


class StopCause(Enum):
    """Why the agent asked the command to stop."""

    ASKED = "asked"  # the controller wants it
    LEASE = "lease"  # the lease has run out
    FENCED = "fenced"  # a newer attempt holds the run whose folder the agent keeps
    PEER = "peer"  # another machine of the attempt is lost or over


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The end of an attempt. `exit_code` is None if the command never ran or cannot be killed."""

    outcome: Outcome
    exit_code: int | None = None


def classify(
    exit_code: int | None,
    *,
    stop: StopCause | None,
    progress: Progress | None,
    signalled: bool = False,
    told: bool = False,
) -> Outcome:
    """The outcome of a command.

    Args:
        exit_code: negative for a signal; None if it never ran or cannot be killed.
        stop: why it was asked to stop, if it was. Exit code 0 then means completed only if the training itself says
            so: it may have reached its end while the request was on its way.
        progress: what the training told last.
        signalled: whether the agent sent it SIGTERM. Death by a signal of ours is no failure of the user's.
        told: whether the agent sent it a signal for a notice, a short time before it ended. Its end is then taken for
            its answer, whatever its exit code, unless the training itself says that it had reached its end: a script
            that saves and leaves when it is signalled has not completed.
    """
    if exit_code == EXIT_FENCED:
        return Outcome.FENCED
    done = progress is not None and progress.phase is TrainingPhase.DONE
    if exit_code == 0 and (done or (stop is None and not told)):
        return Outcome.COMPLETED
    match stop:
        case StopCause.ASKED | StopCause.PEER:
            return Outcome.STOPPED
        case StopCause.LEASE:
            return Outcome.LEASE_EXPIRED
        case StopCause.FENCED:
            return Outcome.FENCED
        case None:
            return Outcome.STOPPED if told or (signalled and exit_code in _BY_SIGTERM) else Outcome.FAILED


_BY_SIGTERM = (-signal.SIGTERM, 128 + signal.SIGTERM)  # seen directly, and through a shell
