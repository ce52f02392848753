"""Reading the newest commit that is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from spotrun.checkpoint.tensor import view_bytes
from spotrun.checkpoint.tree import unflatten
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store import BlobRef, BlobStore, CommitEntry, Manifest, read_blob, read_manifest

__all__ = ["Restored", "newest_whole"]


@dataclass(frozen=True, slots=True)
class Restored:
    """A commit in memory.

    Attributes:
        tree: the state as it was captured.
        damaged: what was found damaged on the way to it, newest first.
    """

    entry: CommitEntry
    manifest: Manifest
    tree: Mapping[str, Any]
    damaged: tuple[CheckpointCorrupt, ...]

    @property
    def blobs(self) -> dict[str, BlobRef]:
        """Its blobs by digest; each was read and found right."""
        return {blob.digest: blob for blob in self.manifest.blobs}

    def without_tensors(self) -> Restored:
        """What the loop still needs once models and optimizers are loaded; the rest is memory."""
        return replace(self, tree={name: self.tree[name] for name in ("position", "randomness", "generators")})


def newest_whole(store: BlobStore, commits: Sequence[CommitEntry]) -> Restored | None:
    """The newest commit of which every byte is right; None if there never was a commit.

    Raises:
        CheckpointError: there are commits, but none of them can be read.
        StoreError: the store failed.
    """
    damaged: list[CheckpointCorrupt] = []
    for entry in reversed(commits):
        try:
            manifest = read_manifest(store, entry)
            tree = _read_tree(store, manifest)
        except CheckpointCorrupt as err:
            damaged.append(err)
            if len(damaged) > 1 and "missing" in err.reason and err.key == entry.manifest:
                damaged.pop()  # pruned long ago
            continue
        return Restored(entry, manifest, tree, tuple(damaged))
    if not damaged:
        return None
    raise CheckpointError(
        f"none of the {len(commits)} commits of this run can be read, and starting again from nothing is not for "
        "spotrun to decide. To do so, give the run another name or delete its checkpoints. What was found:\n  "
        + "\n  ".join(str(err) for err in damaged)
    )


def _read_tree(store: BlobStore, manifest: Manifest) -> Mapping[str, Any]:
    tensors: dict[str, torch.Tensor] = {}
    for number, blob in enumerate(manifest.blobs):
        memory = torch.frombuffer(bytearray(read_blob(store, blob)), dtype=torch.uint8)
        for name, ref in manifest.tensors.items():
            if ref.blob == number:
                tensors[name] = view_bytes(
                    memory, start=ref.start, dtype=ref.dtype, shape=ref.shape, key=blob.key
                ).clone()
    tree = unflatten(manifest.state, tensors.__getitem__)
    if not isinstance(tree, dict):
        raise CheckpointCorrupt("manifest", "its state is not a training's")
    return tree
