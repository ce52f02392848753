"""The course of an attempt: what the news of it make of the job. One function for each event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from spotrun.errors import IllegalTransition
from spotrun.job.ending import decided, ended
from spotrun.job.event import (
    AttemptEnded,
    AttemptExited,
    Launched,
    LaunchRefused,
    MoveDecided,
    Noticed,
    Placed,
    Progressed,
    RefusalKind,
)
from spotrun.job.legality import moved
from spotrun.job.message import Progress, TrainingPhase
from spotrun.job.spec import OnShortage
from spotrun.job.state import Attempt, AttemptPhase, Job, Phase, Refusal
from spotrun.job.token import launch_token

__all__ = ["exited", "gone", "launch_refused", "launched", "moving", "noticed", "placed", "progressed"]


def placed(job: Job, event: Placed) -> Job:
    """The policy chose: a new attempt, whose launch is to be asked for."""
    if 1 <= event.attempt <= len(job.attempts) and job.attempts[event.attempt - 1].token == event.token:
        return job
    if job.attempt is not None:
        raise IllegalTransition(
            f"attempt {event.attempt} of job {job.id} was placed while attempt {job.attempt.number} may have a machine",
            job.story,
        )
    if event.attempt != len(job.attempts) + 1 or event.token != launch_token(job.id, event.attempt):
        raise IllegalTransition(
            f"job {job.id} has {len(job.attempts)} attempts; the next cannot be {event.attempt} with token {event.token}",
            job.story,
        )
    if event.market == "on_demand" and job.spec.limits.on_shortage is OnShortage.WAIT:
        raise IllegalTransition(f"job {job.id} must never be placed on demand: on_shortage is wait", job.story)
    attempt = Attempt(
        number=event.attempt,
        token=event.token,
        provider=event.provider,
        region=event.region,
        zone=event.zone,
        instance_type=event.instance_type,
        market=event.market,
        price_usd_per_hour=event.price_usd_per_hour,
        on_demand_usd_per_hour=event.on_demand_usd_per_hour,
        reason=event.reason,
        phase=AttemptPhase.LAUNCHING,
        placed_at=event.at,
        alternatives=event.alternatives,
    )
    job = moved(job, Phase.PENDING)
    return replace(job, attempts=(*job.attempts, attempt), wait_until=None, wait_reason="")


def launched(job: Job, event: Launched) -> Job:
    """There is a machine, and it bills. If the job has meanwhile begun to end, nobody wants it any more."""
    attempt = _named(job, event)
    if attempt.phase is not AttemptPhase.LAUNCHING:
        if attempt.instance_id == event.instance_id:
            return job
        raise IllegalTransition(
            f"attempt {attempt.number} of job {job.id} ({attempt.instance_id or attempt.phase.value}) got a second "
            f"machine, {event.instance_id}: it may be billing; `spotrun reap` finds it",
            job.story,
        )
    attempt = replace(
        _landed(attempt, event.pool),
        phase=AttemptPhase.STARTING,
        instance_id=event.instance_id,
        launched_at=event.launched_at,
        nodes=job.spec.resources.nodes.came(len(event.members)),
    )
    if job.ending is not None:
        attempt = replace(attempt, unwanted=True, stopping_since=job.at, stopping_why=job.ending.cause)
    refused = [it for it in event.refused if it.pool != attempt.pool]
    told = [_refusal(job, it.pool, it.refusal, it.answer, event.at) for it in refused]
    job = replace(_with(job, attempt), refusals=_refusals(job, told, without=(attempt.pool,)))
    return moved(job, Phase.STARTING)


def launch_refused(job: Job, event: LaunchRefused) -> Job:
    """The attempt never existed; its pools are remembered as ones that refused."""
    attempt = _named(job, event)
    if attempt.phase is AttemptPhase.REFUSED:
        return job
    if attempt.phase is not AttemptPhase.LAUNCHING:
        raise IllegalTransition(f"attempt {attempt.number} of job {job.id} was refused and yet has run", job.story)
    named = {it.pool: (it.refusal, it.answer) for it in event.refused}
    told = [_refusal(job, pool, *named.get(pool, (event.refusal, event.answer)), event.at) for pool in attempt.pools]
    job = _with(job, replace(attempt, phase=AttemptPhase.REFUSED))
    job = replace(job, refusals=_refusals(job, told))
    if job.ending is not None:
        return ended(job, job.ending.phase, job.ending.cause)
    if event.refusal is RefusalKind.DENIED:
        return ended(job, Phase.FAILED, f"the provider denied the launch on {attempt.pool}: {event.answer}")
    return job


def moving(job: Job, event: MoveDecided) -> Job:
    """The attempt is asked to save and end, to go on elsewhere. One that ends anyway, or is over, is left to it."""
    attempt = _running(job, event)
    if event.market == "on_demand" and job.spec.limits.on_shortage is OnShortage.WAIT:
        raise IllegalTransition(f"job {job.id} must never be moved to on-demand: on_shortage is wait", job.story)
    if attempt is None or attempt.phase is AttemptPhase.UPLOADING:
        return job
    if job.ending is not None or attempt.stopping_since is not None or attempt.notice_deadline is not None:
        return job
    attempt = replace(attempt, moving_to=event.pool, at_risk=event.at_risk)
    return _with(job, replace(attempt, stopping_since=job.at, stopping_why=event.reason))


def progressed(job: Job, event: Progressed) -> Job:
    """News from the training moved the attempt, and the job with it, from starting to training to uploading."""
    attempt = _running(job, event)
    return job if attempt is None else _advanced(job, attempt, event.progress, event.at, uploading=event.uploading)


def noticed(job: Job, event: Noticed) -> Job:
    """The warning is kept; the machine is left to the provider, for whom the first hour is then free."""
    attempt = _running(job, event)
    if attempt is None or attempt.notice_deadline == event.deadline:
        return job
    return _with(job, replace(attempt, notice_at=event.at, notice_deadline=event.deadline))


def exited(job: Job, event: AttemptExited) -> Job:
    """The command is over; what it means is decided once its machine is gone."""
    attempt = _running(job, event)
    if attempt is None:
        return job
    if event.exit.progress is not None:
        job = _advanced(job, attempt, event.exit.progress, event.at, uploading=False)
        attempt = job.attempts[-1]
    over = attempt.trained_until or min(event.exit.at, event.at)
    return _with(job, replace(attempt, phase=AttemptPhase.EXITED, exit=event.exit, trained_until=over))


def gone(job: Job, event: AttemptEnded) -> Job:
    """The machine is confirmed gone, and what becomes of the job is decided."""
    attempt = _named(job, event)
    if attempt.phase is AttemptPhase.ENDED:
        return job
    if attempt.instance_id is None:
        raise IllegalTransition(
            f"attempt {attempt.number} of job {job.id} ended, but it is {attempt.phase.value}: no machine is known",
            job.story,
        )
    attempt = replace(
        attempt,
        phase=AttemptPhase.ENDED,
        ended_at=event.ended_at,
        end_reason=event.reason,
        end_detail=event.detail,
        taken=event.taken,
    )
    job = replace(_with(job, attempt), trained_before=job.trained_before + attempt.trained(event.ended_at))
    return decided(job, attempt)


def _advanced(job: Job, attempt: Attempt, progress: Progress, at: datetime, *, uploading: bool) -> Job:
    old = attempt.progress
    if old is not None and progress.at < old.at:
        return job
    begun = progress.training_at is not None or progress.phase in (TrainingPhase.TRAINING, TrainingPhase.DONE)
    phase, training_at = attempt.phase, attempt.training_at
    if begun and training_at is None:
        training_at = min(max(progress.training_at or at, attempt.launched_at or at), at)
    if uploading:
        phase = AttemptPhase.UPLOADING
    elif begun and phase is AttemptPhase.STARTING:
        phase = AttemptPhase.TRAINING
    moved_on = old is None or phase is not attempt.phase or _place(progress) != _place(old)
    attempt = replace(
        attempt,
        phase=phase,
        training_at=training_at,
        trained_until=attempt.trained_until or (at if phase is AttemptPhase.UPLOADING else None),
        progress=progress,
        progressed_at=at if moved_on else attempt.progressed_at,
    )
    target = {AttemptPhase.TRAINING: Phase.TRAINING, AttemptPhase.UPLOADING: Phase.UPLOADING}.get(phase, job.phase)
    return moved(_with(job, attempt), target)


def _place(progress: Progress) -> tuple[object, ...]:
    signs = progress.output_bytes, progress.folder_changes
    return progress.phase, progress.step, progress.commits, progress.last_commit, *signs


def _landed(attempt: Attempt, pool: str) -> Attempt:
    """The attempt once its machine has come from this pool, one of those that it was placed on."""
    came = next((it for it in attempt.alternatives if it.pool(attempt.market) == pool), None)
    if came is None:
        return replace(attempt, alternatives=())
    return replace(
        attempt,
        zone=came.zone,
        instance_type=came.instance_type,
        price_usd_per_hour=came.price_usd_per_hour,
        on_demand_usd_per_hour=came.on_demand_usd_per_hour,
        alternatives=(),
    )


def _refusal(job: Job, pool: str, kind: RefusalKind, answer: str, at: datetime) -> Refusal:
    repeats = sum(old.repeats for old in job.refusals if old.pool == pool) + 1
    return Refusal(pool=pool, at=at, kind=kind, answer=answer, repeats=repeats)


def _refusals(job: Job, new: Sequence[Refusal], *, without: Sequence[str] = ()) -> tuple[Refusal, ...]:
    """The latest refusal of each pool."""
    pools = {*without, *(refusal.pool for refusal in new)}
    return (*(refusal for refusal in job.refusals if refusal.pool not in pools), *new)


def _named(
    job: Job, event: MoveDecided | Launched | LaunchRefused | Progressed | Noticed | AttemptExited | AttemptEnded
) -> Attempt:
    """The attempt that the event is about."""
    if not 1 <= event.attempt <= len(job.attempts):
        raise IllegalTransition(f"job {job.id} has no attempt {event.attempt}: {event.kind}", job.story)
    return job.attempts[event.attempt - 1]


def _running(job: Job, event: MoveDecided | Progressed | Noticed | AttemptExited) -> Attempt | None:
    """The attempt that the event is about, if its command may be running. News that outrun the launch's answer are
    dropped: the documents they come from are read again."""
    attempt = _named(job, event)
    if attempt.phase is AttemptPhase.REFUSED:
        raise IllegalTransition(
            f"attempt {attempt.number} of job {job.id} was refused, and yet there is news of it ({event.kind}): a "
            "machine may be billing; `spotrun reap` finds it",
            job.story,
        )
    running = attempt.phase in (AttemptPhase.STARTING, AttemptPhase.TRAINING, AttemptPhase.UPLOADING)
    return attempt if running else None


def _with(job: Job, attempt: Attempt) -> Job:
    """The job with its newest attempt replaced."""
    return replace(job, attempts=(*job.attempts[:-1], attempt))
