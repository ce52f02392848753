"""The life of a job as a function: `step(job, event) -> (job, actions)`, pure, total over its events.

The shell writes an event to the journal, calls `step`, carries out the actions, and turns what comes of them into
events again. A controller that dies anywhere folds the journal and carries out `outstanding(job)`.

Three kinds of event must do no harm, because a restarted controller may deliver them: repeats, news of an attempt that
is over, and anything after the end. They change nothing. What cannot be, such as two machines for one token, raises
`IllegalTransition`: going on would spend the user's money on a state we do not understand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import ValidationError
from typing_extensions import assert_never

from spotrun.errors import IllegalTransition
from spotrun.job.course import exited, gone, launch_refused, launched, moving, noticed, placed, progressed
from spotrun.job.demand import outstanding
from spotrun.job.ending import intended
from spotrun.job.event import (
    AttemptEnded,
    AttemptExited,
    Event,
    Launched,
    LaunchRefused,
    MoveDecided,
    Noticed,
    Placed,
    Progressed,
    StopRequested,
    Submitted,
    Ticked,
    Waited,
)
from spotrun.job.legality import moved
from spotrun.job.limit import judged
from spotrun.job.spec import JobSpec
from spotrun.job.state import Action, Attempt, Job, Launch, Phase, Place, Terminate
from spotrun.job.story import STORY_EVENTS, tell

__all__ = ["fold", "is_news", "step"]

# A journaled step every so often keeps the stall clock right without one event for each heartbeat: a stall is then
# noticed at most this share of `stall_timeout` early.
_STEP_NEWS_SHARE = 0.1


def step(job: Job | None, event: Event) -> tuple[Job, tuple[Action, ...]]:
    """The job after the event, and the actions that are newly asked for.

    Raises:
        IllegalTransition: the event cannot happen to this job.
    """
    if job is None:
        after = _submit(event)
        return after, outstanding(after)
    before = outstanding(job)
    if isinstance(event, Submitted) or not job.phase.is_end:
        job = _apply(replace(job, at=max(job.at, event.at), story=(*job.story, tell(event))[-STORY_EVENTS:]), event)
    answered = _answered(event)
    return job, tuple(action for action in outstanding(job) if action not in before or isinstance(action, answered))


def fold(events: Iterable[Event]) -> Job:
    """The job that these events tell, from its submission on.

    Raises:
        IllegalTransition: there are none, or one of them cannot follow those before it.
    """
    job: Job | None = None
    for event in events:
        job, _ = step(job, event)
    if job is None:
        raise IllegalTransition("a job without events", ())
    return job


def is_news(job: Job, event: Event) -> bool:
    """Whether the event must go into the journal: it changes more than the clock, the bill and the step counter.

    The shell applies exactly the events that it journals, so that the fold of the journal is the job it acts on.
    """
    after = job if job.phase.is_end else _apply(replace(job, at=max(job.at, event.at)), event)
    asked, answered = outstanding(after), _answered(event)
    if asked != outstanding(job) or any(isinstance(action, answered) for action in asked):
        return True
    if isinstance(event, Progressed) and (old := job.attempt) is not None and (new := after.attempt) is not None:
        if _milestone(old) != _milestone(new):
            return True
        seen = old.progressed_at or old.placed_at
        return new.progressed_at != old.progressed_at and (
            event.at - seen >= job.spec.limits.stall_timeout * _STEP_NEWS_SHARE
        )
    return replace(after, at=job.at, spent_usd=job.spent_usd) != job


def _milestone(attempt: Attempt) -> tuple[object, ...]:
    progress = attempt.progress
    if progress is None:
        return (attempt.phase,)
    return attempt.phase, progress.phase, progress.commits, progress.last_commit, progress.guarantee, progress.warnings


def _submit(event: Event) -> Job:
    if not isinstance(event, Submitted):
        raise IllegalTransition(f"a job begins with its submission, not with {event.kind}", (tell(event),))
    try:
        spec = JobSpec.model_validate(event.spec)
    except ValidationError as err:
        raise IllegalTransition(f"job {event.job_id} was journaled with a spec that is none: {err}", ()) from err
    return Job(
        id=event.job_id, spec=spec, submitted_at=event.at, phase=Phase.PENDING, at=event.at, story=(tell(event),)
    )


def _answered(event: Event) -> type[Action] | tuple[()]:
    """The kind of action that the event answers: still asked for afterwards, it is asked for anew."""
    match event:
        case Placed() | Waited():
            return Place
        case Launched() | LaunchRefused():
            return Launch
        case AttemptEnded():
            return Terminate
        case _:
            return ()


def _apply(job: Job, event: Event) -> Job:
    match event:
        case Submitted():
            if event.job_id != job.id:
                raise IllegalTransition(f"{event.job_id} was submitted into job {job.id}", job.story)
            return job
        case Placed():
            return placed(job, event)
        case Waited():
            if job.attempt is not None:
                raise IllegalTransition(f"job {job.id} waits while attempt {job.attempt.number} lives", job.story)
            return replace(moved(job, Phase.PENDING), wait_until=event.until, wait_reason=event.reason)
        case MoveDecided():
            return moving(job, event)
        case Launched():
            return launched(job, event)
        case LaunchRefused():
            return launch_refused(job, event)
        case Progressed():
            return progressed(job, event)
        case Noticed():
            return noticed(job, event)
        case AttemptExited():
            return exited(job, event)
        case AttemptEnded():
            return gone(job, event)
        case StopRequested():
            return intended(job, Phase.STOPPED, f"stopped by {event.by}")
        case Ticked():
            return judged(replace(job, spent_usd=event.spent_usd), blind=event.blind)
        case _:
            assert_never(event)
