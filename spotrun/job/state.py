"""The state of a job: what the fold of its events knows. Frozen values; `spotrun.job.step` makes new ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

from spotrun.job.event import Alternative, EndReason, RefusalKind
from spotrun.job.message import Exit, Progress
from spotrun.job.spec import JobSpec

__all__ = ["Action", "Attempt", "AttemptPhase", "Ending", "Job", "Launch", "Phase", "Place", "Refusal", "Terminate"]


class Phase(str, Enum):
    """Where a job is in its life. The last six are ends; a job reaches exactly one, once."""

    PENDING = "Pending"
    STARTING = "Starting"
    TRAINING = "Training"
    UPLOADING = "Uploading"
    INTERRUPTED = "Interrupted"
    COMPLETED = "Completed"
    FAILED = "Failed"
    STOPPED = "Stopped"
    MAX_RUNTIME_EXCEEDED = "MaxRuntimeExceeded"
    MAX_WAIT_TIME_EXCEEDED = "MaxWaitTimeExceeded"
    BUDGET_EXCEEDED = "BudgetExceeded"

    @property
    def is_end(self) -> bool:
        """Whether the job is over."""
        return self not in (Phase.PENDING, Phase.STARTING, Phase.TRAINING, Phase.UPLOADING, Phase.INTERRUPTED)


class AttemptPhase(str, Enum):
    """Where an attempt is in its life."""

    LAUNCHING = "launching"  # asked for; the provider's answer is not known
    STARTING = "starting"  # the machine bills, the training has not begun
    TRAINING = "training"
    UPLOADING = "uploading"
    EXITED = "exited"  # the command is over, the machine not confirmed gone
    ENDED = "ended"  # the provider confirmed that it is gone
    REFUSED = "refused"  # it never existed


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The job is on its way to this end; it gets there when its attempt is confirmed gone."""

    phase: Phase
    cause: str
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A pool that refused, for the placement policy's cool-down and for 'why am I waiting'."""

    pool: str
    at: datetime
    kind: RefusalKind
    answer: str
    repeats: int = 1  # refusals of this pool in a row, this one included


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One try of the job on one lot of capacity."""

    number: int
    token: str
    provider: str
    region: str
    zone: str
    instance_type: str
    market: str  # "spot" or "on_demand"
    price_usd_per_hour: Decimal
    on_demand_usd_per_hour: Decimal
    reason: str
    phase: AttemptPhase
    placed_at: datetime
    alternatives: tuple[Alternative, ...] = ()  # pools that will do as well, until its machine has come from one
    instance_id: str | None = None
    launched_at: datetime | None = None
    nodes: int = 1  # machines that its launch brought; 1 before it
    training_at: datetime | None = None
    progress: Progress | None = None
    progressed_at: datetime | None = None  # when a step, phase or commit was last seen to change
    notice_at: datetime | None = None
    notice_deadline: datetime | None = None
    exit: Exit | None = None
    ended_at: datetime | None = None
    end_reason: EndReason | None = None
    end_detail: str = ""  # the provider's word on it
    taken: int | None = None  # of an interrupted gang, how many of its machines the provider took
    stopping_since: datetime | None = None  # we want it to save and end
    stop_heard_at: datetime | None = None  # a controller was at work since then, which tells the attempt of it
    stopping_why: str = ""
    moving_to: str = ""  # the pool where its work is to go on, if that is why it is asked to end
    at_risk: bool = False  # and the provider recommended to leave its own
    stalled: bool = False
    trained_until: datetime | None = None  # when its training was over: the command ended, or only uploads were left
    unwanted: bool = False  # its machine came after the job had begun to end: there is nothing in it to save

    @property
    def pool(self) -> str:
        """Where its capacity came from; equals `Offer.pool`."""
        return f"{self.zone}/{self.instance_type}/{self.market}"

    @property
    def pools(self) -> tuple[str, ...]:
        """Its pool, and those that will do as well."""
        return (self.pool, *(it.pool(self.market) for it in self.alternatives))

    @property
    def is_live(self) -> bool:
        """Whether a machine may exist for it."""
        return self.phase not in (AttemptPhase.ENDED, AttemptPhase.REFUSED)

    def trained(self, now: datetime) -> timedelta:
        """Time spent training until it was over, or until `now`: what counts towards `max_run`."""
        if self.training_at is None:
            return timedelta(0)
        return max(timedelta(0), (self.trained_until or self.ended_at or now) - self.training_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as its events tell it."""

    id: str
    spec: JobSpec
    submitted_at: datetime
    phase: Phase
    at: datetime  # the latest event's
    attempts: tuple[Attempt, ...] = ()
    refusals: tuple[Refusal, ...] = ()  # the latest of each pool that has launched nothing since
    failures: int = 0  # the user's own, against max_restarts
    interruptions: int = 0
    wait_until: datetime | None = None
    wait_reason: str = ""
    ending: Ending | None = None
    cause: str = ""  # why it ended, in one or more sentences
    ended_at: datetime | None = None
    trained_before: timedelta = timedelta(0)  # training time of attempts that are over
    spent_usd: Decimal = Decimal(0)
    story: tuple[str, ...] = field(default=(), compare=False)  # the last events, for error messages

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt that may have a machine; there is never more than one."""
        newest = self.attempts[-1] if self.attempts else None
        return newest if newest is not None and newest.is_live else None

    @property
    def deadline(self) -> datetime:
        """When `max_wait` is over."""
        limits = self.spec.limits
        return self.submitted_at + (limits.max_run if limits.max_wait is None else limits.max_wait)

    def trained(self, now: datetime) -> timedelta:
        """Training time of all attempts together: what counts towards `max_run`."""
        attempt = self.attempt
        return self.trained_before + (timedelta(0) if attempt is None else attempt.trained(now))


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Ask the placement policy what to do: its answer comes back as Placed or Waited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """Ask the provider for the attempt's machine: Launched or LaunchRefused comes back. Idempotent by token."""

    attempt: int
    token: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Terminate:
    """Ask the provider to end the attempt's machine; AttemptEnded comes back once it confirms."""

    attempt: int
    instance_id: str
    why: str


Action = Place | Launch | Terminate
