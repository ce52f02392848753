"""What carries spotrun's tag, and whether somebody still needs it. Pure.

The rule of `spotrun reap`: what a live attempt needs stays; what belongs to an attempt that is over goes. Of a job that
this home's journal does not know, only the lease can tell: its controller renews it in the store while it lives, and a
machine whose lease ran out has been told to save and end itself. So it goes too, after the time that saving takes. All
else may be somebody's training on another laptop: it is shown, and ended only if the user says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

__all__ = ["GRACE", "Kind", "KnownJob", "Lease", "Leftover", "Standing", "standing_of"]

# From the end of a lease to the machine's own end: the training saves (120 s), outputs and logs are uploaded.
GRACE = timedelta(minutes=10)


class Kind(str, Enum):
    """What kind of thing it is."""

    INSTANCE = "instance"
    VOLUME = "volume"
    TEMPLATE = "launch template"
    PROCESS = "local machine"


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """Something that spotrun created and that is still there.

    Attributes:
        region: where; empty on this computer.
        place: the job's place in the store, as its tag says; empty if it has none.
        what: type, market and zone, or size, as a person would say it.
        usd_per_hour: what it costs; None if not known, zero if nothing.
        since: when it was made.
    """

    kind: Kind
    id: str
    region: str
    job_id: str
    attempt: int
    place: str = ""
    what: str = ""
    usd_per_hour: Decimal | None = None
    since: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownJob:
    """A job of this home's journal.

    Attributes:
        over: whether it has ended.
        live: attempts that may have a machine.
        ended: attempts that can have none any more.
    """

    over: bool
    live: frozenset[int]
    ended: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """What the store tells of the lease of an attempt whose job is not known here. `until` is None if it tells nothing."""

    until: datetime | None
    fault: str = ""


class Standing(str, Enum):
    """Whether somebody needs it."""

    NEEDED = "needed"
    OVER = "over"  # goes by default
    UNKNOWN = "unknown"  # goes with --all


def standing_of(
    leftover: Leftover, *, jobs: Mapping[str, KnownJob | None], lease: Lease | None, now: datetime
) -> tuple[Standing, str]:
    """Whether somebody needs it, and how that is known, in a few words.

    Args:
        leftover: what was found.
        jobs: the jobs of this home's journal; None for one whose journal cannot be read.
        lease: of its attempt, where the job is not among them.
        now: wall time.
    """
    if leftover.job_id in jobs:
        known = jobs[leftover.job_id]
        return (Standing.UNKNOWN, "its journal cannot be read") if known is None else _known(leftover, known)
    if lease is None or (lease.until is None and not lease.fault):
        return Standing.UNKNOWN, "its job is not known here, and it has no lease in a store that is known"
    if lease.until is None:
        return Standing.UNKNOWN, f"its job is not known here, and its lease cannot be read: {lease.fault}"
    if lease.until + GRACE < now:
        return Standing.OVER, f"no controller has renewed its lease since before {lease.until:%F %H:%M} UTC"
    if lease.until < now:
        return Standing.NEEDED, f"its lease ran out at {lease.until:%H:%M} UTC: it is saving, and will end itself"
    return Standing.NEEDED, f"its controller, elsewhere, holds its lease until {lease.until:%F %H:%M} UTC"


def _known(leftover: Leftover, known: KnownJob) -> tuple[Standing, str]:
    if leftover.attempt in known.live:
        return Standing.NEEDED, f"attempt {leftover.attempt} of {leftover.job_id} is under way"
    if known.over:
        return Standing.OVER, f"{leftover.job_id} is over"
    if leftover.attempt in known.ended:
        return Standing.OVER, f"attempt {leftover.attempt} of {leftover.job_id} is over"
    return Standing.NEEDED, f"{leftover.job_id} is under way, and its controller may be about to journal it"
