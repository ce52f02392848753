"""What a placement policy looks at: one frozen value, gathered from a job and from what the provider offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotrun.job import Attempt, EndReason, Job, JobSpec, Limits, Refusal
from spotrun.market.offer import MarketKind, Offer

__all__ = ["CHANGEOVER", "Interruption", "Running", "Situation", "expected_changeover", "situation", "usual_changeover"]

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

# Young and Daly's interval for a save that stalls half a second and an interruption every two hours is minutes.
_AUTO_INTERVAL = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption:
    """A pool that took its machine back, or whose machine did not start."""

    pool: str
    at: datetime
    why: str = "interrupted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """The machine that a job has.

    Attributes:
        market, pool: where it came from.
        placed_at: when it was decided on.
        training_at: when its training began, None while it starts.
    """

    market: MarketKind
    pool: str
    placed_at: datetime
    training_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """A job at a moment, before these offers. Durations and instants are in job time.

    Attributes:
        trained: training time of all attempts so far, which counts towards `max_run`.
        steps_done: the step that a new attempt would go on from.
        steps_total, steps_per_s: as the training told them, if it did; of an elastic gang the rate of its fewest machines.
        changeover: from losing a machine to going on with the same work on the next one; an upper bound.
        running: the machine that it has, None if it has none.
        heading: the pool to which its last machine was given up, if that is why it has none.
        spot_ended_at: when it last had a spot machine.
        interval: between its checkpoints, where an interruption costs the work since the last one.
        rate_margin: work that is left is taken to be this much longer.
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
    running: Running | None = None
    heading: str = ""
    spot_ended_at: datetime | None = None
    interval: timedelta = timedelta(0)
    rate_margin: float = _RATE_MARGIN

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
        seconds = min(steps_left / self.steps_per_s * self.rate_margin, allowed.total_seconds())
        return timedelta(seconds=seconds)

    @property
    def total_s(self) -> float:
        """All of the work in seconds, an upper bound: by steps and their rate, or `max_run`."""
        if not self.knows_its_end:
            return self.limits.max_run.total_seconds()
        assert self.steps_total is not None, "it knows"
        assert self.steps_per_s, "it knows"
        return min(self.steps_total / self.steps_per_s * self.rate_margin, self.limits.max_run.total_seconds())

    @property
    def knows_its_end(self) -> bool:
        """Whether the training has told how many steps there are, and how fast they go; if not, `max_run` is all that
        bounds the work."""
        return self.steps_total is not None and bool(self.steps_per_s) and (self.steps_per_s or 0) > 0

    @property
    def starting(self) -> timedelta:
        """How long the machine that it has may still take until its training goes on."""
        if self.running is None or self.running.training_at is not None:
            return timedelta(0)
        return max(timedelta(0), self.running.placed_at + self.changeover - self.now)

    @property
    def slack(self) -> timedelta:
        """How long the job can still stand idle and be done by its deadline, without another changeover."""
        return self.deadline - self.now - self.work_left - self.starting


def situation(
    job: Job,
    *,
    now: datetime,
    offers: Sequence[Offer],
    changeover: timedelta | None = None,
    nodes: int | None = None,
) -> Situation:
    """The situation of a job that asks to be placed.

    Args:
        changeover: what the job's own starts suggest if not given.
        nodes: the machines whose speed counts: the fewest that may come if not given, as deadlines must hold with them.
    """
    source = next((it for it in reversed(job.attempts) if it.progress is not None and it.progress.told), None)
    told = None if source is None else source.progress
    done = 0
    if told is not None:
        done = told.last_commit.step if told.last_commit is not None else told.resumed_from or 0
    spots = [attempt for attempt in job.attempts if attempt.market == MarketKind.SPOT.value and attempt.ended_at]
    newest = job.attempts[-1] if job.attempts else None
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
        steps_per_s=None if source is None else _rate(job, source, nodes or job.spec.resources.nodes.least),
        changeover=expected_changeover(job) if changeover is None else changeover,
        running=_running(job.attempt),
        heading="" if newest is None or newest.is_live else newest.moving_to,
        spot_ended_at=spots[-1].ended_at if spots else None,
        interval=_interval(job),
    )


def expected_changeover(job: Job) -> timedelta:
    """From placing the next attempt to the training going on: the longest start of this job so far, and the longest that
    a machine took to save and end for a move, with a margin; or what is usual for its provider."""
    starts = [attempt.training_at - attempt.placed_at for attempt in job.attempts if attempt.training_at is not None]
    ends = [
        attempt.ended_at - attempt.stopping_since
        for attempt in job.attempts
        if attempt.moving_to and attempt.ended_at is not None and attempt.stopping_since is not None
    ]
    if starts:
        return (max(starts) + max(ends, default=timedelta(0))) * _START_MARGIN
    return usual_changeover(job.spec)


def usual_changeover(spec: JobSpec) -> timedelta:
    """What a changeover takes on the spec's provider, before anything was measured."""
    if spec.provider == "local":
        local = spec.local
        return local.launch_delay + timedelta(seconds=_LOCAL_START_WALL_S * local.time_scale)
    return CHANGEOVER


def _rate(job: Job, newest: Attempt, nodes: int) -> float | None:
    """Steps a second with so many machines: as measured with them; else the newest attempt's, taken to grow with its machines.
    Work that cannot be shared makes few of them faster than that, so for few it is a lower bound."""
    rate = _measured(newest)
    if rate is None or newest.nodes == nodes:
        return rate
    alike = (_measured(it) for it in reversed(job.attempts) if it.nodes == nodes)
    return next((it for it in alike if it is not None), rate * nodes / newest.nodes)


def _measured(attempt: Attempt) -> float | None:
    return None if attempt.progress is None or not attempt.progress.told else attempt.progress.steps_per_s


def _running(attempt: Attempt | None) -> Running | None:
    if attempt is None:
        return None
    return Running(
        market=MarketKind(attempt.market),
        pool=attempt.pool,
        placed_at=attempt.placed_at,
        training_at=attempt.training_at,
    )


def _interval(job: Job) -> timedelta:
    """How much work an interruption may cost: the checkpoint interval; ten minutes where it is chosen by cost."""
    checkpoint = job.spec.checkpoint
    if checkpoint is None:
        return job.spec.limits.max_run  # nothing is ever saved
    return checkpoint.interval if isinstance(checkpoint.interval, timedelta) else _AUTO_INTERVAL


def _interruptions(job: Job, since: datetime) -> tuple[Interruption, ...]:
    found: list[Interruption] = []
    for attempt in reversed(job.attempts):
        if attempt.ended_at is not None and attempt.ended_at < since:
            break
        if attempt.ended_at is None:
            continue
        if attempt.end_reason is EndReason.UNSTARTED:
            found.append(Interruption(pool=attempt.pool, at=attempt.ended_at, why="did not start"))
        elif attempt.end_reason is EndReason.INTERRUPTED or _fled(attempt):
            found.append(Interruption(pool=attempt.pool, at=attempt.ended_at))
    return tuple(found)


def _fled(attempt: Attempt) -> bool:
    """Whether it gave up a spot machine for another one, as the provider recommended: its pool is about to take some back."""
    return attempt.market == MarketKind.SPOT.value and attempt.moving_to.endswith(f"/{MarketKind.SPOT.value}")
