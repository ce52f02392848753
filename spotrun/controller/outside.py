"""Everything that a controller touches outside itself and its journal, as one value made of functions.

The same controller runs on real processes and in simulation: only this value differs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from spotrun.clock import Clock, ScaledClock, SystemClock
from spotrun.controller.placing import move, place
from spotrun.job import Job, JobSpec, MoveDecided, Placed, Waited
from spotrun.market.offer import Offer
from spotrun.providers.connect import Connector
from spotrun.providers.provider import Provider
from spotrun.store import BlobStore, Patience, RetryingStore, open_store

if TYPE_CHECKING:
    from spotrun.providers.ec2.aws import Pacing

__all__ = ["Connect", "JobClock", "Moving", "Outside", "Placement", "job_clock", "real_outside"]

# A controller's turn comes again in seconds, and its lease does not outlive a long wait.
_PATIENCE = Patience(total_s=2.0, longest_s=1.0)


class JobClock(Clock, Protocol):
    """A job's time, in a form that its attempts can inherit."""

    def to_text(self) -> str:
        """See `spotrun.clock.clock_from_text`."""


class Connect(Protocol):
    """Opens the provider of a job. Called once per job and controller, and at submission.

    Raises SpecError for what the provider cannot give, ProviderError for what may pass.
    """

    def __call__(
        self, spec: JobSpec, *, job_id: str, submitted_at: datetime, clock: JobClock, workdir: Path
    ) -> Provider: ...


# (job, offers, now, the time between two looks)
Placement: TypeAlias = Callable[[Job, Sequence[Offer], datetime, timedelta], Placed | Waited]
Moving: TypeAlias = Callable[[Job, Sequence[Offer], datetime, timedelta], MoveDecided | None]


def _unchanged(spec: JobSpec) -> JobSpec:
    return spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """What a controller is given.

    Attributes:
        home: the user's folder; jobs without a checkpoint uri keep their runs in it.
        connect: the provider of a job.
        open_store: a store at a URI, with options if the job has some.
        job_clock: the clock of a job, from its spec and submission.
        wall: wall time, for leases and pauses.
        chance: for job ids and jitter.
        place: the policy that chooses among offers, or waits.
        move: the policy that says whether an attempt should go on elsewhere.
        complete: fills into a spec what this computer's configuration decides, at submission, for good.
    """

    home: Path
    connect: Connect
    open_store: Callable[..., BlobStore]
    job_clock: Callable[[JobSpec, datetime], JobClock]
    wall: Clock
    chance: random.Random
    place: Placement = place
    move: Moving = move
    complete: Callable[[JobSpec], JobSpec] = _unchanged


def real_outside(home: Path, *, chance: random.Random | None = None, pacing: Pacing | None = None) -> Outside:
    """The providers, stores and clocks of this computer; `pacing` says how often AWS may be asked."""

    connector = Connector(home, open_store=_open_store, pacing=pacing)

    def connect(spec: JobSpec, *, job_id: str, submitted_at: datetime, clock: JobClock, workdir: Path) -> Provider:
        assert isinstance(clock, SystemClock | ScaledClock), "real jobs live in wall time or a multiple of it"
        return connector(spec, job_id=job_id, submitted_at=submitted_at, clock=clock, workdir=workdir)

    return Outside(
        home=home,
        connect=connect,
        open_store=_open_store,
        job_clock=job_clock,
        wall=SystemClock(),
        complete=connector.complete,
        chance=chance or random.Random(),  # noqa: S311  names jobs and spreads retries, protects nothing
    )


def job_clock(spec: JobSpec, submitted_at: datetime) -> SystemClock | ScaledClock:
    """The job's clock: wall time, or faster from the submission on for a local job with a time scale."""
    return SystemClock() if spec.time_scale == 1.0 else ScaledClock(submitted_at, spec.time_scale)


def _open_store(uri: str, options: Mapping[str, Any] | None = None) -> BlobStore:
    store = open_store(uri, options)
    return RetryingStore(store.inner, patience=_PATIENCE) if isinstance(store, RetryingStore) else store
