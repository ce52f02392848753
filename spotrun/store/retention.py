"""Removing what no kept commit needs.

Why a zombie's prune is harmless. A writer prunes only after its own commit was acknowledged, so at that moment it
held the run and that commit was the newest; it keeps that commit and touches nothing of attempts newer than its own.
A later attempt's checkpoints consist of its own blobs and of blobs taken over from *the commit before it in the log*
(the only ones that may be taken over without a new upload). The first such commit is at or after the one the zombie
keeps. So whenever its deletions arrive, they never hit a blob that a later commit needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from spotrun.errors import CheckpointCorrupt
from spotrun.store.blob import BlobStore
from spotrun.store.content import read_manifest
from spotrun.store.key import MANIFEST_PREFIX, attempt_of
from spotrun.store.log import CommitEntry
from spotrun.store.manifest import BlobRef

__all__ = ["prune"]


def prune(store: BlobStore, entries: Sequence[CommitEntry], keep: int) -> int:
    """Removes all but the last `keep` commits that are still there, and returns how many objects it removed.

    Manifests go first, then the blobs that no kept manifest names. Blobs of the newest commit's own attempt go only if
    a removed manifest names them, because others may belong to a save that is under way. If a kept manifest cannot be
    read, nothing is removed. Call it only after an acknowledged commit, from the writer that made it, and not while
    that writer is committing.

    Args:
        entries: the commits of the log, oldest first, up to the newest.
        keep: how many to keep, at least 1.

    Raises:
        CheckpointCorrupt: a kept manifest is damaged; nothing was removed.
        StoreError: the store failed; what is left can be pruned later.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    if not entries:
        return 0
    listed = store.list(MANIFEST_PREFIX)
    names = set(listed)
    there = [entry for entry in entries if entry.manifest in names]  # the others were pruned before
    if not there or there[-1] is not entries[-1]:
        raise CheckpointCorrupt(entries[-1].manifest, "it is missing, though it is the newest, so nothing is pruned")
    kept, old = there[-keep:], there[:-keep]
    own = entries[-1].attempt
    needed = {blob.key for entry in kept for blob in read_manifest(store, entry).blobs}
    named = {blob.key for entry in old if entry.attempt == own for blob in _blobs_of(store, entry)}
    manifests = [
        key for key in store.list(MANIFEST_PREFIX) if _is_of(key, own) and key not in {entry.manifest for entry in kept}
    ]
    blobs = [
        key
        for key in store.list("blobs/")
        if _is_of(key, own) and key not in needed and (attempt_of(key) != own or key in named)
    ]
    for key in [*manifests, *blobs]:
        store.delete(key)
    return len(manifests) + len(blobs)


def _blobs_of(store: BlobStore, entry: CommitEntry) -> tuple[BlobRef, ...]:
    try:
        return read_manifest(store, entry).blobs
    except CheckpointCorrupt:
        return ()  # its blobs go once a newer attempt prunes


def _is_of(key: str, newest: int) -> bool:
    attempt = attempt_of(key)
    return attempt is not None and attempt <= newest
