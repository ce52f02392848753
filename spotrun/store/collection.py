"""Orphans: objects of failed saves and lost attempts, which no commit will ever need. Finding them beside a running job.

An attempt that is older than the newest claim is fenced: whatever it still writes, its commits no longer count. So its
objects are orphans unless a manifest in the store names them. Objects of the newest attempt may belong to a save that
is under way: nobody but its writer knows. They are orphans only if the store says that they are older than a grace
time, longer than any save takes. The log's own times would not do: they are job time, which may run faster than wall
time, and the last entry may be old while a save is being written. A store that cannot tell ages keeps them.

If any entry of the log cannot be read, it may be a commit, and its manifest looks like an orphan: then nothing is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store.blob import BlobStore
from spotrun.store.content import read_manifest
from spotrun.store.key import BLOB_PREFIX, MANIFEST_PREFIX, attempt_of
from spotrun.store.log import CommitEntry, DamagedEntry, Entry, read_log

__all__ = ["Dated", "Orphans", "find_orphans", "modified"]


@runtime_checkable
class Dated(Protocol):
    """A store that knows when its objects were written."""

    def modified(self, prefix: str) -> Mapping[str, datetime]:
        """When each object whose key starts with `prefix` was written, by wall time, aware."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orphans:
    """What may go.

    Attributes:
        keys: in the order in which to remove them.
        young: how many unneeded objects are of the newest attempt and younger than the grace time, or of unknown age.
    """

    keys: tuple[str, ...]
    young: int


def find_orphans(store: BlobStore, log: tuple[Entry, ...], *, now: datetime, grace: timedelta) -> Orphans:
    """What no commit needs and none ever will; removes nothing.

    Args:
        log: the whole log.
        now: wall time.
        grace: how old an object of the newest attempt must be.

    Raises:
        CheckpointError: an entry of the log or a manifest cannot be read, so nobody knows what is needed.
        StoreError: the store failed.
    """
    ages = modified(store, BLOB_PREFIX) | modified(store, MANIFEST_PREFIX)
    manifests, blobs = store.list(MANIFEST_PREFIX), store.list(BLOB_PREFIX)
    # The log is read after the listings: what was committed meanwhile is in it.
    log = (*log, *read_log(store)[len(log) :])
    for entry in log:
        if isinstance(entry, DamagedEntry):
            raise CheckpointError(
                f"{entry.error}. It may be a commit that needs any of these objects, so none is removed"
            )
    commits = [entry for entry in log if isinstance(entry, CommitEntry)]
    newest = max((entry.attempt for entry in log if not isinstance(entry, DamagedEntry)), default=0)
    needed = {entry.manifest for entry in commits}
    there = set(manifests)
    for entry in commits:
        if entry.manifest in there:
            needed |= _blobs_of(store, entry)
    keys, young = [], 0
    for key in (*manifests, *blobs):
        attempt = attempt_of(key)
        if key in needed or attempt is None or attempt > newest:
            continue
        if attempt < newest or ((at := ages.get(key)) is not None and now - at > grace):
            keys.append(key)
        else:
            young += 1
    return Orphans(keys=tuple(keys), young=young)


def modified(store: object, prefix: str) -> dict[str, datetime]:
    """When objects were written, as far as the store, or the one inside of it, can tell."""
    while store is not None:
        if isinstance(store, Dated):
            return dict(store.modified(prefix))
        store = getattr(store, "inner", None)
    return {}


def _blobs_of(store: BlobStore, entry: CommitEntry) -> set[str]:
    try:
        return {blob.key for blob in read_manifest(store, entry).blobs}
    except CheckpointCorrupt as err:
        raise CheckpointError(
            f"{err}. Nobody knows which blobs it needs, so nothing is removed; `spotrun checkpoints prune` removes a "
            "damaged commit once newer ones are kept"
        ) from None
