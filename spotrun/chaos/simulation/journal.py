"""A journal in this process's memory, held to the contract of the real one, and each controller's way to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

from spotrun.chaos.simulation.actor import Crossing
from spotrun.controller.journal import Journal, Recorded, Tenure
from spotrun.errors import JournalConflict, JournalCorrupt, JournalError, LeaseLost
from spotrun.job.event import Event, decode, encode

__all__ = ["Kept", "MemoryJournal", "SimJournal"]

_T = TypeVar("_T")


@dataclass
class Kept:
    """What a journal holds.

    Attributes:
        events: of each job, as they come back from their form in the journal.
        on_append: called after each event.
    """

    events: dict[str, list[Event]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    owner: str = ""
    epoch: int = 0
    expires: datetime | None = None
    on_append: Callable[[Event], None] = lambda event: None

    @property
    def tenure(self) -> Tenure | None:
        """Who holds the lease."""
        if not self.owner:
            return None
        assert self.expires is not None, "who has the lease has it until some time"
        return Tenure(owner=self.owner, epoch=self.epoch, expires=self.expires)


class MemoryJournal(Journal):
    """The contract of `Journal` without a database: gone with the process, a hundred times as fast. Single-threaded.

    Args:
        kept: what several journals share, as processes share a file.
    """

    def __init__(self, kept: Kept | None = None) -> None:
        self.where = "memory"
        self.kept = kept or Kept()

    def append(self, job_id: str, expected_seq: int, event: Event, *, lease_epoch: int | None = None) -> int:
        """See `Journal.append`."""
        if lease_epoch is not None:
            self.require(lease_epoch)
        there = self.kept.events.get(job_id, [])
        if len(there) < expected_seq:
            raise JournalCorrupt(
                f"{self.where}: {expected_seq} events of {job_id} were read, and {len(there)} are there"
            )
        if len(there) > expected_seq:
            raise JournalConflict(job_id, expected_seq + 1)
        event = decode(encode(event))
        self.kept.events.setdefault(job_id, there).append(event)
        self.kept.on_append(event)
        return expected_seq + 1

    def events(self, job_id: str, after: int = 0) -> tuple[Recorded, ...]:
        """See `Journal.events`."""
        there = self.kept.events.get(job_id, [])
        return tuple(Recorded(seq=seq, event=event) for seq, event in enumerate(there[after:], after + 1))

    def heads(self, *, unsettled: bool = False) -> Mapping[str, int]:
        """See `Journal.heads`."""
        ids = sorted(self.kept.events, key=lambda job_id: (self.kept.events[job_id][0].at, job_id))
        return {it: len(self.kept.events[it]) for it in ids if not (unsettled and it in self.kept.settled)}

    def settle(self, job_id: str) -> None:
        """See `Journal.settle`."""
        self.kept.settled.add(job_id)

    def tenure(self) -> Tenure | None:
        """See `Journal.tenure`."""
        return self.kept.tenure

    def acquire(self, owner: str, *, now: datetime, expires: datetime) -> Tenure:
        """See `Journal.acquire`."""
        kept, held = self.kept, self.kept.tenure
        if held is not None and held.owner != owner and held.expires > now:
            return held
        if held is None or held.owner != owner:
            kept.epoch += 1
        kept.owner, kept.expires = owner, expires
        return Tenure(owner=owner, epoch=kept.epoch, expires=expires)

    def release(self, epoch: int) -> None:
        """See `Journal.release`."""
        if self.kept.epoch == epoch:
            self.kept.owner, self.kept.expires = "", None

    def require(self, epoch: int) -> None:
        """See `Journal.require`."""
        held = self.kept.tenure
        if held is None or held.epoch != epoch:
            now = "nobody holds it" if held is None else f"{held.owner} holds it (epoch {held.epoch})"
            raise LeaseLost(f"this controller's lease of the journal (epoch {epoch}) is over: {now}")

    def close(self) -> None:
        """See `Journal.close`."""


class SimJournal(MemoryJournal):
    """One controller's way to the journal: locked, full or cut off at times, and never half written."""

    def __init__(self, kept: Kept, crossing: Crossing) -> None:
        super().__init__(kept)
        self._cross = crossing

    def append(self, job_id: str, expected_seq: int, event: Event, *, lease_epoch: int | None = None) -> int:
        """See `Journal.append`."""
        write = partial(super().append, job_id, expected_seq, event, lease_epoch=lease_epoch)
        return self._via(f"append {event.kind}", write)

    def events(self, job_id: str, after: int = 0) -> tuple[Recorded, ...]:
        """See `Journal.events`."""
        return self._via("events", partial(super().events, job_id, after))

    def heads(self, *, unsettled: bool = False) -> Mapping[str, int]:
        """See `Journal.heads`."""
        return self._via("heads", partial(super().heads, unsettled=unsettled))

    def settle(self, job_id: str) -> None:
        """See `Journal.settle`."""
        self._via("settle", partial(super().settle, job_id))

    def acquire(self, owner: str, *, now: datetime, expires: datetime) -> Tenure:
        """See `Journal.acquire`."""
        return self._via("acquire", partial(super().acquire, owner, now=now, expires=expires))

    def require(self, epoch: int) -> None:
        """See `Journal.require`."""
        # Not from within `append`, where it is part of the same transaction.
        super().require(epoch)

    def _via(self, what: str, do: Callable[[], _T]) -> _T:
        return self._cross(what, do, fail=JournalError)
