"""Tensors packed into blobs.

Every blob is a valid safetensors file: eight bytes with the header's length, the header as JSON padded with spaces,
then the tensors without gaps. Tensors are packed in a fixed order, group by group, so that a group that has not
changed (frozen layers) gives the same bytes, the same digest, and is not uploaded again.

All of this depends on names, dtypes and shapes alone, which hardly ever change from save to save: a `Packing` keeps it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spotrun.checkpoint.tensor import DTYPES, dtype_name, safetensors_name, size_bytes
from spotrun.store import TensorRef

__all__ = ["ALIGNMENT", "BLOB_BYTES_MAX", "Layout", "Packing", "Plan", "Slot", "lay_out"]

ALIGNMENT = 64  # of the first tensor in a blob, so that every dtype lies at a multiple of its size
BLOB_BYTES_MAX = 32 << 20  # large enough for full speed of disk and network
_BLOB_BYTES_MIN = 4 << 20  # of the limit, which for small states is lower, so that several blobs are under way at once
_BLOBS = 16  # of the states in between
_WIDE = 16  # what tensors are a multiple of that come first in their blob, so that they lie at multiples of words


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


@dataclass(frozen=True, slots=True)
class Plan:
    """How a state is packed.

    Attributes:
        slots: of all blobs, with the number of the blob.
        starts: where each blob begins in memory that holds all of them.
        size: of that memory.
        refs: the tensors as a manifest names them.
    """

    layouts: tuple[Layout, ...]
    slots: tuple[tuple[int, Slot], ...]
    starts: tuple[int, ...]
    size: int
    refs: Mapping[str, TensorRef]


class Packing:
    """Plans, the last of which is kept.

    Args:
        group: the group of a tensor's name; tensors of different groups never share a blob.
    """

    def __init__(self, group: Callable[[str], str]) -> None:
        self._group = group
        self._forms: list[tuple[str, Any, Any]] = []
        self._apart: frozenset[str] = frozenset()
        self._plan: Plan | None = None

    @property
    def last(self) -> Plan:
        """The plan that was given last."""
        assert self._plan is not None
        return self._plan

    def plan(self, tensors: Mapping[str, torch.Tensor], *, apart: frozenset[str] = frozenset()) -> Plan:
        """How to pack these tensors; the same object as long as nothing differs in name, dtype or shape.

        Args:
            apart: tensors that share no blob with others of their group: those that seem not to change.
        """
        forms = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if self._plan is None or forms != self._forms or apart != self._apart:
            self._forms, self._apart = forms, apart
            self._plan = _planned(lay_out(tensors, lambda name: self._group(name) + ("=" if name in apart else "")))
        return self._plan


def lay_out(
    tensors: Mapping[str, torch.Tensor], group: Callable[[str], str], *, limit: int | None = None
) -> tuple[Layout, ...]:
    """Packs tensors into blobs of at most `limit` bytes; a larger tensor has a blob of its own.

    Args:
        group: the group of a tensor's name; tensors of different groups never share a blob.
        limit: None for what suits the size of the state.
    """
    groups: dict[str, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(group(name), []).append((name, tensor))
    most = limit or _limit(sum(tensor.nbytes for tensor in tensors.values()))
    layouts: list[Layout] = []
    for members in groups.values():
        # What keeps every tensor aligned without gaps; otherwise as they were found.
        ordered = sorted(members, key=lambda item: (item[1].nbytes % _WIDE > 0, -item[1].element_size()))
        layouts.extend(_layout(chunk) for chunk in _chunks(ordered, most))
    return tuple(layouts)


def _limit(size: int) -> int:
    """A power of two, so that states of nearly the same size are cut alike."""
    return min(max(1 << (size // _BLOBS).bit_length(), _BLOB_BYTES_MIN), BLOB_BYTES_MAX)


def _planned(layouts: tuple[Layout, ...]) -> Plan:
    starts, size = [], 0
    for layout in layouts:
        starts.append(size)
        size += -(-layout.size // ALIGNMENT) * ALIGNMENT
    slots = tuple((number, slot) for number, layout in enumerate(layouts) for slot in layout.slots)
    refs = {
        slot.name: TensorRef(blob=number, dtype=slot.dtype, shape=slot.shape, start=slot.start, end=slot.end)
        for number, slot in slots
    }
    return Plan(layouts, slots, tuple(starts), size, refs)


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
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    slots = tuple(Slot(n, d, s, len(header) + start, len(header) + end) for n, d, s, start, end in placed)
    return Layout(header, slots, len(header) + offset)
