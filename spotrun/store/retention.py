"""Removing what no kept commit needs.

Why a zombie's prune is harmless. A writer prunes only after its own commit was acknowledged, so at that moment it
held the run and that commit was the newest; it keeps that commit and touches nothing of attempts newer than its own.
A later attempt's checkpoints consist of its own blobs and of blobs taken over from *the commit before it in the log*
(the only ones that may be taken over without a new upload). The first such commit is at or after the one the zombie
keeps. So whenever its deletions arrive, they never hit a blob that a later commit needs.

Why anybody's prune is harmless, that of someone who holds no claim too. It goes by a log that it has read, keeps that
log's newest commit, and removes only manifests that entries of this log name, and blobs that these manifests name and
no kept one does. What it removes belongs to commits before the one it keeps, so a save that is under way at the same
time, of whatever attempt, takes over none of it.

A kept manifest names all of its blobs, also those that it shares with commits before and after it. So what is needed is
exactly what the kept manifests name, however far apart in the log they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from spotrun.errors import CheckpointCorrupt
from spotrun.store.blob import BlobStore, readers_of
from spotrun.store.content import read_manifest
from spotrun.store.key import BLOB_PREFIX, MANIFEST_PREFIX, attempt_of
from spotrun.store.log import CommitEntry
from spotrun.store.manifest import BlobRef
from spotrun.store.parallel import in_parallel

__all__ = ["Choice", "Pruner", "Removal", "prune", "remove"]

Choice = Callable[[Sequence[CommitEntry]], Collection[CommitEntry]]
"""Which to keep of the commits that are there, oldest first. The newest is kept whatever it says."""

_READERS = 8  # threads: manifests are small, so reading many is all waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What is to go, and what stays.

    Attributes:
        kept: the commits that stay, oldest first.
        removed: the commits that go.
        size: bytes of the blobs that go, as far as they are known.
    """

    kept: tuple[CommitEntry, ...]
    removed: tuple[CommitEntry, ...]
    manifests: tuple[str, ...]
    blobs: tuple[str, ...]
    size: int

    @property
    def keys(self) -> tuple[str, ...]:
        """All objects that go, in the order in which to remove them: a manifest before its blobs."""
        return (*self.manifests, *self.blobs)


class Pruner:
    """Prunes one run again and again; manifests that it has read once it does not read again. For one thread.

    Args:
        choice: which commits to keep.
    """

    def __init__(self, store: BlobStore, choice: Choice) -> None:
        self._store = store
        self._choice = choice
        self._blobs: dict[str, tuple[BlobRef, ...]] = {}  # of each manifest that is kept; these never change

    def prune(self, entries: Sequence[CommitEntry]) -> int:
        """Removes what need not be kept and returns how many objects that were. For the writer of the newest commit.

        Also removes what earlier attempts left unfinished. Call it only after an acknowledged commit, from the writer
        that made it, and not while that writer is committing.

        Args:
            entries: the commits of the log, oldest first, up to the newest.

        Raises:
            CheckpointCorrupt: a kept manifest is damaged; nothing was removed.
            StoreError: the store failed; what is left can be pruned later.
        """
        if not entries:
            return 0
        removal = self.plan(entries)
        own = entries[-1].attempt
        kept = {entry.manifest for entry in removal.kept}
        needed = {blob.key for entry in removal.kept for blob in self._blobs[entry.manifest]}
        manifests = [key for key in self._store.list(MANIFEST_PREFIX) if _is_of(key, own) and key not in kept]
        named = set(removal.blobs)
        # Of its own attempt only what a removed manifest names: others may belong to a save that is under way.
        blobs = [
            key
            for key in self._store.list(BLOB_PREFIX)
            if _is_of(key, own) and key not in needed and (attempt_of(key) != own or key in named)
        ]
        for key in (*manifests, *blobs):
            self._store.delete(key)
        return len(manifests) + len(blobs)

    def plan(self, entries: Sequence[CommitEntry]) -> Removal:
        """What anybody may remove, beside a running job too; removes nothing.

        Raises:
            CheckpointCorrupt: a kept manifest is damaged, or the newest is gone: then nothing may be removed.
            StoreError: the store failed.
        """
        names = set(self._store.list(MANIFEST_PREFIX))
        there = [entry for entry in entries if entry.manifest in names]  # the others were pruned before
        if not there or there[-1] is not entries[-1]:
            missing = "it is missing, though it is the newest, so nothing is pruned"
            raise CheckpointCorrupt(entries[-1].manifest, missing)
        chosen = {entry.seq for entry in self._choice(there)} | {entries[-1].seq}
        kept = tuple(entry for entry in there if entry.seq in chosen)
        removed = tuple(entry for entry in there if entry.seq not in chosen)
        self._learn(kept)
        needed = {blob.key for entry in kept for blob in self._blobs[entry.manifest]}
        gone = {blob.key: blob.size for entry in removed for blob in self._of_removed(entry) if blob.key not in needed}
        return Removal(
            kept=kept,
            removed=removed,
            manifests=tuple(entry.manifest for entry in removed),
            blobs=tuple(gone),
            size=sum(gone.values()),
        )

    def _learn(self, kept: Sequence[CommitEntry]) -> None:
        unknown = [entry for entry in kept if entry.manifest not in self._blobs]
        read = in_parallel(
            lambda place: read_manifest(self._store, unknown[place]).blobs,
            len(unknown),
            threads=readers_of(self._store, _READERS),
        )
        known = {entry.manifest for entry in kept}
        self._blobs = {key: blobs for key, blobs in self._blobs.items() if key in known}
        self._blobs |= {entry.manifest: blobs for entry, blobs in zip(unknown, read, strict=True)}

    def _of_removed(self, entry: CommitEntry) -> tuple[BlobRef, ...]:
        try:
            return read_manifest(self._store, entry).blobs
        except CheckpointCorrupt:
            return ()  # its blobs are left over; a later attempt's prune, or gc, finds them


def prune(store: BlobStore, entries: Sequence[CommitEntry], keep: int) -> int:
    """Removes all but the last `keep` commits that are still there: see `Pruner.prune`."""
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    return Pruner(store, lambda there: there[-keep:]).prune(entries)


def remove(store: BlobStore, keys: Sequence[str], *, told: Callable[[int], None] | None = None) -> None:
    """Removes these objects in this order; `told` is given the number of each one done.

    Raises:
        StoreError: the store failed; the rest is still there.
    """
    for number, key in enumerate(keys, 1):
        store.delete(key)
        if told is not None:
            told(number)


def _is_of(key: str, newest: int) -> bool:
    attempt = attempt_of(key)
    return attempt is not None and attempt <= newest
