"""What must hold in every world at every moment: plain functions over the evidence, each giving the sentences that are wrong.

Here what is read from the journal and the store; what is read from the provider's books is in `spotrun.chaos.simulation.books`.
They share no code with what they judge: no fold, no lineage, no billing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise

from blake3 import blake3

from spotrun.chaos.simulation.evidence import ENDS, Evidence, LogLine
from spotrun.chaos.simulation.training import state_after
from spotrun.job.event import (
    AttemptEnded,
    AttemptExited,
    EndReason,
    Launched,
    LaunchRefused,
    MoveDecided,
    Placed,
    StopRequested,
    Submitted,
)
from spotrun.job.message import Outcome
from spotrun.market.offer import MarketKind
from spotrun.providers.provider import EndCause

__all__ = ["OF_END", "OF_JOURNAL", "OF_STORE", "Checker"]

UNREAD = timedelta(seconds=600)  # how long a last word that cannot be read is waited for

Checker = Callable[[Evidence], Iterator[str]]


def one_end(it: Evidence) -> Iterator[str]:
    """A job has one end, and nothing is bought or begun after it."""
    ends = [phase for _, phase in it.told if phase in ENDS]
    first = next((place for place, (_, phase) in enumerate(it.told) if phase in ENDS), None)
    if len(set(ends)) > 1:
        yield f"the job ended as {' and then as '.join(dict.fromkeys(ends))}"
    if first is not None:
        if len(ends) != len(it.told) - first:
            yield f"the job ended as {ends[0]} and went on as {it.told[-1][1]}"
        for event in it.events[first + 1 :]:
            if isinstance(event, Placed | Launched | LaunchRefused | AttemptEnded):
                yield f"{event.kind} of attempt {event.attempt} after the end"


def completed_by_word(it: Evidence) -> Iterator[str]:
    """A job is told to be completed exactly if an attempt said so and its machine is gone; and no attempt follows it."""
    done = [event.attempt for event in it.events if isinstance(event, AttemptExited) and _completed(event)]
    gone = {event.attempt for event in it.events if isinstance(event, AttemptEnded)}
    is_done = any(attempt in gone for attempt in done)
    if it.told and is_done != (it.told[-1][1] == "Completed"):
        yield f"attempts {done} completed, {sorted(gone)} are gone, and the job is {it.told[-1][1]}"
    if done and any(isinstance(event, Placed) and event.attempt > done[0] for event in it.events):
        yield f"an attempt was placed after attempt {done[0]} had completed"


def _completed(event: AttemptExited) -> bool:
    return event.exit.outcome is Outcome.COMPLETED


def one_attempt_at_a_time(it: Evidence) -> Iterator[str]:
    """The next attempt is placed when the one before is confirmed gone or was refused; numbers and tokens are new."""
    open_attempt, last = 0, 0
    tokens: set[str] = set()
    for event in it.events:
        if isinstance(event, Placed):
            if event.attempt == last:
                continue
            if open_attempt:
                yield f"attempt {event.attempt} was placed while attempt {open_attempt} might have a machine"
            if event.attempt != last + 1 or event.token in tokens:
                yield f"attempt {event.attempt} followed {last} with token {event.token}"
            open_attempt = last = event.attempt
            tokens.add(event.token)
        elif isinstance(event, AttemptEnded | LaunchRefused) and event.attempt == open_attempt:
            open_attempt = 0


def asked_to_stop_means_no_more(it: Evidence) -> Iterator[str]:
    """After `spotrun stop` nothing new is placed or moved."""
    stopped = False
    for event in it.events:
        stopped |= isinstance(event, StopRequested)
        if stopped and isinstance(event, Placed | MoveDecided):
            yield f"attempt {event.attempt}: {event.kind} after the job was asked to stop"


def on_demand_as_agreed(it: Evidence) -> Iterator[str]:
    """Under `on_shortage: wait` on-demand is neither decided on nor bought."""
    if it.terms.on_demand_allowed:
        return
    for event in it.events:
        if isinstance(event, Placed | MoveDecided) and event.market == MarketKind.ON_DEMAND.value:
            yield f"attempt {event.attempt} was to run on demand, and on_shortage is wait"
    for lot in it.lots:
        if lot.request.offer.market is MarketKind.ON_DEMAND:
            yield f"{lot.id} was bought on demand, and on_shortage is wait"


def interruptions_are_confirmed(it: Evidence) -> Iterator[str]:
    """The journal's word on the end of a machine is the provider's: who ended it, and when."""
    machines = {event.attempt: event.instance_id for event in it.events if isinstance(event, Launched)}
    lots = {lot.id: lot for lot in it.lots}
    for event in it.events:
        if not isinstance(event, AttemptEnded):
            continue
        lot = lots[machines[event.attempt]]
        if lot.ended_at is None:
            yield f"{lot.id} of attempt {event.attempt} is told to be gone, and it lives"
        elif (event.reason is EndReason.INTERRUPTED) != (lot.cause in (EndCause.INTERRUPTED, EndCause.LOST)):
            yield f"{lot.id} is told to have ended as {event.reason.value}, the provider says {lot.cause}"


def last_words_are_waited_for(it: Evidence) -> Iterator[str]:
    """The exit record of a machine that is gone is given up only after it could not be read for as long as was agreed."""
    machines = {event.attempt: event.instance_id for event in it.events if isinstance(event, Launched)}
    ends = {lot.id: lot.ended_at for lot in it.lots}
    for event in it.events:
        if isinstance(event, AttemptEnded) and "could not be read" in event.detail:
            ended_at = ends[machines[event.attempt]]
            if ended_at is None or event.at < ended_at + UNREAD - it.terms.skew:
                yield f"the last word of attempt {event.attempt} was given up at {event.at}; its machine ended at {ended_at}"


def time_goes_on(it: Evidence) -> Iterator[str]:
    """No event is earlier than the one before it."""
    pairs = pairwise(it.events)
    yield from (
        f"{later.kind} at {later.at} follows {event.kind} at {event.at}"
        for event, later in pairs
        if later.at < event.at
    )


def log_is_one_line(it: Evidence) -> Iterator[str]:
    """Entries are never rewritten, deleted or left out, and nothing committed is overwritten."""
    yield from it.wrongs


def one_holder(it: Evidence) -> Iterator[str]:
    """A commit is made by whoever claimed last; claims are never made by an older attempt; steps never go back."""
    holder: LogLine | None = None
    step = -1
    for line in it.log:
        if line.kind == "claim":
            if holder is not None and line.attempt < holder.attempt:
                yield f"entry {line.seq}: attempt {line.attempt} claimed after attempt {holder.attempt}"
            if holder is not None and line.attempt == holder.attempt and line.writer != holder.writer:
                yield f"entry {line.seq}: {line.writer} claimed attempt {line.attempt}, which {holder.writer} holds"
            holder = line
            continue
        if holder is None or line.token != holder.token:
            by = "nobody" if holder is None else f"attempt {holder.attempt} ({holder.writer})"
            yield f"entry {line.seq}: attempt {line.attempt} ({line.writer}) committed step {line.step}; the run was held by {by}"
        if line.step < step:
            yield f"entry {line.seq} committed step {line.step} after step {step}"
        step = max(step, line.step)


def newest_is_whole(it: Evidence) -> Iterator[str]:
    """The last commit's manifest and blobs are there, byte by byte, and hold the state that its step must have."""
    newest = next((line for line in reversed(it.log) if line.kind == "commit"), None)
    if newest is None:
        return
    data = it.bucket.objects.get(f"{it.job_id}/{newest.manifest}")
    if data is None:
        yield f"{newest.manifest} of step {newest.step} is committed and gone"
        return
    if blake3(data).hexdigest() != newest.digest:
        yield f"{newest.manifest} of step {newest.step} differs from its digest"
        return
    yield from _blobs(it, newest, data)


def _blobs(it: Evidence, line: LogLine, manifest: bytes) -> Iterator[str]:
    for blob in json.loads(manifest)["blobs"]:
        there = it.bucket.objects.get(f"{it.job_id}/{blob['key']}")
        if there is None:
            yield f"{blob['key']} of step {line.step} is committed and gone"
        elif blake3(there).hexdigest() != blob["digest"] or len(there) != blob["size"]:
            yield f"{blob['key']} of step {line.step} differs from its digest"
        elif there != line.step.to_bytes(4, "big") + _state(line.step):
            yield f"the state committed for step {line.step} is not that of an uninterrupted run"


_STATES: dict[int, bytes] = {}


def _state(step: int) -> bytes:
    if step not in _STATES:
        _STATES[step] = state_after(step)
    return _STATES[step]


def acknowledged_is_visible(it: Evidence) -> Iterator[str]:
    """What a training was told to be safe is in the log, where it was told."""
    for told in it.diary.acknowledged:
        line = it.log[told.seq - 1] if told.seq <= len(it.log) else None
        if line is None or (line.kind, line.step, line.writer) != ("commit", told.step, told.writer):
            yield f"attempt {told.attempt} was told that step {told.step} is safe as entry {told.seq}, where there is {line}"


def resumes_from_the_last_commit(it: Evidence) -> Iterator[str]:
    """An attempt begins where the last commit before its claim left the run."""
    for resumed in it.diary.resumed:
        before = [line.step for line in it.log[: resumed.claim] if line.kind == "commit"]
        expected = before[-1] if before else 0
        if resumed.step != expected:
            yield f"attempt {resumed.attempt} began at step {resumed.step}; the run was committed up to step {expected}"


def trained_to_its_end(it: Evidence) -> Iterator[str]:
    """A completed job's last commit is of its last step."""
    if it.told and it.told[-1][1] == "Completed":
        steps = [line.step for line in it.log if line.kind == "commit"]
        if not steps or steps[-1] != it.terms.training.steps:
            yield f"the job completed, and its last commit is of step {steps[-1] if steps else None}"


def restarts_are_counted(it: Evidence) -> Iterator[str]:
    """The user's own failures end the job after `max_restarts` more tries; interruptions never count."""
    failed = [event for event in it.events if isinstance(event, AttemptExited) and event.exit.outcome is Outcome.FAILED]
    if len(failed) > it.terms.max_restarts + 1 + _taken(it):
        yield f"the command failed {len(failed)} times; max_restarts is {it.terms.max_restarts}"


def _taken(it: Evidence) -> int:
    return sum(isinstance(event, AttemptEnded) and event.reason is EndReason.INTERRUPTED for event in it.events)


def the_holder_is_not_fenced(it: Evidence) -> Iterator[str]:
    """An attempt that says it was fenced was: a newer one had claimed the run."""
    newest = max((line.attempt for line in it.log if line.kind == "claim"), default=0)
    for event in it.events:
        if isinstance(event, AttemptExited) and event.exit.outcome is Outcome.FENCED and event.attempt >= newest:
            yield f"attempt {event.attempt} said that it was fenced, and holds the run"


def failed_for_a_reason(it: Evidence) -> Iterator[str]:
    """A job fails after more failures of its own than it may have, or five attempts that came to nothing; never because of
    interruptions."""
    if not it.told or it.told[-1][1] != "Failed":
        return
    words = {event.attempt: event.exit.outcome for event in it.events if isinstance(event, AttemptExited)}
    own = [
        event.attempt
        for event in it.events
        if isinstance(event, AttemptEnded)
        and (event.reason is not EndReason.INTERRUPTED or words.get(event.attempt) is Outcome.FAILED)
    ]
    if len(own) <= min(it.terms.max_restarts, 4):
        yield f"the job failed; of its attempts only {own} were not interrupted, and max_restarts is {it.terms.max_restarts}"


def calm_is_quiet(it: Evidence) -> Iterator[str]:
    """Where nothing goes wrong there is one machine, and one more for each move to cheaper spot; each ends by its own word."""
    if not it.calm or it.terms.on_demand_allowed:
        return
    moves = sum(isinstance(event, MoveDecided) for event in it.events)
    if len(it.lots) > 1 + moves or any(lot.cause is not EndCause.EXITED for lot in it.lots):
        yield f"nothing went wrong, and the machines ended as {[lot.cause and lot.cause.value for lot in it.lots]}"


def it_was_submitted(it: Evidence) -> Iterator[str]:
    """A journal begins with the submission, and holds one."""
    if [isinstance(event, Submitted) for event in it.events] != [True] + [False] * (len(it.events) - 1):
        yield "the journal does not begin with its one submission"


OF_JOURNAL: tuple[Checker, ...] = (
    one_end,
    completed_by_word,
    one_attempt_at_a_time,
    asked_to_stop_means_no_more,
    on_demand_as_agreed,
    interruptions_are_confirmed,
    last_words_are_waited_for,
    time_goes_on,
)
OF_STORE: tuple[Checker, ...] = (
    log_is_one_line,
    one_holder,
    newest_is_whole,
    acknowledged_is_visible,
    resumes_from_the_last_commit,
)
OF_END: tuple[Checker, ...] = (
    it_was_submitted,
    trained_to_its_end,
    restarts_are_counted,
    the_holder_is_not_fenced,
    failed_for_a_reason,
    calm_is_quiet,
)
