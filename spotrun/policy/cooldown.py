"""Which pools are not to be asked for now, and until when: those that refused, and those that took a machine back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from spotrun.job import Refusal, RefusalKind
from spotrun.policy.situation import Situation

__all__ = ["PAUSES", "Cooldown", "Hold"]

# First pause and longest pause after refusals, doubled with each refusal in a row. No jitter: a job asks alone, and a
# decision that can be repeated exactly is worth more.
PAUSES: Mapping[RefusalKind, tuple[timedelta, timedelta]] = {
    # Capacity comes back within minutes more often than not (of the outages in probe traces of single zones, half last
    # less than an hour); a probe every ten minutes is what 'Can't Be Late' (NSDI 2024) found enough.
    RefusalKind.CAPACITY: (timedelta(minutes=1), timedelta(minutes=10)),
    # A person must raise a quota; another job may free its share sooner.
    RefusalKind.QUOTA: (timedelta(minutes=10), timedelta(hours=1)),
    RefusalKind.THROTTLED: (timedelta(seconds=15), timedelta(minutes=5)),
    RefusalKind.DENIED: (timedelta(hours=1), timedelta(hours=1)),  # ends the job; kept for completeness of the table
}

# A pool that has just taken a machine back has none to give: of runs without capacity in the same traces, a quarter is
# over after about ten minutes.
_AFTER_INTERRUPTION = timedelta(minutes=10)

_ANSWERS = {
    RefusalKind.CAPACITY: "no capacity",
    RefusalKind.QUOTA: "quota reached",
    RefusalKind.THROTTLED: "asked too often",
    RefusalKind.DENIED: "denied",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """A pool not to be asked for before `until`."""

    pool: str
    since: datetime
    until: datetime
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooldown:
    """Tells which pools are on hold.

    Attributes:
        pauses: after refusals of each kind, the first and the longest.
        after_interruption: how long a pool is avoided after it took a machine back.
    """

    pauses: Mapping[RefusalKind, tuple[timedelta, timedelta]] = field(default_factory=lambda: PAUSES)
    after_interruption: timedelta = _AFTER_INTERRUPTION

    def __post_init__(self) -> None:
        if self.after_interruption < timedelta(0):
            raise ValueError(f"after_interruption must not be negative, not {self.after_interruption}")

    def holds(self, situation: Situation) -> dict[str, Hold]:
        """Pool -> the hold that lasts longest, for every pool on hold now."""
        found = [self._after_refusal(refusal) for refusal in situation.refusals]
        found += [
            Hold(pool=lost.pool, since=lost.at, until=lost.at + self.after_interruption, why=lost.why)
            for lost in situation.interruptions
        ]
        active = sorted((hold for hold in found if hold.until > situation.now), key=lambda hold: hold.until)
        return {hold.pool: hold for hold in active}

    def _after_refusal(self, refusal: Refusal) -> Hold:
        first, longest = self.pauses[refusal.kind]
        pause = min(first * 2 ** min(refusal.repeats - 1, 16), longest)
        return Hold(pool=refusal.pool, since=refusal.at, until=refusal.at + pause, why=_ANSWERS[refusal.kind])
