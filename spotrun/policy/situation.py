"""What a placement policy looks at: one frozen value, gathered from a job and from what the provider offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotrun.job import EndReason, Job, Limits, Refusal
from spotrun.market.offer import Offer

__all__ = ["CHANGEOVER", "Interruption", "Situation", "expected_changeover", "situation"]

# From placing an attempt to the training going on where it was: launch, start-up, restore, and the work since the last
# commit. One RoBERTa start on a V100 took 4 min to launch, 5 to set up and 9 to repeat (Wu et al., NSDI 2024).
CHANGEOVER = timedelta(minutes=18)

# A measured start is taken to be this much longer the next time, which also pays for repeated work.
_START_MARGIN = 1.5

# The local provider starts processes, not machines: importing torch and reading a commit takes seconds of wall time.
_LOCAL_START_WALL_S = 20.0

# How far back interruptions matter to a placement; a pool is avoided for minutes after one.
_MEMORY = timedelta(hours=1)

# A training's speed varies, and another machine is another speed: work that is left is taken to be this much longer.
_RATE_MARGIN = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption:
    """A pool that took its machine back."""

    pool: str
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """A job without a machine, at a moment, before these offers. Durations and instants are in job time.

    Attributes:
        trained: training time of all attempts so far, which counts towards `max_run`.
        steps_done: the step that a new attempt would go on from.
        steps_total, steps_per_s: as the training told them, if it did.
        changeover: from losing a machine to going on with the same work on the next one; an upper bound.
    """

    now: datetime
    submitted_at: datetime
    limits: Limits
    offers: tuple[Offer, ...]
    refusals: tuple[Refusal, ...] = ()
    interruptions: tuple[Interruption, ...] = ()
    trained: timedelta = timedelta(0)
    steps_done: int = 0
    steps_total: int | None = None
    steps_per_s: float | None = None
    changeover: timedelta = CHANGEOVER

    @property
    def deadline(self) -> datetime:
        """When `max_wait` is over."""
        return self.submitted_at + self.limits.max_wait

    @property
    def work_left(self) -> timedelta:
        """How long the training still takes, an upper bound: what `max_run` allows, or less if the steps say so."""
        allowed = max(timedelta(0), self.limits.max_run - self.trained)
        if self.steps_total is None or not self.steps_per_s or self.steps_per_s < 0:
            return allowed
        steps_left = max(0, self.steps_total - self.steps_done)
        seconds = min(steps_left / self.steps_per_s * _RATE_MARGIN, allowed.total_seconds())
        return timedelta(seconds=seconds)

    @property
    def slack(self) -> timedelta:
        """How long the job can still stand idle and be done by its deadline: time left, less the work, less two
        changeovers, one to start on spot and one to start again on demand if that is lost."""
        return self.deadline - self.now - self.work_left - 2 * self.changeover


def situation(job: Job, *, now: datetime, offers: Sequence[Offer], changeover: timedelta | None = None) -> Situation:
    """The situation of a job that asks to be placed; `changeover` is what the job's own starts suggest if not given."""
    news = (attempt.progress for attempt in reversed(job.attempts))
    told = next((progress for progress in news if progress is not None and progress.told), None)
    done = 0
    if told is not None:
        done = told.last_commit.step if told.last_commit is not None else told.resumed_from or 0
    return Situation(
        now=now,
        submitted_at=job.submitted_at,
        limits=job.spec.limits,
        offers=tuple(offers),
        refusals=job.refusals,
        interruptions=_interruptions(job, now - _MEMORY),
        trained=job.trained(now),
        steps_done=done,
        steps_total=None if told is None else told.total_steps,
        steps_per_s=None if told is None else told.steps_per_s,
        changeover=expected_changeover(job) if changeover is None else changeover,
    )


def expected_changeover(job: Job) -> timedelta:
    """From placing the next attempt to the training going on: the longest start of this job so far with a margin, or
    what is usual for its provider."""
    starts = [attempt.training_at - attempt.placed_at for attempt in job.attempts if attempt.training_at is not None]
    if starts:
        return max(starts) * _START_MARGIN
    if job.spec.provider == "local":
        local = job.spec.local
        return local.launch_delay + timedelta(seconds=_LOCAL_START_WALL_S * local.time_scale)
    return CHANGEOVER


def _interruptions(job: Job, since: datetime) -> tuple[Interruption, ...]:
    found: list[Interruption] = []
    for attempt in reversed(job.attempts):
        if attempt.ended_at is not None and attempt.ended_at < since:
            break
        if attempt.ended_at is not None and attempt.end_reason is EndReason.INTERRUPTED:
            found.append(Interruption(pool=attempt.pool, at=attempt.ended_at))
    return tuple(found)
