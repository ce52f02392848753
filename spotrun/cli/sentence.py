"""One sentence for each event, the way `spotrun events` and the live view tell them."""

from __future__ import annotations

from datetime import timedelta

from typing_extensions import assert_never

from spotrun.job import (
    AttemptEnded,
    AttemptExited,
    EndReason,
    Event,
    Job,
    Launched,
    LaunchRefused,
    MoveDecided,
    Noticed,
    OnShortage,
    Phase,
    Placed,
    Progressed,
    RefusalKind,
    StopRequested,
    Submitted,
    Ticked,
    TrainingPhase,
    Waited,
)
from spotrun.job.message import Progress
from spotrun.units import format_duration

__all__ = ["tell"]


def tell(event: Event, before: Job | None, after: Job) -> str:
    """What `event` means, in one sentence; empty if it is no news.

    Args:
        before: the job without the event, None for the first.
        after: the job with it.
    """
    sentence = _launched(event, after) if isinstance(event, Launched) else _sentence(event, before, after)
    sentence = sentence or _stalled(before, after)
    if after.phase.is_end and (before is None or not before.phase.is_end):
        ended = f"{after.phase.value}" + (
            f": {after.cause}" if after.cause and after.phase is not Phase.COMPLETED else ""
        )
        return f"{sentence}; {ended}" if sentence else ended
    return sentence


def _stalled(before: Job | None, after: Job) -> str:
    """That the attempt hangs, at the moment when that is decided."""
    known = before.attempt if before is not None else None
    attempt = after.attempt
    if attempt is None or not attempt.stalled or (known is not None and known.stalled):
        return ""
    return f"attempt {attempt.number}: {attempt.stopping_why}: asked to save and end"


def _sentence(event: Event, before: Job | None, after: Job) -> str:
    match event:
        case Submitted():
            return _submitted(event, after)
        case Placed():
            return ""  # told with its answer
        case Waited():
            return event.reason
        case MoveDecided():
            return f"attempt {event.attempt}: saving, then moving to {event.pool}: {event.reason}"
        case Launched():
            return ""  # told with the pool that it came from
        case LaunchRefused():
            return _refused(event, before)
        case Progressed():
            return _progress(event, before)
        case Noticed():
            left = format_duration(max(event.deadline - event.at, timedelta(0)))
            attempt = None if before is None else before.attempt
            training = attempt is not None and attempt.progress is not None and attempt.progress.told
            return f"attempt {event.attempt}: notice: the machine goes in {left}{'; saving' if training else ''}"
        case AttemptExited():
            code = "" if event.exit.exit_code is None else f" (exit code {event.exit.exit_code})"
            return f"attempt {event.attempt}: the command ended: {event.exit.outcome.value.replace('_', ' ')}{code}"
        case AttemptEnded():
            return _ended(event, before)
        case StopRequested():
            return f"stop asked for by {event.by}: saving, then ending"
        case Ticked():
            return ""
        case _:
            assert_never(event)


def _submitted(event: Submitted, after: Job) -> str:
    limits = after.spec.limits
    policy = f"; {limits.policy.value} buys on-demand in time for max_wait"
    return f"submitted {event.job_id}" + (policy if limits.on_shortage is OnShortage.ON_DEMAND else "")


def _refused(event: LaunchRefused, before: Job | None) -> str:
    attempt = before.attempt if before is not None else None
    where = f" in {attempt.zone}" if attempt is not None else ""
    if attempt is not None and attempt.alternatives:
        where = f" in any of {len(attempt.pools)} pools of {attempt.region}"
    if event.refusal is RefusalKind.CAPACITY:
        return f"attempt {event.attempt}: no capacity{where}"
    return f"attempt {event.attempt}: refused{where} ({event.refusal.value}): {event.answer}"


def _launched(event: Launched, after: Job) -> str:
    if after.attempt is None:
        return f"attempt {event.attempt}: machine {event.instance_id} is up"
    attempt, size = after.attempt, after.spec.resources.nodes
    market = "spot" if attempt.market == "spot" else "on-demand"
    count = "" if size.is_single else f"{size.came(len(event.members))} x "
    wanted = f" (of {size})" if size.is_elastic else ""
    what = f"{count}{attempt.instance_type}{wanted} {market}"
    return f"attempt {event.attempt}: {what} in {attempt.zone}, {attempt.reason}"


def _progress(event: Progressed, before: Job | None) -> str:
    news = event.progress
    known = before.attempt.progress if before is not None and before.attempt is not None else None
    saved = news.last_commit is not None and (known is None or known.commits != news.commits)
    parts = []
    known_as = None if known is None else (known.phase, known.told)
    if news.phase is TrainingPhase.TRAINING and known_as != (news.phase, news.told):
        origin = "from the start" if news.resumed_from is None else f"resumed from step {news.resumed_from}"
        parts.append(f"training, {origin}" if news.told else "running without spotrun.attach: nothing is saved")
    if event.uploading:
        parts.append("uploading outputs")
    if saved and news.last_commit is not None and _is_news(news, known):
        parts.append(f"committed step {news.last_commit.step}" + (" on notice" if news.last_commit.on_notice else ""))
    return f"attempt {event.attempt}: {', '.join(parts)}" if parts else ""


def _is_news(news: Progress, known: Progress | None) -> bool:
    # A commit at every interval is routine; told are the first of an attempt and those made because of a notice.
    assert news.last_commit is not None
    return news.last_commit.on_notice or known is None or known.commits == 0


def _ended(event: AttemptEnded, before: Job | None) -> str:
    attempt = before.attempt if before is not None else None
    after = ""
    if attempt is not None and attempt.number == event.attempt and attempt.launched_at is not None:
        after = f" after {format_duration(event.ended_at - attempt.launched_at)}"
    if event.reason.is_false_start:
        why = f": {event.detail}" if event.reason is EndReason.UNSTARTED and event.detail else ""
        return f"attempt {event.attempt}: the machine did not start{why}"
    if event.reason.value != "interrupted":
        return f"attempt {event.attempt}: the machine is gone ({event.reason.value}){after}"
    warned = "with notice" if attempt is not None and attempt.notice_deadline is not None else "without notice"
    place = f" in {attempt.zone}" if attempt is not None else ""
    return f"attempt {event.attempt}: interrupted {warned}{place}{after}"
