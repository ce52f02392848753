"""Blobs and manifests as the lineage stores them: verified after writing, and again on every reading.

No transport is trusted with integrity: ranged reads are not checked by S3's clients, and files are checked by nobody.
What is found damaged is read once more before anyone falls back to an older checkpoint because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from blake3 import blake3

from spotrun.errors import CheckpointCorrupt, StoreMissing
from spotrun.store.blob import BlobStore
from spotrun.store.digest import Part, digest_of, size_of, views_of
from spotrun.store.key import blob_key
from spotrun.store.log import CommitEntry
from spotrun.store.manifest import MANIFEST_BYTES_MAX, BlobRef, Manifest, decode_manifest

__all__ = ["read_blob", "read_manifest", "verify", "write_blob"]

_T = TypeVar("_T")

_CHUNK_BYTES = 64 << 20  # memory that `verify` takes


def write_blob(
    store: BlobStore, attempt: int, parts: Sequence[Part], *, known: Mapping[str, BlobRef] | None = None
) -> BlobRef:
    """Stores the concatenation of `parts` as a blob of this attempt and checks that it arrived whole.

    Writing the same bytes again makes another blob. The parts must not change while this runs.

    Args:
        known: blobs by digest that need not be stored again; then the one of them is given.

    Raises:
        CheckpointCorrupt: what the store holds afterwards is shorter, longer or ends differently.
        StoreError: the store failed.
    """
    hashed = blake3(max_threads=1)  # the other cores train, or hash another blob
    for view in views_of(parts):
        hashed.update(view)
    size, digest = size_of(parts), hashed.hexdigest()
    if known and digest in known:
        return known[digest]
    ref = BlobRef(key=blob_key(attempt, digest), size=size, digest=digest)
    store.write(ref.key, parts)
    views = views_of(parts)
    end = views[-1][-1:].tobytes() if views else b""
    if store.read(ref.key, max(size - 1, 0), size + 1) != end:
        raise CheckpointCorrupt(ref.key, f"the store does not hold the {size} bytes that it took")
    return ref


def read_blob(store: BlobStore, ref: BlobRef) -> bytes:
    """All bytes of a blob.

    Raises:
        CheckpointCorrupt: it is missing, or its bytes differ from its digest, also at a second look.
        StoreError: the store failed.
    """
    return _twice(lambda: _read_whole(store, ref.key, ref.size, ref.digest))


def read_manifest(store: BlobStore, entry: CommitEntry) -> Manifest:
    """The manifest of a commit.

    Raises:
        CheckpointCorrupt: it is missing, differs from its digest, is malformed, or is of another step or attempt.
        StoreError: the store failed.
    """
    if entry.manifest_size > MANIFEST_BYTES_MAX:
        raise CheckpointCorrupt(entry.manifest, f"{entry.manifest_size} bytes are more than a manifest may have")
    data = _twice(lambda: _read_whole(store, entry.manifest, entry.manifest_size, entry.digest))
    manifest = decode_manifest(entry.manifest, data)
    if (manifest.step, manifest.attempt) != (entry.step, entry.attempt):
        raise CheckpointCorrupt(
            entry.manifest,
            f"it is of step {manifest.step} of attempt {manifest.attempt}, but the log says step {entry.step} of "
            f"attempt {entry.attempt}",
        )
    return manifest


def verify(store: BlobStore, entry: CommitEntry) -> Manifest:
    """The manifest of a commit, once every byte of every blob has been read and found right.

    Takes bounded memory, whatever the size of the blobs.

    Raises:
        CheckpointCorrupt: the first thing found damaged or missing.
        StoreError: the store failed.
    """
    manifest = read_manifest(store, entry)
    for ref in manifest.blobs:
        _twice(lambda ref=ref: _verify_blob(store, ref))  # type: ignore[misc]
    return manifest


def _twice(read: Callable[[], _T]) -> _T:
    """What `read` gives, at the second try if the first finds damage: it may have happened on the way, not at rest."""
    try:
        return read()
    except CheckpointCorrupt:
        return read()


def _verify_blob(store: BlobStore, ref: BlobRef) -> None:
    digest = blake3(max_threads=blake3.AUTO)
    for start in range(0, max(ref.size, 1), _CHUNK_BYTES):
        end = min(start + _CHUNK_BYTES, ref.size)
        digest.update(_read(store, ref.key, end - start, start=start, last=end == ref.size))
    if digest.hexdigest() != ref.digest:
        raise CheckpointCorrupt(ref.key, "its bytes differ from its digest")


def _read_whole(store: BlobStore, key: str, size: int, digest: str) -> bytes:
    data = _read(store, key, size)
    if digest_of([data]) != digest:
        raise CheckpointCorrupt(key, "its bytes differ from its digest")
    return data


def _read(store: BlobStore, key: str, size: int, *, start: int = 0, last: bool = True) -> bytes:
    """Exactly `size` bytes from `start` on, after which there must be nothing if this is the `last` of the object."""
    try:
        data = store.read(key, start, start + size + last)
    except StoreMissing:
        raise CheckpointCorrupt(key, "it is missing") from None
    if len(data) != size:
        more = "more" if len(data) > size else f"only {len(data)}"
        raise CheckpointCorrupt(key, f"it should have {size} bytes from byte {start} on, but has {more}")
    return data
