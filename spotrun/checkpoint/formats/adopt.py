"""Weights from elsewhere as the first commit of a run, which `attach` then starts from.

Such a commit says `imported`: it holds a model's weights and nothing else. Whoever resumes from it loads them, and
begins everything else afresh: see `spotrun.checkpoint.imported`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version

import torch

from spotrun.checkpoint.pack import Layout, lay_out
from spotrun.checkpoint.state import group_of
from spotrun.checkpoint.tree import flatten
from spotrun.errors import SpecError
from spotrun.store import BlobStore, ClaimEntry, CommitEntry, Lineage, Manifest, read_log, write_blob

__all__ = ["adopt"]


def adopt(
    store: BlobStore,
    lineage: Lineage,
    weights: Mapping[str, torch.Tensor],
    *,
    run: str,
    form: str,
    model: str = "model",
) -> CommitEntry:
    """Commits weights as step 0 of a run that has no entry in its log yet.

    Args:
        lineage: not claimed yet.
        run: the run's name.
        form: what they came as, for people.
        model: the name that the model will have in `attach`.

    Raises:
        SpecError: the run has begun.
        StoreError: the store failed; nothing is committed.
    """
    if read_log(store):
        raise SpecError(f"{run} has begun: an import makes the first commit of a run; give it another name")
    tree = {
        "imported": {"format": form},
        "frozen": {model: {}},
        "models": {model: {"parameters": dict(weights), "buffers": {}, "extra": {}, "evaluating": []}},
    }
    flat = flatten(tree)
    layouts = lay_out(flat.tensors, group_of)
    lineage.claim()
    (claim,) = lineage.log
    assert isinstance(claim, ClaimEntry)
    assert lineage.attempt is not None
    blobs = tuple(write_blob(store, lineage.attempt, _parts(layout, flat.tensors)) for layout in layouts)
    tensors = {
        slot.name: replace(slot.ref, blob=number) for number, layout in enumerate(layouts) for slot in layout.slots
    }
    return lineage.commit(
        Manifest(
            job=run,
            attempt=lineage.attempt,
            writer=lineage.writer,
            step=0,
            captured_at=claim.at,
            blobs=blobs,
            tensors=tensors,
            state=flat.document,
            spotrun_version=version("spotrun"),
        )
    )


def _parts(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    """The blob's bytes: straight from the memory of the tensors, which may be a file's."""
    parts: list[bytes | memoryview] = [layout.header]
    for slot in layout.slots:
        flat = tensors[slot.tensor].detach().contiguous().reshape(-1)
        if flat.numel():
            data = flat.view(torch.uint8)[slot.skip : slot.skip + slot.end - slot.start]
            parts.append(data.numpy().data)
    return parts
