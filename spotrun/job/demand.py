"""What a job's state asks of the outside: level-triggered, so a restarted controller does what is still asked."""

from __future__ import annotations

from datetime import datetime, timedelta

from spotrun.job.limit import left_to_the_provider
from spotrun.job.message import Ask, Control
from spotrun.job.state import Action, Attempt, AttemptPhase, Job, Launch, Place, Terminate

__all__ = ["EXIT_GRACE", "STOP_GRACE", "control", "outstanding"]

# From a controller that tells an attempt to stop until ending its machine: the 120 s that SageMaker gives between SIGTERM and the end are
# the agent's to give; it needs the rest to ship its last words.
STOP_GRACE = timedelta(seconds=180)
_STOP_GRACE_WALL_S = 20.0

# From the agent's last word until ending the machine ourselves: a machine whose command is over shuts itself down, and
# takes seconds for it; each further second is paid for nothing.
EXIT_GRACE = timedelta(seconds=60)
_EXIT_GRACE_WALL_S = 5.0


def outstanding(job: Job) -> tuple[Action, ...]:
    """The actions that the job's state asks for. Carrying one out twice does no harm: Place is answered by an event,
    Launch is idempotent by its token, Terminate is repeated until the provider confirms."""
    if job.phase.is_end:
        return ()
    attempt = job.attempt
    if attempt is None:
        waiting = job.wait_until is not None and job.at < job.wait_until
        return () if waiting else (Place(),)
    if attempt.instance_id is None:
        # Asked for even when the job is about to end: only the answer tells whether there is a machine to terminate.
        return (Launch(attempt=attempt.number, token=attempt.token),)
    why = _unwelcome(job, attempt)
    return () if why is None else (Terminate(attempt=attempt.number, instance_id=attempt.instance_id, why=why),)


def control(job: Job, *, lease_until: datetime) -> Control | None:
    """What the current attempt should be told, or None if there is none: its lease, whether to save and end, and of how many
    machines it is where only its launch has told."""
    attempt = job.attempt
    if job.phase.is_end or attempt is None:
        return None
    known = attempt.launched_at is not None and job.spec.resources.nodes.is_elastic
    told = Control(attempt=attempt.number, lease_until=lease_until, nodes=attempt.nodes if known else None)
    if job.ending is None and attempt.stopping_since is None:
        return told
    reason = attempt.stopping_why or ("" if job.ending is None else job.ending.cause)
    return told.model_copy(update={"ask": Ask.STOP, "reason": reason})


def _unwelcome(job: Job, attempt: Attempt) -> str | None:
    """Why we should end the attempt's machine now, or None."""
    if left_to_the_provider(job, attempt):
        return None
    if attempt.unwanted:
        return f"the job was already ending when the machine came: {attempt.stopping_why}"
    if attempt.phase is AttemptPhase.EXITED:
        gone = attempt.exit is not None and job.at - attempt.exit.at >= _grace(job, EXIT_GRACE, _EXIT_GRACE_WALL_S)
        return "its command has ended and the machine is still there" if gone else None
    grace = _grace(job, STOP_GRACE, _STOP_GRACE_WALL_S)
    if attempt.stop_heard_at is not None and job.at - attempt.stop_heard_at >= grace:
        return f"asked to stop {int(grace.total_seconds())} s ago and still there: {attempt.stopping_why}"
    return None


def _grace(job: Job, grace: timedelta, wall_s: float) -> timedelta:
    """`grace` of job time, but never less than `wall_s` of wall time: processes do not end faster on a fast clock."""
    return max(grace, timedelta(seconds=wall_s * job.spec.time_scale))
