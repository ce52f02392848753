"""A small training run's checkpoints, for the tests of the store."""

from __future__ import annotations

import struct
from datetime import datetime, timezone

from spotrun.clock import SystemClock
from spotrun.store import BlobRef, BlobStore, CommitEntry, Lineage, Manifest, TensorRef, read_manifest, write_blob

AT = datetime(2026, 1, 1, 12, 30, tzinfo=timezone.utc)


def begin(store: BlobStore, *, attempt: int | None = None, writer: str = "w") -> Lineage:
    """A lineage, not yet claimed."""
    return Lineage(store, attempt=attempt, writer=writer, clock=SystemClock())


def manifest_of(lineage: Lineage, step: int, blobs: tuple[BlobRef, ...] = ()) -> Manifest:
    """A manifest with one tensor in each blob."""
    return Manifest(
        job="gpt-small-1",
        attempt=lineage.attempt or 1,
        writer=lineage.writer,
        step=step,
        captured_at=AT,
        blobs=blobs,
        tensors={
            f"weight.{number}": TensorRef(blob=number, dtype="uint8", shape=(blob.size,), start=0, end=blob.size)
            for number, blob in enumerate(blobs)
        },
        state={"step": step, "loss": [1.5, float("inf")], "name": "ü"},
        fingerprint={"torch": "2.6"},
        spotrun_version="0.1.0",
    )


def save(store: BlobStore, lineage: Lineage, step: int, *, take_over: bool = True) -> CommitEntry:
    """Commits a step: a blob that changes with it, and one that was there before, as a frozen layer is."""
    assert lineage.attempt is not None
    moving = write_blob(store, lineage.attempt, [struct.pack("<q", step) * 20, memoryview(b"tail")])
    frozen = None
    if take_over and lineage.commits:
        frozen = _frozen_of(store, lineage.commits[-1])
    if frozen is None:
        frozen = write_blob(store, lineage.attempt, [b"frozen" * 10])
    return lineage.commit(manifest_of(lineage, step, (moving, frozen)))


def _frozen_of(store: BlobStore, entry: CommitEntry) -> BlobRef | None:
    return read_manifest(store, entry).blobs[1]
