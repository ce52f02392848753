"""The host memory in which a snapshot waits to be written.

It is kept from save to save: copying into memory that is already there is several times faster than into fresh memory,
whose pages the kernel must first hand out. And it knows what it holds: the snapshot before. A tensor that has not
changed since is compared instead of copied, and a blob of such tensors keeps its digest.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping
from types import MappingProxyType

import torch

from spotrun.checkpoint.address import WORD_BYTES, copy, same
from spotrun.checkpoint.copying import Later
from spotrun.checkpoint.pack import Plan, Slot
from spotrun.checkpoint.tensor import view_bytes

__all__ = ["Staging"]

_PAGE = 2 << 20  # what a huge page takes: in these, memory is handed out several times faster
_NONE: Mapping[str, int] = MappingProxyType({})


class Staging:
    """Host memory for one snapshot. Not thread-safe: whoever reads `parts` must be done before the next `fill`."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._memory: mmap.mmap | None = None
        self._arena: torch.Tensor | None = None
        self._base = 0
        self._digests: list[str | None] = []

    @property
    def size(self) -> int:
        """Bytes of memory that it holds."""
        return self._arena.numel() if self._arena is not None else 0

    def reserve(self, size: int) -> None:
        """Takes memory for snapshots of this size and makes the kernel hand it out, so that the first save is fast."""
        self._take(size)
        assert self._arena is not None
        self._arena.zero_()

    def fill(
        self, plan: Plan, tensors: Mapping[str, torch.Tensor], *, steady: Mapping[str, int] = _NONE
    ) -> list[Later]:
        """Copies the tensors, from any device, into host memory; returns when all of it is there but what may follow.

        Args:
            steady: tensors that may be copied later, with their addresses.

        Returns:
            What is still to be copied, in the order of the blobs.
        """
        if plan is not self._plan:
            self._place(plan)
        later: list[Later] = []
        others: set[int] = set()  # memory that is copied now: nothing that shares it may be copied later
        for number, slot in plan.slots:
            tensor = tensors[slot.tensor]
            target, size = self._base + plan.starts[number] + slot.start, slot.end - slot.start
            source = steady.get(slot.tensor)
            if source is not None and target % WORD_BYTES == 0:
                later.append(
                    Later(slot.tensor, number, tensor, target, source + slot.skip, slot.skip, size, tensor._version)
                )
                continue
            if tensor.is_cpu:
                others.add(tensor.untyped_storage().data_ptr())
            if tensor.is_cpu and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
                self.update(number, target, tensor.data_ptr() + slot.skip, size)
            else:
                self._convert(number, slot, tensor)
        return later if others.isdisjoint(item.storage for item in later) else self._unshared(later, others)

    def update(self, blob: int, target: int, source: int, size: int) -> None:
        """Copies some bytes into a blob, unless they are there already; for any thread."""
        if self._digests[blob] is None or not same(target, source, size):
            self._digests[blob] = None
            copy(target, source, size)

    def digest(self, blob: int) -> str | None:
        """The digest that was noted for a blob, if it has not changed since."""
        return self._digests[blob]

    def note(self, blob: int, digest: str) -> None:
        """Remembers the digest of a blob that is complete."""
        self._digests[blob] = digest

    def parts(self) -> list[memoryview]:
        """The bytes of each blob; valid until the next `fill`."""
        assert self._plan is not None
        assert self._arena is not None
        memory = self._arena.numpy().data
        placed = zip(self._plan.starts, self._plan.layouts, strict=True)
        return [memory[start : start + layout.size] for start, layout in placed]

    def release(self) -> None:
        """Gives the memory back."""
        self._plan, self._arena, self._memory, self._base, self._digests = None, None, None, 0, []

    def _take(self, size: int) -> None:
        if size <= self.size and self._arena is not None:
            return
        self.release()  # the old before the new
        memory = mmap.mmap(-1, max(-(-size // _PAGE) * _PAGE, _PAGE))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them: small pages do as well
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._arena = torch.frombuffer(memory, dtype=torch.uint8)
        self._base = self._arena.data_ptr()

    def _place(self, plan: Plan) -> None:
        self._take(plan.size)
        assert self._arena is not None
        self._plan, self._digests = plan, [None] * len(plan.layouts)
        for start, layout in zip(plan.starts, plan.layouts, strict=True):
            self._arena[start : start + len(layout.header)] = torch.frombuffer(
                bytearray(layout.header), dtype=torch.uint8
            )

    def _convert(self, number: int, slot: Slot, tensor: torch.Tensor) -> None:
        """Copies a tensor that lies elsewhere, or in another order, or is not what its memory says."""
        assert self._plan is not None
        assert self._arena is not None
        start = self._plan.starts[number] + slot.start
        self._digests[number] = None
        if slot.axis is not None:
            tensor = tensor.narrow(slot.axis, slot.first, slot.shape[slot.axis])
        with torch.no_grad():
            view_bytes(self._arena, start=start, dtype=slot.dtype, shape=slot.shape, key="staging").copy_(tensor)

    def _unshared(self, later: list[Later], others: set[int]) -> list[Later]:
        """Copies now what shares memory with something that was copied now."""
        left = []
        for item in later:
            if item.storage in others:
                self.update(item.blob, item.target, item.address, item.size)
            else:
                left.append(item)
        return left
