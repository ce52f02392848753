"""A state in a store, laid out by a few lines of its own: readers must not depend on how the saver packs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spotrun.checkpoint.tensor import dtype_name
from spotrun.checkpoint.tree import flatten
from spotrun.clock import SystemClock
from spotrun.store import BlobRef, BlobStore, CommitEntry, Lineage, Manifest, TensorRef, write_blob


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def blobs_of(
    tensors: Mapping[str, torch.Tensor], *, limit: int = 100, rows: int = 10**9
) -> tuple[list[bytes], dict[str, TensorRef]]:
    """Blobs of about `limit` bytes with a header and bytes between tensors; tensors are cut after every `rows` rows."""
    contents: list[bytearray] = []
    refs: dict[str, TensorRef] = {}
    for name, tensor in tensors.items():
        rows_there = tensor.shape[0] if tensor.ndim else 0
        boxed = tensor.ndim > 0 and rows_there > rows
        for number, at in enumerate(range(0, rows_there, rows)) if boxed else [(0, 0)]:
            part = tensor[at : at + rows] if boxed else tensor
            if not contents or len(contents[-1]) > limit:
                contents.append(bytearray(b"header.."))
            content = contents[-1]
            start = len(content)
            content += raw(part)
            box: dict[str, Any] = {}
            if boxed:
                box = {"of": name, "whole": tuple(tensor.shape), "offset": (at, *(0,) * (tensor.ndim - 1))}
            refs[f"{name}#{number}" if boxed else name] = TensorRef(
                blob=len(contents) - 1, dtype=dtype_name(part.dtype), shape=tuple(part.shape), start=start,
                end=len(content), **box,
            )  # fmt: skip
            content += b"gap"
    return [bytes(content) for content in contents], refs


class Shelf:
    """A run's commits in a store, made without the saver."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.lineage = Lineage(store, attempt=1, writer="w", clock=SystemClock())
        self.lineage.claim()
        self._known: dict[str, BlobRef] = {}

    def commit(self, step: int, tree: Mapping[str, Any], **layout: int) -> CommitEntry:
        """Commits a state as the newest."""
        flat = flatten({"position": {}, "states": {}, "values": {}, "randomness": {}, "generators": {}, **tree})
        contents, refs = blobs_of(flat.tensors, **layout)
        blobs = [write_blob(self.store, 1, [content], known=self._known) for content in contents]
        self._known = {blob.digest: blob for blob in blobs}
        return self.lineage.commit(
            Manifest(
                job="j", attempt=1, writer="w", step=step, captured_at=SystemClock().now(), blobs=tuple(blobs),
                tensors=refs, state=flat.document,
            )
        )  # fmt: skip
