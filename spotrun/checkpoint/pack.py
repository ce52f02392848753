"""Tensors packed into blobs.

Every blob is a valid safetensors file: eight bytes with the header's length, the header as JSON padded with spaces,
then the tensors without gaps. Tensors are packed in a fixed order, group by group, so that a group that has not
changed (frozen layers) gives the same bytes, the same digest, and is not uploaded again. A tensor larger than two blobs
is cut into boxes along its first dimension, so that no blob takes long and none stands alone in the way.

All of this depends on names, dtypes and shapes alone, which hardly ever change from save to save: a `Packing` keeps it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from spotrun.checkpoint.tensor import dtype_name, safetensors_name, size_bytes
from spotrun.store import TensorRef

__all__ = ["ALIGNMENT", "BLOB_BYTES_MAX", "Layout", "Packing", "Placed", "Plan", "Slot", "lay_out"]

ALIGNMENT = 64  # of the first tensor in a blob, so that every dtype lies at a multiple of its size
BLOB_BYTES_MAX = 32 << 20  # large enough for full speed of disk and network
_BLOB_BYTES_MIN = 4 << 20  # of the limit, which for small states is lower, so that several blobs are under way at once
_BLOBS = 16  # of the states in between
_WIDE = 16  # the largest element


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor's place in a blob: bytes [start, end), counted from the blob's first byte; or that of a box of a tensor.

    Attributes:
        name: the key in the manifest: the tensor's name, for a box with its number.
        shape: of what lies here.
        tensor: the name of the tensor that this is, or is a box of.
        whole: the shape of that tensor.
        skip: bytes of that tensor before those that lie here.
        axis: the dimension that it is cut along; None if it is whole.
        first: where along that dimension the box begins.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    tensor: str
    whole: tuple[int, ...]
    skip: int = 0
    axis: int | None = None
    first: int = 0

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """What of the tensor lies here."""
        return tensor if self.axis is None else tensor.narrow(self.axis, self.first, self.shape[self.axis])

    @property
    def ref(self) -> TensorRef:
        """What the manifest says of it, in the first blob."""
        return self.ref_in(0)

    def ref_in(self, blob: int) -> TensorRef:
        """What the manifest says of it, in a blob of this number."""
        if self.axis is None:
            return TensorRef(blob=blob, dtype=self.dtype, shape=self.shape, start=self.start, end=self.end)
        offset = tuple(self.first if axis == self.axis else 0 for axis in range(len(self.whole)))
        return TensorRef(
            blob=blob, dtype=self.dtype, shape=self.shape, start=self.start, end=self.end,
            of=self.tensor, whole=self.whole, offset=offset,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """One blob: what it starts with and what lies where."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int


Placed = tuple[int, int, int, Slot]
"""A slot with the number of its blob, and where it begins in memory that holds all blobs, and its size."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a state is packed.

    Attributes:
        slots: of all blobs.
        starts: where each blob begins in memory that holds all of them.
        size: of that memory.
    """

    layouts: tuple[Layout, ...]
    slots: tuple[Placed, ...]
    starts: tuple[int, ...]
    size: int
    _refs: dict[str, TensorRef] = field(default_factory=dict)

    def refs(self) -> Mapping[str, TensorRef]:
        """The tensors as a manifest names them."""
        if not self._refs:
            self._refs.update((slot.name, slot.ref_in(number)) for number, _, _, slot in self.slots)
        return self._refs


class Packing:
    """Plans, the last of which is kept.

    Args:
        group: the group of a tensor's name; tensors of different groups never share a blob.
    """

    def __init__(self, group: Callable[[str], str]) -> None:
        self._group = group
        self._forms: list[tuple[str, Any, Any]] = []
        self._kept: dict[str, tuple[Any, Any]] = {}  # the same by name
        self._apart: frozenset[str] = frozenset()
        self._plan: Plan | None = None

    @property
    def last(self) -> Plan:
        """The plan that was given last."""
        assert self._plan is not None
        return self._plan

    def plan(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        apart: frozenset[str] = frozenset(),
        renewed: Collection[str] | None = None,
    ) -> Plan:
        """How to pack these tensors; the same object as long as nothing differs in name, dtype or shape.

        Args:
            apart: tensors that share no blob with others of their group: those that seem not to change.
            renewed: the names of all that may differ in form from those of the plan before; None if that is not known.
        """
        if self._plan is not None and renewed is not None and apart == self._apart:
            kept = self._kept
            if all(kept.get(name) == (tensors[name].dtype, tensors[name].shape) for name in renewed):
                return self._plan
        forms = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if self._plan is None or forms != self._forms or apart != self._apart:
            self._forms, self._apart = forms, apart
            self._kept = {name: (dtype, shape) for name, dtype, shape in forms}
            self._plan = _planned(lay_out(tensors, lambda name: self._group(name) + ("=" if name in apart else "")))
        return self._plan


def lay_out(tensors: Mapping[str, torch.Tensor], group: Callable[[str], str]) -> tuple[Layout, ...]:
    """Packs tensors into blobs, none much larger than twice what suits the size of the state.

    Args:
        group: the group of a tensor's name; tensors of different groups never share a blob.
    """
    limit = _limit(sum(tensor.nbytes for tensor in tensors.values()))
    groups: dict[str, list[Slot]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(group(name), []).extend(_cut(name, tensor, limit))
    layouts: list[Layout] = []
    for members in groups.values():
        # Sizes with the most factors of two first, which keeps every tensor at multiples of its elements, and every one of
        # whole words at multiples of words, without gaps; otherwise as they were found.
        ordered = sorted(members, key=lambda slot: -math.gcd(slot.end, _WIDE))
        layouts.extend(_layout(chunk) for chunk in _chunks(ordered, limit))
    return tuple(layouts)


def _limit(size: int) -> int:
    """A power of two, so that states of nearly the same size are cut alike."""
    return min(max(1 << (size // _BLOBS).bit_length(), _BLOB_BYTES_MIN), BLOB_BYTES_MAX)


def _planned(layouts: tuple[Layout, ...]) -> Plan:
    starts, size = [], 0
    for layout in layouts:
        starts.append(size)
        size += -(-layout.size // ALIGNMENT) * ALIGNMENT
    slots = tuple(
        (number, starts[number] + slot.start, slot.end - slot.start, slot)
        for number, layout in enumerate(layouts)
        for slot in layout.slots
    )
    return Plan(layouts, slots, tuple(starts), size)


def _cut(name: str, tensor: torch.Tensor, limit: int) -> Iterable[Slot]:
    """A tensor, or its boxes, each from byte 0 on."""
    dtype, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
    size = size_bytes(dtype, shape)
    axis = next((axis for axis, length in enumerate(shape) if length > 1), None)
    row = size // shape[axis] if axis is not None else size
    even = _WIDE // math.gcd(row, _WIDE) if row else 1  # rows of a box, so that each begins at a multiple of words
    rows = limit // row // even * even if row else 0
    if size <= 2 * limit or axis is None or not rows:
        yield Slot(name, dtype, shape, 0, size, name, shape)
        return
    for number, first in enumerate(range(0, shape[axis], rows)):
        part = (*shape[:axis], min(rows, shape[axis] - first), *shape[axis + 1 :])
        end = size_bytes(dtype, part)
        yield Slot(f"{name}#{number}", dtype, part, 0, end, name, shape, first * row, axis, first)


def _chunks(members: Sequence[Slot], limit: int) -> Iterable[list[Slot]]:
    chunk: list[Slot] = []
    filled = 0
    for slot in members:
        if chunk and filled + slot.end > limit:
            yield chunk
            chunk, filled = [], 0
        chunk.append(slot)
        filled += slot.end
    if chunk:
        yield chunk


def _layout(members: Sequence[Slot]) -> Layout:
    described: dict[str, object] = {"__metadata__": {"format": "spotrun"}}
    offset = 0
    for slot in members:
        end = offset + slot.end
        known = safetensors_name(slot.dtype)
        described[slot.name] = {
            "dtype": known or "U8",
            "shape": list(slot.shape) if known else [slot.end],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    slots, start = [], len(header)
    for slot in members:
        end = start + slot.end
        slots.append(
            Slot(
                slot.name, slot.dtype, slot.shape, start, end, slot.tensor, slot.whole, slot.skip, slot.axis, slot.first
            )
        )
        start = end
    return Layout(header, tuple(slots), start)
