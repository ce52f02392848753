"""How a job comes to its end: asked to, at a limit, or by what its last attempt left behind.

An ending is first intended and later reached. While a machine may exist, the intention is kept in `job.ending`, the
attempt is asked to save, and the job ends when the provider confirms that the machine is gone; nothing is ever leaked
because a job was over. With no machine, the job ends at once.
"""

from __future__ import annotations

from dataclasses import replace
from signal import Signals

from spotrun.job.event import EndReason
from spotrun.job.legality import moved
from spotrun.job.message import Exit, Outcome
from spotrun.job.state import Attempt, Ending, Job, Phase

__all__ = ["LOSSES_MAX", "decided", "ended", "intended"]

# Attempts in a row that neither the provider nor the command explains, and that committed nothing: a machine that dies
# as soon as it starts is the same cause each time, and five start-ups are enough to see that it does not pass.
LOSSES_MAX = 5

_CAUSE_LINES = 5  # of the log's tail, in the cause of a failure


def ended(job: Job, phase: Phase, cause: str) -> Job:
    """The job at its end; its waiting is over."""
    return replace(moved(job, phase), cause=cause, ended_at=job.at, wait_until=None, wait_reason="")


def intended(job: Job, phase: Phase, cause: str) -> Job:
    """The job on its way to this end, or there, if it has no machine. The first intention stands."""
    attempt = job.attempt
    if attempt is None:
        return ended(job, phase, cause)
    if job.ending is not None:
        return job
    if attempt.instance_id is not None and attempt.stopping_since is None:
        attempt = replace(attempt, stopping_since=job.at, stopping_why=cause)
    ending = Ending(phase=phase, cause=cause, since=job.at)
    return replace(job, ending=ending, attempts=(*job.attempts[:-1], attempt))


def decided(job: Job, attempt: Attempt) -> Job:
    """What becomes of the job now that this attempt, its newest, is confirmed gone."""
    outcome = None if attempt.exit is None else attempt.exit.outcome
    if outcome is Outcome.COMPLETED:  # wins over an interruption or an ending of the same moment: the work is done
        return ended(job, Phase.COMPLETED, "")
    if job.ending is not None:
        return ended(job, job.ending.phase, job.ending.cause)
    if attempt.end_reason is EndReason.DENIED:
        return ended(job, Phase.FAILED, _loss(attempt))
    if _was_interrupted(attempt):
        return moved(replace(job, interruptions=job.interruptions + 1), Phase.INTERRUPTED)
    if attempt.exit is not None and outcome is Outcome.START_FAILED:
        return ended(job, Phase.FAILED, f"the command could not be started{_last_words(attempt.exit)}")
    refusal = _refusal(attempt)
    if refusal:
        return ended(job, Phase.FAILED, refusal)
    failure = _failure(attempt)
    if failure is not None:
        return _failed(job, failure)
    if _losses(job) >= LOSSES_MAX:
        return ended(job, Phase.FAILED, f"{LOSSES_MAX} attempts in a row came to nothing; the last: {_loss(attempt)}")
    return moved(job, Phase.PENDING)


def _was_interrupted(attempt: Attempt) -> bool:
    if attempt.end_reason is not EndReason.INTERRUPTED:
        return False
    if attempt.exit is None or attempt.exit.outcome in (Outcome.STOPPED, Outcome.LEASE_EXPIRED):
        return True
    # A machine that shuts down signals its processes, and what they make of it is no failure of theirs.
    by_signal = _signal(attempt.exit) is not None
    late = attempt.notice_deadline is not None and attempt.exit.at >= attempt.notice_deadline
    return attempt.exit.outcome is Outcome.FAILED and (by_signal or late)


def _left_at_notice(attempt: Attempt) -> bool:
    """Whether the command ended because of a notice, before the machine did: an interruption that it was faster than."""
    return attempt.notice_deadline is not None and attempt.exit is not None and attempt.exit.outcome is Outcome.STOPPED


def _refusal(attempt: Attempt) -> str:
    """Why the training refused to go on; another start would be refused for the same reason, and cost as much."""
    told = None if attempt.exit is None or attempt.exit.outcome is not Outcome.FAILED else attempt.exit.progress
    return "" if told is None else told.refusal


def _failure(attempt: Attempt) -> str | None:
    """The failure that counts against `max_restarts`, as a sentence, or None."""
    if attempt.end_reason is EndReason.UNSTARTED:
        return None  # nothing of the user's has run
    if attempt.stalled:
        return attempt.stopping_why
    if attempt.exit is not None and attempt.exit.outcome is Outcome.FAILED:
        killer = _signal(attempt.exit)
        how = f"was killed by {killer}" if killer else f"ended with exit code {attempt.exit.exit_code}"
        return f"the command {how}{_last_words(attempt.exit)}"
    if attempt.exit is None and attempt.training_at is None and not attempt.moving_to:
        return f"{_loss(attempt)} before the training began"
    return None


def _failed(job: Job, failure: str) -> Job:
    failures = job.failures + 1
    job = replace(job, failures=failures)
    allowed = job.spec.limits.max_restarts
    if failures <= allowed:
        return moved(job, Phase.PENDING)
    counted = f" (failure {failures}; max_restarts is {allowed})" if allowed else ""
    return ended(job, Phase.FAILED, failure + counted)


def _losses(job: Job) -> int:
    """How many attempts in a row, up to the newest, came to nothing: refused ones aside, as they never existed."""
    count = 0
    for attempt in reversed(job.attempts):
        if attempt.ended_at is None:
            continue
        committed = attempt.progress is not None and attempt.progress.commits > 0
        if committed or attempt.moving_to or _was_interrupted(attempt) or _left_at_notice(attempt):
            break
        if _failure(attempt) is not None:
            break
        count += 1
    return count


def _loss(attempt: Attempt) -> str:
    if attempt.exit is not None:
        return f"attempt {attempt.number} ended: {attempt.exit.outcome.value.replace('_', ' ')}"
    if attempt.end_reason is not None and attempt.end_reason.is_false_start:
        told = f": {attempt.end_detail}" if attempt.end_detail else ""
        return f"the machine of attempt {attempt.number}, {attempt.instance_id} on {attempt.pool}, never started{told}"
    how = "shut itself down" if attempt.end_reason is EndReason.EXITED else "was terminated"
    return f"the machine of attempt {attempt.number}, {attempt.instance_id} on {attempt.pool}, {how} without a word"


def _signal(exit: Exit) -> str | None:  # noqa: A002  the domain's word
    """The name of the signal that killed the command, seen directly or through a shell (128 + number)."""
    code = exit.exit_code
    number = None if code is None else -code if code < 0 else code - 128
    try:
        return None if number is None or number <= 0 else Signals(number).name
    except ValueError:
        return None


def _last_words(exit: Exit) -> str:  # noqa: A002  the domain's word
    return "".join(f"\n  {line}" for line in exit.tail[-_CAUSE_LINES:])
