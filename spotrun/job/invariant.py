"""What holds of every job at every moment, checked after each step in tests, in chaos runs and in production."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from spotrun.errors import IllegalTransition
from spotrun.job.event import EndReason
from spotrun.job.spec import OnShortage
from spotrun.job.state import Attempt, AttemptPhase, Job, Phase
from spotrun.job.token import launch_token

__all__ = ["check_invariants"]

_WITH_MACHINE = (AttemptPhase.STARTING, AttemptPhase.TRAINING, AttemptPhase.UPLOADING, AttemptPhase.EXITED)


def check_invariants(job: Job) -> None:
    """Raises IllegalTransition, naming everything that is wrong, unless the job is as a job must be."""
    broken = [*_of_the_job(job), *_of_its_phase(job)]
    for number, attempt in enumerate(job.attempts, start=1):
        broken += [f"attempt {number} {wrong}" for wrong in _of_an_attempt(job, attempt, number)]
    if broken:
        raise IllegalTransition(f"job {job.id} is in an impossible state: " + "; ".join(broken), job.story)


def _of_the_job(job: Job) -> Iterator[str]:
    if any(attempt.is_live for attempt in job.attempts[:-1]):
        yield "an attempt before the newest may still have a machine"
    over = [attempt for attempt in job.attempts if attempt.ended_at is not None]
    trained = sum((attempt.trained(attempt.ended_at) for attempt in over if attempt.ended_at), timedelta(0))
    if trained != job.trained_before:
        yield f"trained_before is {job.trained_before}, its attempts trained {trained}"
    if len({refusal.pool for refusal in job.refusals}) != len(job.refusals):
        yield "a pool has two latest refusals"
    if job.interruptions > sum(attempt.end_reason is EndReason.INTERRUPTED for attempt in over):
        yield f"{job.interruptions} interruptions are more than the provider confirmed"
    allowed = job.spec.limits.max_restarts
    if job.failures > allowed + (job.phase is Phase.FAILED):
        yield f"it goes on after {job.failures} failures, max_restarts is {allowed}"
    if job.failures + job.interruptions > len(over):
        yield f"{job.failures} failures and {job.interruptions} interruptions came of {len(over)} attempts"


def _of_its_phase(job: Job) -> Iterator[str]:
    attempt = job.attempt
    machine = attempt is not None and attempt.phase in _WITH_MACHINE
    if job.phase.is_end:
        if attempt is not None:
            yield f"it is {job.phase.value} and attempt {attempt.number} may have a machine"
        if job.ended_at is None or (not job.cause) != (job.phase is Phase.COMPLETED):
            yield f"it is {job.phase.value} at {job.ended_at} because of {job.cause!r}"
        if job.ending is not None and job.phase not in (job.ending.phase, Phase.COMPLETED):
            yield f"it was to end as {job.ending.phase.value} and is {job.phase.value}"
        return
    if job.ended_at is not None or job.cause:
        yield f"it has ended at {job.ended_at} and is {job.phase.value}"
    if machine != (job.phase in (Phase.STARTING, Phase.TRAINING, Phase.UPLOADING)):
        yield f"it is {job.phase.value} and {'has' if machine else 'has no'} machine"
    if job.phase is Phase.INTERRUPTED and (attempt is not None or not job.interruptions):
        yield "it is Interrupted without an interruption, or with an attempt"
    if job.ending is not None and attempt is None:
        yield "it is about to end, has no machine, and has not ended"
    if job.ending is not None and not job.ending.phase.is_end:
        yield f"it is about to end as {job.ending.phase.value}"
    if job.wait_until is not None and attempt is not None:
        yield f"it waits until {job.wait_until} while attempt {attempt.number} lives"


def _of_an_attempt(job: Job, attempt: Attempt, number: int) -> Iterator[str]:
    phase = attempt.phase
    if attempt.number != number or attempt.token != launch_token(job.id, number):
        yield f"is numbered {attempt.number}, with token {attempt.token}"
    if attempt.market == "on_demand" and job.spec.limits.on_shortage is OnShortage.WAIT:
        yield "was bought on demand, and on_shortage is wait"
    known = attempt.instance_id is not None and attempt.launched_at is not None
    if known != (phase in _WITH_MACHINE or phase is AttemptPhase.ENDED):
        yield f"is {phase.value} with machine {attempt.instance_id}"
    if phase in (AttemptPhase.TRAINING, AttemptPhase.UPLOADING) and attempt.progress is None:
        yield f"is {phase.value} and never told so"
    if phase is AttemptPhase.TRAINING and attempt.training_at is None:
        yield "is training since never"
    if (phase is AttemptPhase.EXITED and attempt.exit is None) or (
        attempt.exit is not None and phase not in (AttemptPhase.EXITED, AttemptPhase.ENDED)
    ):
        yield f"is {phase.value} with exit {attempt.exit}"
    if (phase is AttemptPhase.ENDED) != (attempt.ended_at is not None and attempt.end_reason is not None):
        yield f"is {phase.value}, ended at {attempt.ended_at} ({attempt.end_reason})"
    if (attempt.stalled or attempt.unwanted or attempt.moving_to) and attempt.stopping_since is None:
        yield "is stalled, unwanted or moving and was not asked to stop"
    if job.ending is not None and attempt.is_live and attempt.instance_id and attempt.stopping_since is None:
        yield "was not asked to stop, and its job is about to end"
