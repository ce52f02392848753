"""Are two runs the same run? Losses compared step by step, states byte by byte; no tolerance anywhere.

A loss curve alone is no witness: batch-norm statistics and averaged weights can differ while every loss agrees. So the
final states are compared whole: model, optimizer, and everything else the checkpoint holds but the clock.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spotrun.store import BlobRef, Manifest, read_blob

if TYPE_CHECKING:
    from spotrun.store import BlobStore

__all__ = ["LossVerdict", "StateVerdict", "compare_losses", "compare_states"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossVerdict:
    """Outcome of comparing losses.

    Attributes:
        steps: how many steps both runs have.
        recomputed: how many losses were computed again after an interruption; they are compared as well.
        missing: steps that one run has and the other has not.
        first_difference: the first step whose losses differ in any bit, with both losses.
    """

    steps: int
    recomputed: int
    missing: tuple[int, ...]
    first_difference: tuple[int, float, float] | None

    @property
    def same(self) -> bool:
        """Whether every loss agrees bit for bit and none is missing."""
        return not self.missing and self.first_difference is None and self.steps > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StateVerdict:
    """Outcome of comparing two states: tensors and numbers compared, and the names of those that differ."""

    tensors: int
    elements: int
    differing: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every tensor agrees bit for bit."""
        return not self.differing and self.tensors > 0


def compare_losses(reference: Mapping[int, float], losses: Iterable[tuple[int, float]]) -> LossVerdict:
    """Compares every loss of an interrupted run, recomputed ones included, with the uninterrupted run's.

    Args:
        reference: step -> loss of the uninterrupted run.
        losses: (step, loss) of the interrupted run in the order they were computed; a step may come more than once.
    """
    seen: dict[int, int] = {}
    difference: tuple[int, float, float] | None = None
    for step, loss in losses:
        seen[step] = seen.get(step, 0) + 1
        expected = reference.get(step)
        if expected is not None and _bits(expected) != _bits(loss) and (difference is None or step < difference[0]):
            difference = (step, expected, loss)
    missing = tuple(sorted(set(reference) ^ set(seen)))
    recomputed = sum(times - 1 for times in seen.values())
    return LossVerdict(
        steps=len(set(reference) & set(seen)), recomputed=recomputed, missing=missing, first_difference=difference
    )


def compare_states(
    left: tuple[BlobStore, Manifest], right: tuple[BlobStore, Manifest], *, prefix: str = ""
) -> StateVerdict:
    """Compares the tensors of two checkpoints whose name starts with `prefix`, byte by byte, with dtype and shape.

    Raises:
        CheckpointCorrupt: a blob does not match its digest.
        StoreError: a blob cannot be read.
    """
    left_reader, right_reader = _Reader(*left), _Reader(*right)
    names = sorted(name for name in set(left[1].tensors) | set(right[1].tensors) if name.startswith(prefix))
    differing = []
    elements = 0
    for name in names:
        ours, theirs = left[1].tensors.get(name), right[1].tensors.get(name)
        if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            differing.append(name)
            continue
        count = 1
        for size in ours.shape:
            count *= size
        elements += count
        if left_reader.tensor(name) != right_reader.tensor(name):
            differing.append(name)
    return StateVerdict(tensors=len(names), elements=elements, differing=tuple(differing))


class _Reader:
    """Tensor bytes of one checkpoint; holds one blob at a time."""

    def __init__(self, store: BlobStore, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self._held: tuple[BlobRef, bytes] | None = None

    def tensor(self, name: str) -> bytes:
        place = self._manifest.tensors[name]
        blob = self._manifest.blobs[place.blob]
        if self._held is None or self._held[0] != blob:
            self._held = (blob, read_blob(self._store, blob))
        return self._held[1][place.start : place.end]


def _bits(value: float) -> bytes:
    # NaN differs from itself and 0.0 equals -0.0 as numbers; as bytes neither happens.
    return struct.pack("<d", value)
