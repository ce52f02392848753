"""Reading the newest commit that is whole."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from spotrun.checkpoint.parallel import in_parallel
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
    memory = _read_blobs(store, manifest.blobs)
    tensors: dict[str, torch.Tensor] = {}
    for name, ref in manifest.tensors.items():
        key = manifest.blobs[ref.blob].key
        view = view_bytes(memory[ref.blob], start=ref.start, dtype=ref.dtype, shape=ref.shape, key=key)
        tensors[name] = view if _is_copied_by_load(name) else view.clone()
    tree = unflatten(manifest.state, tensors.__getitem__)
    if not isinstance(tree, dict):
        raise CheckpointCorrupt("manifest", "its state is not a training's")
    return tree


def _read_blobs(store: BlobStore, blobs: Sequence[BlobRef]) -> list[torch.Tensor]:
    """The bytes of each, all found right; nothing is loaded before that is known of every one."""
    contents = in_parallel(lambda number: read_blob(store, blobs[number]), len(blobs))
    with warnings.catch_warnings():
        # Memory that Python holds to be constant, but nobody else has it, and nothing lies in it for longer than loading
        # takes: see `_is_copied_by_load`.
        warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
        return [torch.frombuffer(content or b"\0", dtype=torch.uint8)[: len(content)] for content in contents]


def _is_copied_by_load(name: str) -> bool:
    """Whether loading copies this tensor to where it belongs. Any other may be kept by whoever is given it."""
    kind = name.partition(".")[0]
    if kind in ("frozen", "models", "gradients"):
        return ".extra." not in name
    return kind == "optimizers" and ".state." in name and ".shared." not in name
