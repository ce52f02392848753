"""What the passing of time does to a job: limits on time and money, and attempts that stand still."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from spotrun.job.ending import intended
from spotrun.job.state import Attempt, AttemptPhase, Job, Phase
from spotrun.units import format_duration, format_usd

__all__ = ["NOTICE_GRACE", "judged", "left_to_the_provider"]

# How long after its deadline a noticed machine is still the provider's to end. EC2 interrupts within the two minutes it
# announced; ending it ourselves before would forfeit the free first hour.
NOTICE_GRACE = timedelta(seconds=60)

# A notice further ahead than this does not keep us from ending a machine: EC2 gives two minutes, and a wrong deadline
# must not make a machine immortal.
_NOTICE_AHEAD_MAX = timedelta(minutes=5)

_START_WALL_S = 20.0  # to import torch on a busy computer


def left_to_the_provider(job: Job, attempt: Attempt) -> bool:
    """Whether the provider has said that it ends the machine, and should still be given the time to."""
    deadline = attempt.notice_deadline
    return deadline is not None and deadline - _NOTICE_AHEAD_MAX <= job.at < deadline + NOTICE_GRACE


def judged(job: Job, *, blind: bool) -> Job:
    """The job after a look at its clock and its purse. While nothing of the attempt can be seen it does not count as stalled:
    credentials that ran out overnight must not end a training."""
    job = _heard(job)
    attempt = job.attempt
    if job.ending is not None or (attempt is not None and attempt.phase is AttemptPhase.EXITED):
        return job  # its end, or its attempt's, is under way and says more than a limit would
    reached = _reached(job, attempt)
    if reached is not None:
        return intended(job, *reached)
    if attempt is not None and not blind and _stalls(job, attempt):
        why = f"{_missed(attempt)} for {format_duration(_patience(job, attempt))} (stall_timeout)"
        attempt = replace(attempt, stalled=True, stopping_since=job.at, stopping_why=why)
        return replace(job, attempts=(*job.attempts[:-1], attempt))
    return job


def _heard(job: Job) -> Job:
    """A stop counts as heard from the first look behind it: whoever asked, there may have been no controller since."""
    attempt = job.attempt
    if attempt is None or attempt.stopping_since is None or attempt.stop_heard_at is not None:
        return job
    return replace(job, attempts=(*job.attempts[:-1], replace(attempt, stop_heard_at=job.at)))


def _reached(job: Job, attempt: Attempt | None) -> tuple[Phase, str] | None:
    limits = job.spec.limits
    uploading = attempt is not None and attempt.phase is AttemptPhase.UPLOADING  # nothing left to train
    if not uploading and job.trained(job.at) >= limits.max_run:
        cause = f"the attempts together have trained for {format_duration(limits.max_run)} (max_run)"
        return Phase.MAX_RUNTIME_EXCEEDED, cause
    if job.at >= job.deadline:
        waited = format_duration(job.deadline - job.submitted_at)
        return Phase.MAX_WAIT_TIME_EXCEEDED, f"{waited} have passed since the submission (max_wait)"
    if limits.budget_usd is not None and job.spent_usd >= limits.budget_usd:
        spent = f"{format_usd(job.spent_usd)} of {format_usd(limits.budget_usd)} are spent (budget_usd)"
        return Phase.BUDGET_EXCEEDED, spent
    return None


def _stalls(job: Job, attempt: Attempt) -> bool:
    if attempt.phase not in (AttemptPhase.STARTING, AttemptPhase.TRAINING) or attempt.stopping_since is not None:
        return False
    if left_to_the_provider(job, attempt):
        return False
    seen = attempt.progressed_at or attempt.launched_at
    return seen is not None and job.at - seen >= _patience(job, attempt)


def _patience(job: Job, attempt: Attempt) -> timedelta:
    """`stall_timeout`, but for a start on a fast clock never less wall time than the start of Python takes."""
    patience = job.spec.limits.stall_timeout
    if attempt.phase is AttemptPhase.STARTING and job.spec.time_scale > 1:
        return max(patience, timedelta(seconds=_START_WALL_S * job.spec.time_scale))
    return patience


def _missed(attempt: Attempt) -> str:
    if attempt.progress is None or attempt.progress.told:
        return "no step, commit or change of phase"
    return "no output from a command that never called spotrun.attach"
