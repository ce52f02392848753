"""What there is of a run: each commit with its state, what it added, and how long it took to become durable.

Reads the log and the manifests; of the blobs it knows what the manifests say. `spotrun.store.verify` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from spotrun.errors import CheckpointCorrupt, SpecError
from spotrun.store.blob import BlobStore
from spotrun.store.content import read_manifest
from spotrun.store.key import MANIFEST_PREFIX
from spotrun.store.log import CommitEntry
from spotrun.store.manifest import Manifest
from spotrun.store.notice import announced_end
from spotrun.store.parallel import in_parallel

__all__ = ["CommitState", "Held", "find_commit", "inventory"]

_READERS = 8  # threads: manifests are small, so reading many is all waiting
_REFERENCE = re.compile(r"(\d{1,12})(?:-(\d{1,6}))?", re.ASCII)


class CommitState(str, Enum):
    """What has become of a commit, as far as its manifest tells."""

    KEPT = "kept"
    PRUNED = "pruned"
    DAMAGED = "damaged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A commit and what is known of it.

    Attributes:
        size: bytes of its blobs.
        added: bytes of blobs that the commit before it in the log does not have; None if that one was pruned.
        saved_s: from the step boundary whose state it is to its entry in the log, in job time.
        resumed_from: the step that its attempt started from.
        margin_s: from its entry in the log to the end of its machine that was announced by then; negative if it came
            later, None if no end was announced.
        problem: what is wrong with it.
    """

    entry: CommitEntry
    state: CommitState
    size: int
    added: int | None = None
    saved_s: float | None = None
    resumed_from: int | None = None
    margin_s: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Summary:
    """What is needed of a manifest, which itself may be large."""

    blobs: Mapping[str, int]
    saved_s: float
    resumed_from: int | None
    margin_s: float | None = None


def inventory(store: BlobStore, commits: Sequence[CommitEntry]) -> list[Held]:
    """What there is of each of these commits, which are all of the log, oldest first.

    Raises:
        StoreError: the store failed.
    """
    there = set(store.list(MANIFEST_PREFIX))

    def look(entry: CommitEntry) -> _Summary | CheckpointCorrupt | None:
        if entry.manifest not in there and entry is not commits[-1]:
            return None
        try:
            return _summary(entry, read_manifest(store, entry))
        except CheckpointCorrupt as err:
            return err

    found = in_parallel(lambda place: look(commits[place]), len(commits), threads=_READERS)
    return [
        _held(entry, summary, found[place - 1] if place else _Summary({}, 0.0, None))
        for place, (entry, summary) in enumerate(zip(commits, found, strict=True))
    ]


def find_commit(
    commits: Sequence[CommitEntry], wanted: str, *, tags: Mapping[str, str], there: Collection[str] | None = None
) -> CommitEntry:
    """The commit that `wanted` means: `latest`, a step, a step and an attempt as `1200-2`, or a tag.

    Of several commits of one step the newest is meant.

    Args:
        tags: manifests by tag.
        there: the manifests that are still there, if known: only these commits are named if there is none as wanted.

    Raises:
        SpecError: there is none.
    """
    if not commits:
        raise SpecError("nothing is committed yet")
    if wanted in ("", "latest"):
        return commits[-1]
    match = _REFERENCE.fullmatch(wanted)
    for entry in reversed(commits):
        if match and entry.step == int(match[1]) and match[2] in (None, str(entry.attempt)):
            return entry
        if not match and entry.manifest == tags.get(wanted):
            return entry
    kept = [entry for entry in commits if there is None or entry.manifest in there]
    steps = ", ".join(dict.fromkeys(str(entry.step) for entry in kept[-8:])) or "none"
    raise SpecError(
        f"no commit is called {wanted[:100]!r}; write latest, a step, a step and its attempt like 1200-2, or a tag; the "
        f"newest steps are {steps}" + (f", the tags {', '.join(sorted(tags)[:8])}" if tags else "")
    )


def _summary(entry: CommitEntry, manifest: Manifest) -> _Summary:
    saved_s = max((entry.at - manifest.captured_at).total_seconds(), 0.0)
    end = announced_end(manifest.state)
    margin_s = None if end is None else (end - entry.at).total_seconds()
    return _Summary({blob.key: blob.size for blob in manifest.blobs}, saved_s, manifest.resumed_from, margin_s)


def _held(
    entry: CommitEntry, found: _Summary | CheckpointCorrupt | None, before: _Summary | CheckpointCorrupt | None
) -> Held:
    if found is None:
        return Held(entry=entry, state=CommitState.PRUNED, size=entry.size)
    if isinstance(found, CheckpointCorrupt):
        return Held(entry=entry, state=CommitState.DAMAGED, size=entry.size, problem=str(found))
    added = None
    if isinstance(before, _Summary):
        added = sum(size for key, size in found.blobs.items() if key not in before.blobs)
    return Held(
        entry=entry,
        state=CommitState.KEPT,
        size=sum(found.blobs.values()),
        added=added,
        saved_s=found.saved_s,
        resumed_from=found.resumed_from,
        margin_s=found.margin_s,
    )
