"""What the provider and the agent show of a job, turned into events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from spotrun.clock import Clock
from spotrun.controller.mailbox import Mailbox
from spotrun.controller.timing import Timing, at_least
from spotrun.errors import StoreError
from spotrun.job import (
    NOTICE_GRACE,
    Attempt,
    AttemptEnded,
    AttemptExited,
    EndReason,
    Event,
    Exit,
    Heartbeat,
    Job,
    Launched,
    Noticed,
    Progressed,
)
from spotrun.providers.provider import EndCause, Instance, InstanceState

__all__ = ["Lookout", "Sighting", "launched", "orphans"]

_REASONS = {
    EndCause.INTERRUPTED: EndReason.INTERRUPTED,
    EndCause.LOST: EndReason.INTERRUPTED,  # a machine that dies is the provider's loss, not the user's failure
    EndCause.TERMINATED: EndReason.TERMINATED,
    EndCause.EXITED: EndReason.EXITED,
    EndCause.UNSTARTED: EndReason.UNSTARTED,
    EndCause.DENIED: EndReason.DENIED,
}

_UNKNOWN = "the machine died or is not known any more"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What one look gave: events in the order in which the job must hear them, most of them no news."""

    events: tuple[Event, ...] = ()
    problem: StoreError | None = None  # the agent's words could not be read
    recommended_at: datetime | None = None  # the provider recommended to leave this machine


class Lookout:
    """Watches the attempt of one job. Remembers when each machine was last seen.

    The provider is asked before the agent's words are read: an agent's last word is written before its machine ends, so
    that whoever sees the end first and reads after misses neither.
    """

    def __init__(self, mailbox: Mailbox, *, clock: Clock, timing: Timing) -> None:
        self._mailbox = mailbox
        self._missing = at_least(clock, timing.missing_s, timing.missing_wall_s)
        self._patience = at_least(clock, timing.unread_s, timing.unread_wall_s)
        self._seen: dict[str, datetime] = {}
        self._unread_since: datetime | None = None

    def look(self, attempt: Attempt, instances: Sequence[Instance], at: datetime) -> Sighting:
        """What there is to say of the attempt, given the provider's list of a moment ago."""
        self._seen.update((it.id, at) for it in instances)
        if attempt.instance_id is None:
            instance = _adopted(attempt, instances)
            if instance is None:
                return Sighting()
            first: tuple[Event, ...] = (launched(instance, at),)
        else:
            instance = next((it for it in instances if it.id == attempt.instance_id), None)
            first = ()
        beat, last_word, problem = self._read(attempt.number)
        if instance is None:
            instance = self._lost(attempt, beat, at)
        said = _said(attempt, beat=beat, last_word=last_word, instance=instance, at=at)
        recommended_at = None if beat is None else beat.recommended_at
        if instance is None or instance.state is not InstanceState.ENDED:
            return Sighting(events=(*first, *said), problem=problem, recommended_at=recommended_at)
        if problem is not None and not self._out_of_patience(at):
            return Sighting(events=(*first, *said), problem=problem)  # its last word may yet be read
        spoke = attempt.progress is not None or beat is not None or last_word is not None
        return Sighting(events=(*first, *said, _ended(instance, at, problem, spoke=spoke)), problem=problem)

    def _read(self, attempt: int) -> tuple[Heartbeat | None, Exit | None, StoreError | None]:
        try:
            beat, last_word = self._mailbox.heartbeat(attempt), self._mailbox.exit(attempt)
        except StoreError as error:
            return None, None, error
        self._unread_since = None
        return beat, last_word, None

    def _lost(self, attempt: Attempt, beat: Heartbeat | None, at: datetime) -> Instance | None:
        """A machine that has been neither listed nor heard of for a bounded time is lost. Until then nothing is known: one
        that was launched a moment ago may be missing."""
        assert attempt.instance_id is not None
        assert attempt.launched_at is not None
        last = self._seen.setdefault(attempt.instance_id, at)
        if beat is not None:
            last = max(last, min(beat.at, at))
        if at - last < self._missing:
            return None
        return Instance(
            id=attempt.instance_id,
            job_id="",
            attempt=attempt.number,
            token=attempt.token,
            pool=attempt.pool,
            state=InstanceState.ENDED,
            launched_at=attempt.launched_at,
            ended_at=last,
            end_cause=EndCause.LOST,
        )

    def _out_of_patience(self, at: datetime) -> bool:
        if self._unread_since is None:
            self._unread_since = at
        return at - self._unread_since >= self._patience


def launched(instance: Instance, at: datetime) -> Launched:
    """The news that an attempt has this machine."""
    return Launched(
        at=at,
        attempt=instance.attempt,
        instance_id=instance.id,
        launched_at=instance.launched_at,
        members=instance.members,
        pool=instance.pool,
        refused=instance.refused,
    )


def orphans(job: Job, instances: Sequence[Instance], at: datetime) -> list[Instance]:
    """Machines that live and are not the one of the job's attempt: nobody waits for what they do.

    One with a notice is left to the provider for a while: it ends soon, and perhaps free of charge.
    """
    ours = None if job.attempt is None else job.attempt.instance_id
    living = (it for it in instances if it.state is not InstanceState.ENDED and it.id != ours)
    if job.attempt is not None:  # a gang of it whose size is not known yet is waited for
        token = job.attempt.token
        living = (it for it in living if it.is_complete or it.token != token)
    return [it for it in living if it.notice_deadline is None or at >= it.notice_deadline + NOTICE_GRACE]


def _adopted(attempt: Attempt, instances: Sequence[Instance]) -> Instance | None:
    """The machine of an attempt whose launch was never answered: found by its token, a living one first. A gang whose size is
    not known is not taken: the launch is repeated, and its answer tells."""
    ours = [it for it in instances if it.token == attempt.token and it.attempt == attempt.number and it.is_complete]
    return min(ours, key=lambda it: (it.state is InstanceState.ENDED, it.launched_at, it.id), default=None)


def _said(
    attempt: Attempt, *, beat: Heartbeat | None, last_word: Exit | None, instance: Instance | None, at: datetime
) -> list[Event]:
    if attempt.exit is not None:
        return []  # it has said its last word
    events: list[Event] = []
    deadline = None if instance is None else instance.notice_deadline
    if deadline is None and attempt.notice_deadline is None and beat is not None:
        deadline = beat.notice_deadline  # the machine heard it before the provider told us
    if deadline is not None:
        events.append(Noticed(at=at, attempt=attempt.number, deadline=deadline))
    if beat is not None and beat.progress is not None:
        news = Progressed(at=at, attempt=attempt.number, progress=beat.progress, uploading=beat.uploading)
        events.append(news)
    if last_word is not None:
        events.append(AttemptExited(at=at, attempt=attempt.number, exit=last_word))
    return events


def _ended(instance: Instance, at: datetime, unread: StoreError | None, *, spoke: bool) -> AttemptEnded:
    """`spoke`: something on the machine was heard of, so it did start, whatever the provider calls its end. Of a gang one
    may have spoken while another never ran."""
    reason, taken = _REASONS[instance.end_cause or EndCause.LOST], instance.taken
    if spoke and reason.is_false_start and not instance.members:
        reason, taken = EndReason.INTERRUPTED, 0  # its host died, which makes no hour free
    detail = instance.detail or (_UNKNOWN if instance.end_cause in (EndCause.LOST, None) else "")
    if unread is not None:
        detail = f"{detail}; its exit record could not be read: {unread}".lstrip("; ")
    return AttemptEnded(
        at=at,
        attempt=instance.attempt,
        ended_at=max(instance.launched_at, instance.ended_at or at),
        reason=reason,
        detail=detail,
        taken=taken,
    )
