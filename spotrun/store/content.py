"""Blobs and manifests as the lineage stores them: verified after writing, and again on every reading.

No transport is trusted with integrity: ranged reads are not checked by S3's clients, and files are checked by nobody.
What is found damaged is read once more before anyone falls back to an older checkpoint because of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from blake3 import blake3

from spotrun.errors import CheckpointCorrupt, StoreMissing
from spotrun.store.blob import BlobStore
from spotrun.store.digest import Part, digest_of, size_of, views_of
from spotrun.store.key import blob_key
from spotrun.store.log import CommitEntry
from spotrun.store.manifest import MANIFEST_BYTES_MAX, BlobRef, Manifest, decode_manifest

__all__ = ["fill_blob", "read_blob", "read_manifest", "verify", "write_blob"]

_T = TypeVar("_T")

_CHUNK_BYTES = 8 << 20  # memory that each thread of `verify` takes
_VERIFY_THREADS = 4  # one hashes while the others wait for bytes


def write_blob(
    store: BlobStore,
    attempt: int,
    parts: Sequence[Part],
    *,
    known: Mapping[str, BlobRef] | None = None,
    digest: str | None = None,
) -> BlobRef:
    """Stores the concatenation of `parts` as a blob of this attempt and checks that it arrived whole.

    Writing the same bytes again makes another blob. The parts must not change while this runs. Stores that confirm what
    they took (`vouches`) are believed; of others the end of the object is read back.

    Args:
        known: blobs by digest that need not be stored again; then the one of them is given.
        digest: of the parts, if the caller has computed it.

    Raises:
        CheckpointCorrupt: what the store holds afterwards is shorter, longer or ends differently.
        StoreError: the store failed.
    """
    size = size_of(parts)
    if digest is None:
        digest = digest_of(parts, threads=1)  # the other cores train, or hash another blob
    if known and digest in known:
        return known[digest]
    ref = BlobRef(key=blob_key(attempt, digest), size=size, digest=digest)
    store.write(ref.key, parts)
    if getattr(store, "vouches", False):
        return ref
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


def fill_blob(store: BlobStore, ref: BlobRef, requests: Callable[[], Iterator[Sequence[memoryview]]]) -> None:
    """Reads a blob into memory of the caller, and finds its bytes right before it returns.

    Args:
        requests: gives, from the blob's first byte to its last, the writable memory for one request after the other. When
            it is asked for the next, the bytes of the one before are there, but not yet known to be right. It is called
            again for a second look if they were not.

    Raises:
        CheckpointCorrupt: it is missing, or its bytes differ from its digest, also at a second look.
        StoreError: the store failed.
    """
    _twice(lambda: _fill(store, ref, requests))


def verify(store: BlobStore, entry: CommitEntry, *, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    """The manifest of a commit, once every byte of every blob has been read and found right.

    Takes bounded memory, whatever the size of the blobs, and reads several at a time.

    Args:
        on_progress: is told how many bytes have been read, of how many; from several threads, one at a time.

    Raises:
        CheckpointCorrupt: something is damaged or missing: the first blob, in the manifest's order, that is.
        StoreError: the store failed.
    """
    manifest = read_manifest(store, entry)
    lock, done, total = threading.Lock(), [0], manifest.size

    def advance(size: int) -> None:
        with lock:
            done[0] += size
            if on_progress is not None:
                on_progress(done[0], total)

    with ThreadPoolExecutor(min(_VERIFY_THREADS, max(len(manifest.blobs), 1)), "spotrun-verify") as pool:
        tasks = [pool.submit(_verify_blob, store, ref, advance) for ref in manifest.blobs]
        try:
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
    return manifest


def _twice(read: Callable[[], _T]) -> _T:
    """What `read` gives, at the second try if the first finds damage: it may have happened on the way, not at rest."""
    try:
        return read()
    except CheckpointCorrupt:
        return read()


def _verify_blob(store: BlobStore, ref: BlobRef, advance: Callable[[int], None]) -> None:
    memory = memoryview(bytearray(min(_CHUNK_BYTES, ref.size)))
    told = 0  # a second look reads again what was counted before

    def requests() -> Iterator[Sequence[memoryview]]:
        nonlocal told
        for start in range(0, ref.size, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, ref.size)
            yield [memory[: end - start]]
            if end > told:
                advance(end - told)
                told = end

    fill_blob(store, ref, requests)


def _fill(store: BlobStore, ref: BlobRef, requests: Callable[[], Iterator[Sequence[memoryview]]]) -> None:
    digest = blake3(max_threads=1)  # other threads read and hash other blobs
    end = 0
    beyond = memoryview(bytearray(1))  # there must be nothing behind the last byte
    try:
        for memories in requests():
            start, end = end, end + size_of(memories)
            assert end <= ref.size, "more memory than the blob has bytes"
            asked = [*memories, beyond] if end == ref.size else memories
            filled = store.read_into(ref.key, start, asked)
            if filled != end - start:
                raise _wrong_size(ref.key, ref.size, start + filled)
            for memory in memories:
                digest.update(memory)
        assert end == ref.size, "less memory than the blob has bytes"
        if ref.size == 0 and store.read_into(ref.key, 0, [beyond]):
            raise _wrong_size(ref.key, 0, 1)
    except StoreMissing:
        raise CheckpointCorrupt(ref.key, "it is missing") from None
    if digest.hexdigest() != ref.digest:
        raise CheckpointCorrupt(ref.key, "its bytes differ from its digest")


def _wrong_size(key: str, size: int, found: int) -> CheckpointCorrupt:
    more = "more" if found > size else f"only {found}"
    return CheckpointCorrupt(key, f"it should have {size} bytes, but has {more}")


def _read_whole(store: BlobStore, key: str, size: int, digest: str) -> bytes:
    data = bytes(_read(store, key, size))
    if digest_of([data]) != digest:
        raise CheckpointCorrupt(key, "its bytes differ from its digest")
    return data


def _read(store: BlobStore, key: str, size: int) -> memoryview:
    """Exactly `size` bytes, which must be all of the object."""
    try:
        if size > MANIFEST_BYTES_MAX:  # no memory is taken for it before it is there
            data = memoryview(store.read(key, 0, size + 1))
        else:
            memory = memoryview(bytearray(size + 1))
            data = memory[: store.read_into(key, 0, [memory])]
    except StoreMissing:
        raise CheckpointCorrupt(key, "it is missing") from None
    if len(data) != size:
        raise _wrong_size(key, size, len(data))
    return data
