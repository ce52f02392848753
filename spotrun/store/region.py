"""Boxes of tensors: which bytes of which blobs make up a wanted region of a tensor.

A tensor lies whole in one blob, or in boxes that several processes wrote or that a large tensor was cut into. Whoever
reads it wants all of it, or the box that its own process holds now, which need not be one of the stored ones. This is
arithmetic on shapes only; nothing here reads or allocates.

That boxes fill a tensor without hole and without overlap is seen at their corners: a box is a sum of signed corners
(plus where an even number of its coordinates are ends, minus where an odd number are), and the boxes fill the whole
exactly if all corners inside cancel each other and those of the whole are left. One look at each corner is enough, however
many boxes there are and however they are arranged.

Named tuples, where there is one for every tensor: they are made in a fraction of a frozen dataclass's time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Box", "Copy", "Piece", "Run", "Stored", "filling_fault", "whole_box"]

_CUT_DIMENSIONS_MAX = 6  # meshes of processes have four at most; a box has two to this power of corners


class Box(NamedTuple):
    """A box of a tensor: where it begins and how long it is, in each dimension."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def volume(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def overlap(self, other: Box) -> Box | None:
        """What both have of the tensor that they are boxes of; None if that is nothing."""
        starts = tuple(map(max, self.offset, other.offset))
        ends = (
            min(a + n, b + m) for a, n, b, m in zip(self.offset, self.shape, other.offset, other.shape, strict=True)
        )
        shape = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return Box(starts, shape) if all(length > 0 for length in shape) else None

    def within(self, outer: Box) -> Box:
        """The same box, counted from where `outer` begins."""
        return Box(tuple(a - b for a, b in zip(self.offset, outer.offset, strict=True)), self.shape)


class Piece(NamedTuple):
    """A stored box: row-major from byte `start` of blob number `blob` on."""

    blob: int
    start: int
    box: Box


class Run(NamedTuple):
    """Bytes without a gap: `size` of them from `start` of a blob on are those from `target` of the wanted region on."""

    blob: int
    start: int
    target: int
    size: int


@dataclass(frozen=True, slots=True)
class Copy:
    """What one stored box gives to a wanted region.

    Attributes:
        source: the part that is needed, counted from where the piece begins.
        target: where it goes, counted from where the wanted region begins; of the same shape.
        wanted: the region's shape.
        item: bytes of an element.
    """

    piece: Piece
    source: Box
    target: Box
    wanted: tuple[int, ...]
    item: int

    def runs(self) -> Iterator[Run]:
        """The copy as runs that are as long as can be, in the order of the blob; the region taken as row-major."""
        size, axis = self.item, len(self.wanted)
        while axis > 0:
            axis -= 1
            size *= self.source.shape[axis]
            if not self.source.shape[axis] == self.piece.box.shape[axis] == self.wanted[axis]:
                break
        there, here = _strides(self.piece.box.shape, self.item), _strides(self.wanted, self.item)
        start = self.piece.start + sum(map(int.__mul__, self.source.offset, there))
        target = sum(map(int.__mul__, self.target.offset, here))
        for index in itertools.product(*map(range, self.source.shape[:axis])):
            yield Run(
                self.piece.blob,
                start + sum(map(int.__mul__, index, there)),
                target + sum(map(int.__mul__, index, here)),
                size,
            )


class Stored(NamedTuple):
    """A tensor as it is stored: `dtype` by torch's name, `item` bytes an element, and the pieces that fill it."""

    dtype: str
    item: int
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def copies(self, wanted: Box | None = None) -> list[Copy]:
        """What to copy to have the wanted region, every element of it once; all of the tensor for None.

        Raises:
            ValueError: the region is not inside of the tensor.
        """
        region = wanted or whole_box(self.shape)
        if len(region.shape) != len(self.shape) or any(
            start < 0 or length < 0 or start + length > limit
            for start, length, limit in zip(region.offset, region.shape, self.shape, strict=True)
        ):
            raise ValueError(f"{list(region.shape)} at {list(region.offset)} is not inside {list(self.shape)}")
        found = ((piece, piece.box.overlap(region)) for piece in self.pieces)
        return [
            Copy(piece, common.within(piece.box), common.within(region), region.shape, self.item)
            for piece, common in found
            if common is not None
        ]


def whole_box(shape: Sequence[int]) -> Box:
    """All of a tensor of this shape."""
    return Box((0,) * len(shape), tuple(shape))


def filling_fault(shape: Sequence[int], boxes: Sequence[Box]) -> str | None:
    """Why these boxes, all inside of a tensor of this shape, do not fill it exactly, or None if they do."""
    if 0 in shape:
        return None  # there is nothing to fill
    cut = [
        axis
        for axis, length in enumerate(shape)
        if any(box.offset[axis] != 0 or box.shape[axis] != length for box in boxes)
    ]
    if len(cut) > _CUT_DIMENSIONS_MAX:
        return f"it is cut along {len(cut)} dimensions; {_CUT_DIMENSIONS_MAX} at most can be"
    corners: Counter[tuple[int, ...]] = Counter()
    for box in boxes:
        for corner, sign in _corners(box, cut):
            corners[corner] += sign
    for corner, sign in _corners(whole_box(shape), cut):
        corners[corner] -= sign
    wrong = min((corner for corner, count in corners.items() if count), default=None)
    if wrong is None:
        return None
    place = [0] * len(shape)
    for axis, coordinate in zip(cut, wrong, strict=True):
        place[axis] = coordinate
    return f"its {len(boxes)} boxes leave a hole or overlap at {place}"


def _corners(box: Box, cut: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    for ends in itertools.product((0, 1), repeat=len(cut)):
        corner = tuple(box.offset[axis] + end * box.shape[axis] for axis, end in zip(cut, ends, strict=True))
        yield corner, -1 if sum(ends) % 2 else 1


def _strides(shape: Sequence[int], item: int) -> list[int]:
    strides = [item] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return strides
