"""Who needs what was found: the journal's jobs, and the leases of jobs that the journal does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from spotrun.controller.ask import read_job
from spotrun.controller.journal import Journal
from spotrun.controller.outside import Outside
from spotrun.errors import JournalError, SpecError, StoreError, StoreMissing
from spotrun.job.message import Control, Place, parse
from spotrun.job.state import Job
from spotrun.providers.leftover import Kind, KnownJob, Lease, Leftover, Standing, standing_of

__all__ = ["Judged", "judge"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Something that was found, whether somebody needs it, and how that is known."""

    leftover: Leftover
    standing: Standing
    why: str


def judge(leftovers: Iterable[Leftover], journal: Journal, *, outside: Outside, now: datetime) -> list[Judged]:
    """Says of each whether it is needed. Stores are read only for jobs that the journal does not know."""
    jobs = {job_id: _known(journal, job_id) for job_id in journal.jobs()}
    leases: dict[tuple[str, int], Lease] = {}
    judged = []
    for each in leftovers:
        lease = None
        if each.job_id not in jobs and each.place and each.kind is not Kind.PROCESS:
            key = (each.place, each.attempt)
            lease = leases[key] = leases.get(key) or _lease(outside, *key)
        standing, why = _standing(each, jobs, lease, now)
        judged.append(Judged(leftover=each, standing=standing, why=why))
    return judged


def _standing(
    leftover: Leftover, jobs: Mapping[str, KnownJob | None], lease: Lease | None, now: datetime
) -> tuple[Standing, str]:
    if leftover.kind is Kind.PROCESS and leftover.job_id not in jobs:
        return Standing.OVER, "its home is this one, and the journal of this home knows no such job"
    return standing_of(leftover, jobs=jobs, lease=lease, now=now)


def _known(journal: Journal, job_id: str) -> KnownJob | None:
    try:
        job = read_job(journal, job_id)
    except (JournalError, SpecError):
        return None
    return known_job(job)


def known_job(job: Job) -> KnownJob:
    """What a job says of its attempts."""
    return KnownJob(
        over=job.phase.is_end,
        live=frozenset(attempt.number for attempt in job.attempts if attempt.is_live),
        ended=frozenset(attempt.number for attempt in job.attempts if not attempt.is_live),
    )


def _lease(outside: Outside, place: str, attempt: int) -> Lease:
    """The lease in the store of a job of another home; read only, nothing is made."""
    try:
        control = parse(Control, outside.open_store(place).read(Place(attempt).control))
    except StoreMissing:
        return Lease(until=None, fault="it has none yet")
    except (SpecError, StoreError) as error:
        return Lease(until=None, fault=str(error))
    if control is None or control.attempt != attempt:
        return Lease(until=None, fault="it is damaged")
    return Lease(until=control.lease_until)
