"""What anybody may do with a journal, without being its controller: read a job, and ask for its end."""

from __future__ import annotations

from spotrun.controller.journal import Journal
from spotrun.controller.outside import job_clock
from spotrun.errors import JournalConflict, JournalError, SpecError
from spotrun.job import Job, StopRequested, step

__all__ = ["read_job", "request_stop"]

TRIES_MAX = 20  # a controller appends a few events a second at most; a writer that loses so often is not let in at all


def read_job(journal: Journal, job_id: str) -> Job:
    """The job as its journal tells it now.

    Raises:
        SpecError: there is no such job.
        JournalCorrupt: an event of it is damaged.
    """
    return _read(journal, job_id)[0]


def request_stop(journal: Journal, job_id: str, *, by: str) -> bool:
    """Asks the job to save and end. False: it is over already, and nothing was asked.

    Raises:
        SpecError: there is no such job.
        JournalError: the journal cannot be read or written.
    """
    for _ in range(TRIES_MAX):
        job, seq = _read(journal, job_id)
        if job.phase.is_end:
            return False
        at = max(job.at, job_clock(job.spec, job.submitted_at).now())
        try:
            journal.append(job_id, seq, StopRequested(at=at, by=by))
        except JournalConflict:
            continue
        return True
    raise JournalError(f"{job_id} could not be asked to stop: others wrote to it {TRIES_MAX} times in a row; try again")


def _read(journal: Journal, job_id: str) -> tuple[Job, int]:
    job, seq = None, 0
    for recorded in journal.events(job_id):
        job, _ = step(job, recorded.event)
        seq = recorded.seq
    if job is None:
        latest = ", ".join(journal.jobs()[-5:]) or "none yet"
        raise SpecError(f"there is no job {job_id!r} in {journal.where}; the latest are: {latest}")
    return job, seq
