"""Tensors packed into blobs, and the host memory in which a snapshot waits to be written.

Every blob is a valid safetensors file: eight bytes with the header's length, the header as JSON padded with spaces,
then the tensors without gaps. Tensors are packed in a fixed order, group by group, so that a group that has not
changed (frozen layers) gives the same bytes, the same digest, and is not uploaded again.

Staging memory is kept from save to save: copying into memory that is already there is several times faster than into
fresh memory, whose pages the kernel must first hand out.
"""

from __future__ import annotations

import contextlib
import json
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import torch

from spotrun.checkpoint.copying import Later, later_of
from spotrun.checkpoint.tensor import DTYPES, dtype_name, safetensors_name, size_bytes, view_bytes

__all__ = ["BLOB_BYTES_MAX", "Layout", "Slot", "Staging", "lay_out"]

BLOB_BYTES_MAX = 32 << 20  # large enough for full speed of disk and network, small enough to have several under way
_PAGE = 2 << 20  # what a huge page takes: in these, memory is handed out several times faster
_ALIGNMENT = 64  # of the first tensor, so that every dtype lies at a multiple of its size


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place in a blob: bytes [start, end), counted from the blob's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One blob: what it starts with and what lies where."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int


def lay_out(
    tensors: Mapping[str, torch.Tensor], group: Callable[[str], str], *, limit: int = BLOB_BYTES_MAX
) -> tuple[Layout, ...]:
    """Packs tensors into blobs of at most `limit` bytes; a larger tensor has a blob of its own.

    Args:
        group: the group of a tensor's name; tensors of different groups never share a blob.
    """
    groups: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(group(name), []).append((name, tensor))
    layouts: list[Layout] = []
    for members in groups.values():
        # The largest elements first, which keeps every tensor aligned without gaps; otherwise as they were found.
        ordered = sorted(members, key=lambda item: -item[1].element_size())
        layouts.extend(_layout(chunk) for chunk in _chunks(ordered, limit))
    return tuple(layouts)


class Staging:
    """Host memory for one snapshot. Not thread-safe: whoever reads `parts` must be done before the next `fill`."""

    def __init__(self) -> None:
        self._layouts: tuple[Layout, ...] = ()
        self._memory: list[torch.Tensor] = []
        self._arena: torch.Tensor | None = None

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """What `parts` holds."""
        return self._layouts

    @property
    def size(self) -> int:
        """Bytes of memory that it holds."""
        return self._arena.numel() if self._arena is not None else 0

    def reserve(self, layouts: tuple[Layout, ...]) -> None:
        """Takes memory for snapshots of this size and makes the kernel hand it out, so that the first save is fast."""
        self._take(sum(map(_padded, layouts)))
        assert self._arena is not None
        self._arena.zero_()

    def fill(
        self, layouts: tuple[Layout, ...], tensors: Mapping[str, torch.Tensor], *, later: Set[str] = frozenset()
    ) -> list[Later]:
        """Copies the tensors, from any device, into host memory; returns when all of it is there but those in `later`.

        Returns:
            What is still to be copied, in the order of the blobs.
        """
        if layouts != self._layouts:
            self._take(sum(map(_padded, layouts)))
            self._place(layouts)
        left = []
        with torch.no_grad():
            for number, (memory, layout) in enumerate(zip(self._memory, layouts, strict=True)):
                for slot in layout.slots:
                    place = view_bytes(memory, start=slot.start, dtype=slot.dtype, shape=slot.shape, key="staging")
                    if slot.name in later:
                        left.append(later_of(slot.name, number, tensors[slot.name], place))
                    else:
                        place.copy_(tensors[slot.name])
        return left

    def parts(self) -> list[memoryview]:
        """The bytes of each blob; valid until the next `fill`."""
        return [memory.numpy().data for memory in self._memory]

    def release(self) -> None:
        """Gives the memory back."""
        self._layouts, self._memory, self._arena = (), [], None

    def _take(self, size: int) -> None:
        if size <= self.size:
            return
        self.release()  # the old before the new
        memory = mmap.mmap(-1, max(-(-size // _PAGE) * _PAGE, _PAGE))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them: small pages do as well
                memory.madvise(mmap.MADV_HUGEPAGE)
        self._arena = torch.frombuffer(memory, dtype=torch.uint8)

    def _place(self, layouts: tuple[Layout, ...]) -> None:
        assert self._arena is not None
        self._layouts, self._memory, start = layouts, [], 0
        for layout in layouts:
            memory = self._arena[start : start + layout.size]
            memory[: len(layout.header)] = torch.frombuffer(bytearray(layout.header), dtype=torch.uint8)
            self._memory.append(memory)
            start += _padded(layout)


def _padded(layout: Layout) -> int:
    return -(-layout.size // _ALIGNMENT) * _ALIGNMENT


def _chunks(members: Sequence[tuple[str, torch.Tensor]], limit: int) -> Iterable[list[tuple[str, torch.Tensor]]]:
    chunk: list[tuple[str, torch.Tensor]] = []
    filled = 0
    for name, tensor in members:
        size = tensor.numel() * tensor.element_size()
        if chunk and filled + size > limit:
            yield chunk
            chunk, filled = [], 0
        chunk.append((name, tensor))
        filled += size
    if chunk:
        yield chunk


def _layout(members: Sequence[tuple[str, torch.Tensor]]) -> Layout:
    described: dict[str, object] = {"__metadata__": {"format": "spotrun"}}
    placed: list[tuple[str, str, tuple[int, ...], int, int]] = []
    offset = 0
    for name, tensor in members:
        dtype, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
        assert dtype in DTYPES, dtype
        end = offset + size_bytes(dtype, shape)
        known = safetensors_name(dtype)
        described[name] = {
            "dtype": known or "U8",
            "shape": list(shape) if known else [end - offset],
            "data_offsets": [offset, end],
        }
        placed.append((name, dtype, shape, offset, end))
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    slots = tuple(Slot(n, d, s, len(header) + start, len(header) + end) for n, d, s, start, end in placed)
    return Layout(header, slots, len(header) + offset)
