"""Events as sentences, for the story that an error tells. The command line tells them in its own words, with context."""

from __future__ import annotations

from typing_extensions import assert_never

from spotrun.job.event import (
    AttemptEnded,
    AttemptExited,
    Event,
    Launched,
    LaunchRefused,
    MoveDecided,
    Noticed,
    Placed,
    Progressed,
    StopRequested,
    Submitted,
    Ticked,
    Waited,
)

__all__ = ["STORY_EVENTS", "tell"]

STORY_EVENTS = 12  # kept with a job for error messages: about two attempts' worth; the journal has them all


def tell(event: Event) -> str:
    """The event in one line, its instant first."""
    return f"{event.at:%Y-%m-%d %H:%M:%S} {_what(event)}"


def _what(event: Event) -> str:
    match event:
        case Submitted():
            return f"submitted as {event.job_id}" + (f" by {event.submitted_by}" if event.submitted_by else "")
        case Placed():
            pool = f"{event.zone}/{event.instance_type}/{event.market}"
            pool += f" or {len(event.alternatives)} others" if event.alternatives else ""
            return f"attempt {event.attempt} placed on {pool} at ${event.price_usd_per_hour}/h: {event.reason}"
        case Waited():
            return f"waiting until {event.until:%H:%M:%S}: {event.reason}"
        case MoveDecided():
            return f"attempt {event.attempt} is to move to {event.pool}: {event.reason}"
        case Launched():
            machines = f", {len(event.members)} machines" if event.members else ""
            came = f" on {event.pool}" if event.pool else ""
            return f"attempt {event.attempt} launched as {event.instance_id}{machines}{came}"
        case LaunchRefused():
            return f"attempt {event.attempt} refused ({event.refusal.value}): {event.answer}"
        case Progressed():
            uploading = ", uploading" if event.uploading else ""
            return f"attempt {event.attempt} is {event.progress.phase.value} at step {event.progress.step}{uploading}"
        case Noticed():
            return f"attempt {event.attempt} was warned: its machine may be gone at {event.deadline:%H:%M:%S}"
        case AttemptExited():
            code = "" if event.exit.exit_code is None else f" with exit code {event.exit.exit_code}"
            return f"attempt {event.attempt}'s command {event.exit.outcome.value.replace('_', ' ')}{code}"
        case AttemptEnded():
            detail = f": {event.detail}" if event.detail else ""
            return f"attempt {event.attempt}'s machine is gone ({event.reason.value}){detail}"
        case StopRequested():
            return f"stop asked for by {event.by}"
        case Ticked():
            return f"the clock went on; ${event.spent_usd:.2f} spent"
        case _:
            assert_never(event)
