"""The host memory in which a snapshot waits to be written.

It is kept from save to save: copying into memory that is already there is several times faster than into fresh memory,
whose pages the kernel must first hand out. And it knows what it holds: the snapshot before. A tensor that has not
changed since is compared instead of copied, and a blob of such tensors keeps its digest.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from types import MappingProxyType

import numpy as np
import torch

from spotrun.checkpoint.address import NUMBER_BYTES, WORD_BYTES, copy, renew_numbers, same
from spotrun.checkpoint.copying import Bundle, Later
from spotrun.checkpoint.device import Transfers, pin
from spotrun.checkpoint.pack import Placed, Plan, Slot
from spotrun.checkpoint.tensor import view_bytes

__all__ = ["Staging"]

_PAGE = 2 << 20  # what a huge page takes: in these, memory is handed out several times faster
_NONE: Mapping[str, int] = MappingProxyType({})


class Numbers:
    """Tensors of a single number that are copied at the boundary, like an optimizer's counts of steps; all in one call.

    Args:
        found: name, number of the blob, target and source of each.
    """

    def __init__(self, found: Sequence[tuple[str, int, int, int]]) -> None:
        self._found = found
        self.names = {name for name, _, _, _ in found}
        self._blobs, self._targets, self._sources = (
            np.asarray([one[place] for one in found], np.int64) for place in (1, 2, 3)
        )

    def without(self, names: Set[str]) -> Numbers:
        """The others."""
        return Numbers([one for one in self._found if one[0] not in names])

    def renew(self) -> list[int]:
        """Copies them; gives the blobs in which something has changed."""
        changed: list[int] = np.unique(self._blobs[renew_numbers(self._targets, self._sources)]).tolist()
        return changed


class Last:
    """How the memory was filled the last time, for a state of which nearly all tensors are the same in the same places.

    Attributes:
        steady: the tensors that were to be copied later.
        left: what of them was.
        now: the places of those that were copied at once, by name.
        numbers, bytes, rest: these, by the way they are copied: `bytes` with number of the blob, target, source and size.
    """

    def __init__(
        self,
        steady: Mapping[str, int],
        left: list[Later],
        now: Mapping[str, Sequence[Placed]],
        base: int,
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        self.steady, self.left, self.now = steady, left, now
        numbers: list[tuple[str, int, int, int]] = []
        self.bytes: list[tuple[str, int, int, int, int]] = []
        self.rest: list[tuple[str, Placed]] = []
        for name, places in now.items():
            tensor = tensors[name]
            plain, single = _is_plain(tensor), tensor.nbytes == NUMBER_BYTES
            for placed in places:
                number, start, size, slot = placed
                target, source = base + start, tensor.data_ptr() + slot.skip
                if not plain:
                    self.rest.append((name, placed))
                elif single and target % NUMBER_BYTES == source % NUMBER_BYTES == 0:
                    numbers.append((name, number, target, source))
                else:
                    self.bytes.append((name, number, target, source, size))
        self.numbers = Numbers(numbers)

    def touches(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether something that is left shares memory with any of the ranges."""
        return any(_touched(self.left, ranges))


class Staging:
    """Host memory for one snapshot. Not thread-safe: whoever reads `parts` must be done before the next `fill`.

    Attributes:
        transfers: the copies from GPUs into it.
    """

    def __init__(self, transfers: Transfers | None = None) -> None:
        self.transfers = transfers or Transfers()
        self._plan: Plan | None = None
        self._memory: mmap.mmap | None = None
        self._arena: torch.Tensor | None = None
        self._base = 0
        self._digests: list[str | None] = []
        self._unpin: Callable[[], None] | None = None
        self._last: Last | None = None

    @property
    def size(self) -> int:
        """Bytes of memory that it holds."""
        return self._arena.numel() if self._arena is not None else 0

    def reserve(self, plan: Plan, *, pinned: bool = False) -> None:
        """Takes memory for such snapshots and makes the kernel hand it out, so that the first save is fast.

        Args:
            pinned: GPUs will write into it.
        """
        if plan.size > self.size:
            self._take(plan.size)
            assert self._arena is not None
            self._arena.zero_()
        if plan is not self._plan:
            self._place(plan)
        if pinned and self._arena is not None and self._unpin is None:
            self._unpin = pin(self._arena)

    def fill(
        self,
        plan: Plan,
        tensors: Mapping[str, torch.Tensor],
        *,
        steady: Mapping[str, int] = _NONE,
        beside: Set[str] = frozenset(),
        renewed: Collection[str] | None = None,
    ) -> list[Later]:
        """Copies the tensors, from any device, into host memory; returns when all of it is there but what may follow.

        Args:
            steady: tensors in host memory that may be copied later, with their addresses.
            beside: tensors on GPUs that may be copied later.
            renewed: the names of all tensors that are not those of the last time, in the same memory; None if that is not
                known. Then what was found of the others is used again.

        Returns:
            What is still to be copied, in the order of the blobs.
        """
        if plan is not self._plan:
            self._place(plan)
        self.transfers.begin()
        last, self._last = self._last, None
        if last is not None and (last.steady is not steady or beside):
            last = None
        if last is not None and renewed is not None and self._fill_again(last, tensors, renewed):
            self._last = last
            return last.left
        return self._fill_anew(plan, tensors, steady, beside)

    def _fill_anew(
        self, plan: Plan, tensors: Mapping[str, torch.Tensor], steady: Mapping[str, int], beside: Set[str]
    ) -> list[Later]:
        later: list[Later] = []
        now: dict[str, list[Placed]] = {}
        others: list[tuple[int, int]] = []  # memory that is copied now: nothing in it may be copied later
        base = self._base
        for placed in plan.slots:
            number, start, size, slot = placed
            tensor, target = tensors[slot.tensor], base + start
            source = steady.get(slot.tensor)
            if source is not None and target % WORD_BYTES == 0:
                later.append(Later(slot.tensor, number, tensor, target, source + slot.skip, slot.skip, size))
            elif slot.tensor in beside:
                place, box = self._view(start, slot), slot.of(tensor)
                later.append(Later(slot.tensor, number, box, target, box.data_ptr(), slot.skip, size, place))
            else:
                now.setdefault(slot.tensor, []).append(placed)
                others.append(self._copy_now(placed, tensor))
        left = self._unshared(later, others)
        for item in left:
            if item.place is not None:
                self._digests[item.blob] = None
                self.transfers.expect(item.source.device)
        if not beside and len(left) == len(later):
            self._last = Last(steady, left, now, base, tensors)
        return left

    def _fill_again(self, last: Last, tensors: Mapping[str, torch.Tensor], renewed: Collection[str]) -> bool:
        """Copies what must be copied now, as the last time; False if it is not known that the rest may still wait."""
        if any(name not in last.now for name in renewed):
            return False
        others = [self._copy_now(placed, tensors[name]) for name in renewed for placed in last.now[name]]
        if last.touches(others):
            return False
        new = set(renewed)
        numbers = last.numbers if new.isdisjoint(last.numbers.names) else last.numbers.without(new)
        for blob in numbers.renew():
            self._digests[blob] = None
        for name, blob, target, source, size in last.bytes:
            if name not in new:
                self.update(blob, target, source, size)
        for name, place in last.rest:
            if name not in new:
                self._copy_now(place, tensors[name])
        return True

    def _copy_now(self, placed: Placed, tensor: torch.Tensor) -> tuple[int, int]:
        """Copies a tensor, or its box, to its place; gives the memory that it lies in."""
        number, start, size, slot = placed
        if _is_plain(tensor):
            source = tensor.data_ptr() + slot.skip
            self.update(number, self._base + start, source, size)
            return source, source + size
        storage = tensor.untyped_storage()
        self._convert(number, start, slot, tensor)
        return storage.data_ptr(), storage.data_ptr() + storage.nbytes()

    def update_all(self, bundle: Bundle) -> None:
        """Copies many small tensors into a blob, but for those at its beginning that are there already; for any thread."""
        done = 0
        if self._digests[bundle.blob] is not None:
            while done < len(bundle.items) and same(*_ends(bundle.items[done])):
                done += 1
        if done == len(bundle.items):
            return
        self._digests[bundle.blob] = None
        if bundle.views is None:
            assert self._arena is not None
            starts = [item.target - self._base for item in bundle.items]
            targets = [self._arena[at : at + item.size] for at, item in zip(starts, bundle.items, strict=True)]
            bundle.views = targets, [_bytes_of(item) for item in bundle.items]
        targets, sources = bundle.views
        torch._foreach_copy_(targets[done:], sources[done:])

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
        if self._unpin is not None:
            self._unpin()
            self._unpin = None
        self._plan, self._arena, self._memory, self._base, self._digests = None, None, None, 0, []
        self._last = None

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
        self._plan, self._digests, self._last = plan, [None] * len(plan.layouts), None
        for start, layout in zip(plan.starts, plan.layouts, strict=True):
            self._arena[start : start + len(layout.header)] = torch.frombuffer(
                bytearray(layout.header), dtype=torch.uint8
            )

    def _convert(self, number: int, start: int, slot: Slot, tensor: torch.Tensor) -> None:
        """Copies a tensor that lies elsewhere, or in another order, or is not what its memory says."""
        self._digests[number] = None
        if self.transfers.takes(tensor):
            self.transfers.copy_now(number, self._view(start, slot), slot.of(tensor))
            return
        with torch.no_grad():
            self._view(start, slot).copy_(slot.of(tensor))

    def _unshared(self, later: list[Later], others: list[tuple[int, int]]) -> list[Later]:
        """Copies now what shares memory with something that was copied now; gives the rest."""
        left = []
        for item, shared in zip(later, _touched(later, others), strict=True):
            if not shared:
                left.append(item)
            elif item.place is not None:
                self._digests[item.blob] = None
                self.transfers.copy_now(item.blob, item.place, item.source)
            else:
                self.update(item.blob, item.target, item.address, item.size)
        return left

    def _view(self, start: int, slot: Slot) -> torch.Tensor:
        """A slot's place, which begins at this byte."""
        assert self._arena is not None
        return view_bytes(self._arena, start=start, dtype=slot.dtype, shape=slot.shape, key="staging")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its bytes lie in host memory as they are to be stored."""
    return tensor.is_cpu and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def _ends(item: Later) -> tuple[int, int, int]:
    return item.target, item.address, item.size


def _bytes_of(item: Later) -> torch.Tensor:
    """The bytes of a contiguous tensor, or of a box of one."""
    start = item.source.storage_offset() * item.source.element_size() + item.skip
    return torch.empty(0, dtype=torch.uint8).set_(item.source.untyped_storage(), start, (item.size,), (1,))


def _touched(items: Sequence[Later], ranges: Sequence[tuple[int, int]]) -> list[bool]:
    """Whether each of the items shares memory with any of the ranges."""
    if not ranges:
        return [False] * len(items)
    starts, ends = np.asarray(sorted(ranges), np.int64).T
    furthest = np.maximum.accumulate(ends)  # the end of those that begin no later than this one
    first = np.asarray([item.address for item in items], np.int64)
    last = first + np.asarray([item.extent for item in items], np.int64)
    before = np.searchsorted(starts, last, side="left")  # how many begin before the item ends
    touched: list[bool] = ((before > 0) & (furthest[np.maximum(before - 1, 0)] > first)).tolist()
    return touched
