"""The protocol of the log as a pure machine: requests out, replies in, an outcome at the end.

Rules
    1. Entry n is created only if there is none, right after the last entry known; the log is never trimmed.
    2. A writer claims before it reads any checkpoint. It may not claim when it finds an entry of a newer attempt, nor
       its own number claimed by another writer. The run belongs to the last claim in the log.
    3. A commit is created at the number after the last known entry. When that is taken, the writer reads it: an entry
       with its own token is its own, whose reply was lost; a claim means that it is fenced and stops for good.
    4. A claim or commit counts once a listing shows nothing behind it that its writer has not seen.

Why it holds: every append is a compare-and-swap on the end of the log, so all entries are in one order, and a writer
can append a commit behind its claim only while no other claim has come between. A claim therefore sees every commit
that was ever acknowledged, and none of an older attempt can follow it. Retries are safe because identity is the token,
not the time or the content. `tests/unit/store/test_store_protocol.py` checks all interleavings of this very code.

Damage. An entry that cannot be read counts as the claim of an unknown writer for whoever claimed before it: it stops
rather than append behind it. A newcomer may claim behind it, if it is not older than any attempt that can be read, and
thereby ends the doubt: whoever wrote the damaged entry, its next append will find that claim. So at most one writer
goes on; in the worst case, when a claim was damaged and an older attempt starts late, it is the older one, from the
last readable commit. Rule 4 covers an entry that vanished: a writer that fills the hole sees the entries behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from spotrun.store.log import ClaimEntry, CommitEntry, DamagedEntry, Entry

__all__ = [
    "Claimed",
    "Claiming",
    "Committed",
    "Committing",
    "Create",
    "Created",
    "Doubtful",
    "Listed",
    "Listing",
    "Machine",
    "Me",
    "Outcome",
    "ReadEntries",
    "Reading",
    "Reply",
    "Request",
    "Superseded",
    "Turn",
    "newest",
]


@dataclass(frozen=True, slots=True)
class Me:
    """Who speaks: `attempt` None asks for the next free number; `token` is unique to this writer object."""

    attempt: int | None
    writer: str
    token: str


# What the machine asks for, and what it is answered.


@dataclass(frozen=True, slots=True)
class Listing:
    """Asks which numbers the log has."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Asks for these entries."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Create:
    """Asks to create this entry at its number, if there is none."""

    entry: ClaimEntry | CommitEntry


@dataclass(frozen=True, slots=True)
class Listed:
    """The last number in the log, 0 for an empty one."""

    last: int


@dataclass(frozen=True, slots=True)
class ReadEntries:
    """The entries asked for, in the order asked; missing ones as `DamagedEntry`."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Created:
    """Whether the entry was created; False may also follow from an own try whose reply was lost."""

    done: bool


# How it ends.


@dataclass(frozen=True, slots=True)
class Claimed:
    """The run is ours."""

    claim: ClaimEntry
    log: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """The checkpoint is visible, and it is ours."""

    entry: CommitEntry
    log: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another writer holds the run: stop writing for good."""

    attempt: int
    by: ClaimEntry | CommitEntry


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An entry that cannot be read may be another's claim: stop writing for good."""

    entry: DamagedEntry


Request = Listing | Reading | Create
Reply = Listed | ReadEntries | Created
Outcome = Claimed | Committed | Superseded | Doubtful


@dataclass(frozen=True, slots=True)
class Claiming:
    """A writer on its way to own the run; `log` is what it knows, entries 1 to n without a hole."""

    me: Me
    at: datetime
    log: tuple[Entry, ...] = ()

    def start(self) -> Turn:
        """The first request."""
        return self, Listing()

    def take(self, reply: Reply) -> Turn:
        """What follows from a reply."""
        match reply:
            case Listed(last) if last > len(self.log):
                return self, Reading(tuple(range(len(self.log) + 1, last + 1)))
            case Listed():
                return self._decide()
            case ReadEntries(entries):
                return replace(self, log=self.log + entries)._decide()
            case Created(done=True):
                return replace(self, log=(*self.log, self._claim())), Listing()
            case Created():
                return self, Listing()

    def _decide(self) -> Turn:
        mine = [entry for entry in self.log if isinstance(entry, ClaimEntry) and entry.token == self.me.token]
        if mine:
            behind = self.log[mine[-1].seq :]
            if all(not isinstance(entry, DamagedEntry) and entry.token == self.me.token for entry in behind):
                return self, Claimed(mine[-1], self.log)
            for entry in behind:
                if isinstance(entry, ClaimEntry):
                    return self, Superseded(mine[-1].attempt, entry)
            # Else our claim filled a hole, or what is behind it cannot be read: it does not count, so claim at the end.
        holder = newest(self.log)
        if holder is not None and self.me.attempt is not None:
            newer = holder.attempt > self.me.attempt
            twin = holder.attempt == self.me.attempt and holder.writer != self.me.writer
            if newer or twin:
                return self, Superseded(self.me.attempt, holder)
        return self, Create(self._claim())

    def _claim(self) -> ClaimEntry:
        holder = newest(self.log)
        unreadable = sum(isinstance(entry, DamagedEntry) for entry in self.log)  # each may have been a newer claim
        attempt = self.me.attempt or (holder.attempt if holder else 0) + unreadable + 1
        return ClaimEntry(
            seq=len(self.log) + 1, attempt=attempt, writer=self.me.writer, token=self.me.token, at=self.at
        )


@dataclass(frozen=True, slots=True)
class Committing:
    """A writer with a claim, on its way to commit.

    `log` is what it knows; `entry` is what it wants in the log, at whatever number that turns out to be.
    """

    entry: CommitEntry
    log: tuple[Entry, ...]
    stage: Literal["creating", "checking"] = "creating"

    def start(self) -> Turn:
        """The first request."""
        entry = replace(self.entry, seq=len(self.log) + 1)
        return replace(self, entry=entry), Create(entry)

    def take(self, reply: Reply) -> Turn:
        """What follows from a reply."""
        match reply:
            case Created(done=True):
                return self._created(self.entry)
            case Created():
                return self, Reading((self.entry.seq,))
            case ReadEntries(entries) if self.stage == "creating":
                return self._taken(entries[0])
            case ReadEntries(entries):
                return self, self._behind(entries)
            case Listed(last) if last > len(self.log):
                return self, Reading(tuple(range(len(self.log) + 1, last + 1)))
            case Listed():
                return self, Committed(self.entry, self.log)

    def _created(self, entry: CommitEntry) -> Turn:
        return replace(self, entry=entry, log=(*self.log, entry), stage="checking"), Listing()

    def _taken(self, there: Entry) -> Turn:
        if isinstance(there, DamagedEntry):
            return self, Doubtful(there)
        if isinstance(there, ClaimEntry) or there.token != self.entry.token:
            return self, Superseded(self.entry.attempt, there)
        if (there.step, there.digest) == (self.entry.step, self.entry.digest):
            return self._created(there)
        return replace(self, log=(*self.log, there)).start()  # an earlier commit of ours that was thought lost

    def _behind(self, entries: tuple[Entry, ...]) -> Outcome:
        for entry in entries:
            if not isinstance(entry, DamagedEntry):
                return Superseded(self.entry.attempt, entry)
        first = entries[0]
        assert isinstance(first, DamagedEntry)
        return Doubtful(first)


Machine = Claiming | Committing
Turn = tuple[Machine, Request | Outcome]


def newest(log: tuple[Entry, ...]) -> ClaimEntry | CommitEntry | None:
    """The last entry of the newest attempt that can be read: the holder of the run, as far as is known."""
    found: ClaimEntry | CommitEntry | None = None
    for entry in log:
        if not isinstance(entry, DamagedEntry) and (found is None or entry.attempt >= found.attempt):
            found = entry
    return found
