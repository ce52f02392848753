"""What a placement policy looks at: one frozen value, gathered from a job and from what the provider offers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from spotrun.job import Attempt, EndReason, Job, JobSpec, Limits, Progress, Refusal
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

# Between regions, per GB of 10^9 bytes; within one it is free. Source: "from $0.02 per GB" in summaries of the AWS price
# list of 2026 (devnotes.tech, lucaraveri.com).
_EGRESS_USD_PER_GB = 0.02


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
        steps_done: the step that a new attempt would go on from, once the machine that runs has saved.
        steps_total, steps_per_s: as the training told them, if it did; of an elastic gang the rate of its fewest machines.
        changeover: from losing a machine to going on with the same work on the next one; an upper bound.
        running: the machine that it has, None if it has none.
        undone: how long the machine that runs has worked for what is not yet saved.
        saves: whether its training is known to save what it does, so that a move loses nothing.
        heading, leaving: the pool for which its last machine was given up, and that machine's, if that is why it has none.
        spot_ended_at: when it last had a spot machine.
        interval: between its checkpoints, where an interruption costs the work since the last one.
        nodes: machines that a launch starts.
        state_bytes: size of its last commit; zero while there is none.
        region: where its last machine was.
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
    undone: timedelta = timedelta(0)
    saves: bool = True
    heading: str = ""
    leaving: str = ""
    spot_ended_at: datetime | None = None
    interval: timedelta = timedelta(0)
    nodes: int = 1
    state_bytes: int = 0
    region: str = ""
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

    def egress_usd(self, offer: Offer) -> float:
        """What it costs to bring the last commit to the offer's region, if that is another one than the last machine's."""
        if not self.region or offer.region == self.region:
            return 0.0
        return self.state_bytes / 1e9 * _EGRESS_USD_PER_GB


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
    rate = None if source is None else _rate(job, source, nodes or job.spec.resources.nodes.least)
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
        steps_done=_steps_done(job.attempt, told),
        steps_total=None if told is None else told.total_steps,
        steps_per_s=rate,
        changeover=expected_changeover(job) if changeover is None else changeover,
        running=_running(job.attempt),
        undone=_undone(job.attempt, told, rate),
        saves=told is not None and (told.last_commit is not None or told.resumed_from is not None),
        heading="" if newest is None or newest.is_live else newest.moving_to,
        leaving="" if newest is None or newest.is_live or not newest.moving_to else newest.pool,
        spot_ended_at=spots[-1].ended_at if spots else None,
        interval=_interval(job),
        nodes=job.attempt.nodes if job.attempt is not None else job.spec.resources.nodes.least,
        state_bytes=_state_bytes(job),
        region=next((attempt.region for attempt in reversed(job.attempts) if attempt.launched_at is not None), ""),
    )


def _steps_done(attempt: Attempt | None, told: Progress | None) -> int:
    """The step that is saved; of a machine that runs, the last one that was heard of: before a move it saves."""
    if told is None:
        return 0
    return told.step if _is_its_own(attempt, told) else _saved(told)


def _undone(attempt: Attempt | None, told: Progress | None, rate: float | None) -> timedelta:
    """How long the machine that runs has worked for the steps since its last commit."""
    if told is None or not _is_its_own(attempt, told) or not rate or rate < 0:
        return timedelta(0)
    return timedelta(seconds=max(0, told.step - _saved(told)) / rate * _RATE_MARGIN)


def _is_its_own(attempt: Attempt | None, told: Progress) -> bool:
    return attempt is not None and attempt.progress is told


def _saved(told: Progress) -> int:
    return told.last_commit.step if told.last_commit is not None else told.resumed_from or 0


def _state_bytes(job: Job) -> int:
    commits = (attempt.progress.last_commit for attempt in reversed(job.attempts) if attempt.progress is not None)
    return next((commit.size_bytes for commit in commits if commit is not None), 0)


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
    """Whether it gave up its machine as the provider recommended: its pool is about to take some back."""
    return attempt.at_risk and attempt.moving_to != ""
