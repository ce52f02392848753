"""When the folder is whole: a pure function over successive looks at it.

A look is whole when nothing in it is in the middle of being written, as far as can be seen from outside:

1. Nothing has changed for the *quiet* time: no file or link appeared, vanished or changed its size, times or inode.
   Renaming a finished file into its place and writing into the place itself are alike. The quiet time adapts: a folder
   that took a minute to write may pause longer between two files than one that took a second.
2. No process of the command has a file open for writing. One that has not changed for very long does not count: some
   programs hold files open for ever.
3. There is no unfinished file by name (`Rules.temporary`), but for those that nobody touches any more.
4. With a `done` pattern: a file that fits it has appeared or changed since the last generation, and nothing else was
   changed after the newest such file (but for the quiet time after it, in which a writer may tidy up).

A script may save so often that there is never a quiet time. If that is one file alone, which is written anew each time,
and nothing else has changed for long, then the folder is whole whenever that file is closed and the same in two looks.

Growing files (`Rules.growing`) are not waited for as long as they only grow: their first bytes, up to the size seen, do
not change any more. One that becomes shorter, or another file of the same name, is a change like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from spotrun.agent.folder.listing import File, Listing, Signature
from spotrun.agent.folder.rule import Rules

__all__ = ["Key", "Patience", "Waiting", "Watch", "Whole", "key_of"]

Key = frozenset[tuple[str, object]]
"""What differs for generations that differ in more than the length of growing files."""

_NO_NEW = "no new file fits the `done` pattern"
_SPREAD = 4  # a folder that was written for s seconds must be quiet for s / 4
_SPREAD_MOST = 6  # times the quiet time, at most
_ALONE = 6  # times the quiet time: if but one file changed for so long, what is saved is that file
_REWRITTEN = 3  # times that it was written anew meanwhile: it is not the first of several, and takes long
_STALE = 12  # times the quiet time: what is unfinished or open, and has not changed for so long, never will


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds of the clock that `Watch.look` is told; `tolerance_ns` is the quiet time of files.

    Attributes:
        sees_writers: whether it can be known which files are open for writing.
    """

    quiet_s: float
    tolerance_ns: int
    sees_writers: bool = True


@dataclass(frozen=True, slots=True)
class Whole:
    """Nothing of this look is being written; it could be committed.

    Attributes:
        changed_s: when the changes that made it began, at the earliest: what was done before is in it.
    """

    listing: Listing
    key: Key
    changed_s: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something is being written.

    Attributes:
        why: what is, as a sentence about a path.
        since_s: since when there has been no whole look.
        usual: it may well take long.
    """

    why: str
    since_s: float
    usual: bool = False


@dataclass(frozen=True, slots=True)
class _Seen:
    signature: Signature
    since_s: float  # first seen like this


@dataclass(frozen=True, slots=True)
class _Lone:
    """The only file that has changed for a while; none if `path` is empty.

    Attributes:
        since_s: nothing else has changed since.
        times: how often it was written anew since then.
        begun_s: the last look before it was written anew, or first, for the last time.
    """

    path: str = ""
    since_s: float = float("-inf")
    times: int = 0
    begun_s: float = float("-inf")

    def after(
        self, moved: Collection[str], *, old: _Seen | None, new: File | None, looks_s: tuple[float, float]
    ) -> _Lone:
        """After a look at which these paths had changed.

        Args:
            old, new: what was found under `path` at the last look and at this one.
            looks_s: when these were.
        """
        if set(moved) != {self.path}:
            (path,) = moved if len(moved) == 1 else ("",)
            return _Lone(path, looks_s[1], begun_s=looks_s[0])
        if old is None or new is None or not _is_anew(old.signature, new):
            return self
        return replace(self, times=self.times + 1, begun_s=looks_s[0])


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known from the looks so far.

    Attributes:
        done: files that fit the `done` pattern, as they were in the last generation that was taken.
        looked_s: when the last look was.
        burst_s: the last look before the newest changes began; what was done before it is in them.
        changed_s: when the last of them was seen.
        lone: the file that they were of, if it was one.
        whole_s: when a look was whole last.
    """

    seen: Mapping[str, _Seen]
    names: frozenset[str]
    done: Mapping[str, Signature]
    looked_s: float
    burst_s: float
    changed_s: float
    whole_s: float
    lone: _Lone = _Lone()

    @staticmethod
    def begin(listing: Listing, rules: Rules, now_s: float) -> Watch:
        """Before the command starts: all that is there is finished, and taken."""
        still = {path: _Seen(file.signature, float("-inf")) for path, file in _all_files(listing).items()}
        return Watch(
            seen=still,
            names=_names(listing),
            done=_done(listing, rules),
            looked_s=now_s,
            burst_s=now_s,
            changed_s=float("-inf"),
            whole_s=now_s,
        )

    def taken(self, whole: Whole, rules: Rules) -> Watch:
        """After a generation was taken: its `done` files are used up."""
        return replace(self, done=_done(whole.listing, rules))

    def look(
        self, listing: Listing, rules: Rules, *, now_s: float, writing: Collection[str], patience: Patience
    ) -> tuple[Watch, Whole | Waiting]:
        """What one more look tells.

        Args:
            now_s: of a clock that never goes back.
            writing: paths that a process of the command has open for writing.
        """
        seen, changed = self._compared(listing, rules, now_s)
        names = _names(listing)
        burst_s, changed_s, lone = self.burst_s, self.changed_s, self.lone
        if changed or names != self.names:
            lone = lone.after(
                changed | (names ^ self.names),
                old=self.seen.get(lone.path),
                new=listing.files.get(lone.path),
                looks_s=(self.looked_s, now_s),
            )
            burst_s = burst_s if now_s - changed_s < self._quiet_s(patience) else self.looked_s
            changed_s = now_s
        after = replace(self, seen=seen, names=names, looked_s=now_s, burst_s=burst_s, changed_s=changed_s, lone=lone)
        why = after._unfinished(listing, rules, now_s=now_s, writing=writing, patience=patience, changed=changed)
        if why is not None:
            return after, Waiting(why, after.whole_s, usual=why == _NO_NEW)
        if now_s - changed_s < after._quiet_s(patience):
            burst_s = lone.begun_s
        return replace(after, whole_s=now_s), Whole(listing, key_of(listing, rules), burst_s)

    def _compared(self, listing: Listing, rules: Rules, now_s: float) -> tuple[dict[str, _Seen], set[str]]:
        """Every file with the time since when it is what it is, and those that are not what they were."""
        seen: dict[str, _Seen] = {}
        changed: set[str] = set()
        for path, file in _all_files(listing).items():
            before = self.seen.get(path)
            if before is not None and before.signature == file.signature:
                seen[path] = before
                continue
            seen[path] = _Seen(file.signature, now_s)
            if not (rules.growing.fits(path) and _grew(before, file)) and path not in listing.temporaries:
                changed.add(path)
        return seen, changed

    def _unfinished(
        self,
        listing: Listing,
        rules: Rules,
        *,
        now_s: float,
        writing: Collection[str],
        patience: Patience,
        changed: Collection[str],
    ) -> str | None:
        if listing.excess:
            return "the folder holds too many files"
        stale_s = _STALE * patience.quiet_s
        for path in listing.temporaries:
            if now_s - self.seen[path].since_s < stale_s:
                return f"{path} is an unfinished file by its name"
        for path in writing:
            if path in listing.files and not rules.growing.fits(path) and now_s - self.seen[path].since_s < stale_s:
                return f"{path} is open for writing"
        if now_s - self.changed_s < self._quiet_s(patience) and not self._is_lone(now_s, patience):
            return f"{max(changed, default='the folder')} has just changed"
        return None if rules.done is None else self._not_done(listing, rules, patience)

    def _is_lone(self, now_s: float, patience: Patience) -> bool:
        """Whether one file alone is saved again and again, and is not what this look found in motion."""
        alone_s = now_s - self.lone.since_s
        return (
            patience.sees_writers
            and self.lone.path != ""
            and self.lone.times >= _REWRITTEN
            and alone_s >= _ALONE * patience.quiet_s
            and self.changed_s < now_s
        )

    def _not_done(self, listing: Listing, rules: Rules, patience: Patience) -> str | None:
        done = _done(listing, rules)
        if not any(self.done.get(path) != signature for path, signature in done.items()):
            return _NO_NEW
        newest_ns = max(signature[1] for signature in done.values()) + patience.tolerance_ns
        for path, file in listing.files.items():
            if file.mtime_ns > newest_ns and path not in done and not rules.growing.fits(path):
                return f"{path} was written after the newest file that fits the `done` pattern"
        return None

    def _quiet_s(self, patience: Patience) -> float:
        spread_s = (self.changed_s - self.burst_s) / _SPREAD if self.changed_s > self.burst_s else 0.0
        return min(max(patience.quiet_s, spread_s), _SPREAD_MOST * patience.quiet_s)


def key_of(listing: Listing, rules: Rules) -> Key:
    """What this look differs by from others."""
    files = ((file.path, None if rules.growing.fits(file.path) else file.signature) for file in listing.files.values())
    links = ((link.path, link.target) for link in listing.links.values())
    return frozenset([*files, *links])


def _grew(before: _Seen | None, file: File) -> bool:
    """Whether it is new, or the same file with at least as many bytes."""
    if before is None:
        return True
    size, _, _, inode = before.signature
    return inode == file.signature[3] and size <= file.size


def _is_anew(before: Signature, file: File) -> bool:
    """Whether it was written from its beginning, rather than further."""
    size, _, _, inode = before
    return inode != file.signature[3] or size >= file.size


def _all_files(listing: Listing) -> dict[str, File]:
    return {**listing.files, **listing.temporaries}


def _names(listing: Listing) -> frozenset[str]:
    return frozenset([*listing.files, *(f"{link.path} -> {link.target}" for link in listing.links.values())])


def _done(listing: Listing, rules: Rules) -> dict[str, Signature]:
    done = rules.done
    return {} if done is None else {path: file.signature for path, file in listing.files.items() if done.fits(path)}
