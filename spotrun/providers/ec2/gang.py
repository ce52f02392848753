"""Several instances as one: the gang of an attempt, as its members together tell it. Pure.

All members carry the attempt's token, and the gang is named after it, so that it has the same name whichever of its
members a listing shows. It lives while any member does. One that is over breaks it: the others end themselves, as their
agents find a peer gone, and are ended if they have not done so after `REST`. Over as a whole, it was interrupted if AWS
took any of its members, whatever then became of the others, which are billed as ended by their side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from spotrun.providers.provider import EndCause, Instance, InstanceState

__all__ = ["REST", "gang_id", "gangs", "stragglers", "token_of"]

REST = timedelta(minutes=5)  # for the agents of a broken gang to say their last word and shut down

_PREFIX = "gang-"

# What a gang ended of, if its members ended of several things.
_WEIGHT = {
    EndCause.DENIED: 5,
    EndCause.INTERRUPTED: 4,
    EndCause.LOST: 3,
    EndCause.UNSTARTED: 2,
    EndCause.TERMINATED: 1,
    EndCause.EXITED: 0,
}


def gang_id(token: str) -> str:
    """The name of the gang that was launched with a token."""
    return _PREFIX + token


def token_of(id_: str) -> str | None:
    """The token of the gang of this name; None for a single instance."""
    return id_.removeprefix(_PREFIX) if id_.startswith(_PREFIX) else None


def gangs(instances: Iterable[Instance]) -> list[Instance]:
    """One instance for each gang among the members."""
    members: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        members[instance.token].append(instance)
    return [_gang(sorted(found, key=lambda it: it.id)) for found in members.values()]


def stragglers(instances: Sequence[Instance], now: datetime) -> list[str]:
    """The living members of gangs that have been broken for longer than `REST`."""
    broken: dict[str, datetime] = {}
    for instance in instances:
        if instance.state is InstanceState.ENDED:
            ended_at = instance.ended_at or instance.launched_at
            broken[instance.token] = min(broken.get(instance.token, ended_at), ended_at)
    return [
        it.id
        for it in instances
        if it.state is not InstanceState.ENDED and it.token in broken and now - broken[it.token] > REST
    ]


def _gang(members: Sequence[Instance]) -> Instance:
    first = members[0]
    living = [it for it in members if it.state is not InstanceState.ENDED]
    notices = [it.notice_deadline for it in living if it.notice_deadline is not None]
    ends = [it.ended_at for it in members if it.ended_at is not None]
    worst = max(members, key=lambda it: _WEIGHT[it.end_cause or EndCause.EXITED])
    never_ran = worst.end_cause in (EndCause.UNSTARTED, EndCause.DENIED)
    counted = worst.end_cause if never_ran else EndCause.INTERRUPTED
    pending = any(it.state is InstanceState.PENDING for it in living)
    return Instance(
        id=gang_id(first.token),
        job_id=first.job_id,
        attempt=first.attempt,
        token=first.token,
        pool=first.pool,
        state=(InstanceState.PENDING if pending else InstanceState.RUNNING) if living else InstanceState.ENDED,
        launched_at=min(it.launched_at for it in members),
        notice_deadline=min(notices, default=None),
        ended_at=None if living else max(ends, default=None),
        end_cause=None if living else worst.end_cause,
        detail="" if living else f"{worst.id}: {worst.detail}".rstrip(": "),
        members=tuple(it.id for it in members),
        taken=None if living else sum(it.end_cause is counted for it in members),
    )
