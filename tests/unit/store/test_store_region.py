"""Regions of tensors: whatever the boxes, whatever the wish, the bytes are those that NumPy would give."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_run import AT

from spotrun.errors import CheckpointCorrupt
from spotrun.store import BlobRef, Manifest, TensorRef
from spotrun.store.manifest import decode_manifest
from spotrun.store.region import Box, Piece, Stored, filling_fault, whole_box


@st.composite
def cuts(draw: st.DrawFn, *, dimensions: int = 4) -> tuple[tuple[int, ...], list[Box]]:
    """A shape and boxes that fill it: grids, and boxes that are cut again on their own."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=dimensions)))
    boxes = [whole_box(shape)]
    for _ in range(draw(st.integers(0, 6)) if shape else 0):
        at = draw(st.integers(0, len(boxes) - 1))
        axis = draw(st.integers(0, len(shape) - 1))
        box = boxes.pop(at)
        first = draw(st.integers(0, box.shape[axis]))  # also 0: an empty box, as a rank without a share has
        for start, length in ((0, first), (first, box.shape[axis] - first)):
            offset, cut = list(box.offset), list(box.shape)
            offset[axis] += start
            cut[axis] = length
            boxes.append(Box(tuple(offset), tuple(cut)))
    return shape, draw(st.permutations(boxes))


def slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(box.offset, box.shape, strict=True))


def stored(shape: tuple[int, ...], boxes: list[Box]) -> tuple[np.ndarray[Any, Any], list[bytes], Stored]:
    """A tensor, the blobs that its boxes lie in (three in each, with bytes between), and the description of it."""
    whole = np.arange(math.prod(shape), dtype=np.int16).reshape(shape)
    blobs, pieces = [bytearray(b"head") for _ in range(len(boxes) // 3 + 1)], []
    for number, box in enumerate(boxes):
        blob = blobs[number // 3]
        pieces.append(Piece(number // 3, len(blob), box))
        blob += whole[slices(box)].tobytes() + b"gap"
    return whole, [bytes(blob) for blob in blobs], Stored("int16", 2, shape, tuple(pieces))


@settings(max_examples=400, deadline=None)
@given(data=st.data(), cut=cuts())
def test_any_region_of_any_split_is_what_numpy_slices(
    data: st.DataObject, cut: tuple[tuple[int, ...], list[Box]]
) -> None:
    """By boxes and by runs; runs touch no byte twice."""
    shape, boxes = cut
    whole, blobs, tensor = stored(shape, boxes)
    offset = tuple(data.draw(st.integers(0, length)) for length in shape)
    wanted = Box(offset, tuple(data.draw(st.integers(0, n - start)) for n, start in zip(shape, offset, strict=True)))
    expected = whole[slices(wanted)]
    by_boxes = np.full(wanted.shape, -1, dtype=np.int16)
    by_runs = bytearray(b"\xff" * expected.nbytes)
    written = 0
    for copy in tensor.copies(wanted):
        size = copy.piece.box.volume * 2
        raw = blobs[copy.piece.blob][copy.piece.start : copy.piece.start + size]
        piece = np.frombuffer(raw, np.int16).reshape(copy.piece.box.shape)
        by_boxes[slices(copy.target)] = piece[slices(copy.source)]
        for run in copy.runs():
            by_runs[run.target : run.target + run.size] = blobs[run.blob][run.start : run.start + run.size]
            written += run.size
    assert by_boxes.tobytes() == expected.tobytes() == bytes(by_runs)
    assert written == expected.nbytes


@settings(max_examples=300, deadline=None)
@given(data=st.data(), cut=cuts())
def test_boxes_that_fill_are_told_from_boxes_that_do_not(
    data: st.DataObject, cut: tuple[tuple[int, ...], list[Box]]
) -> None:
    """A count of each element says the same as a look at the corners."""
    shape, boxes = cut
    assert filling_fault(shape, boxes) is None
    for _ in range(data.draw(st.integers(1, 2))):
        number = data.draw(st.integers(0, len(boxes) - 1))
        change = data.draw(st.sampled_from(["drop", "double", "move", "swap"]))
        if change == "drop":
            boxes = boxes[:number] + boxes[number + 1 :]
        elif change == "double":
            boxes = [*boxes, boxes[number]]
        elif shape:
            axis = data.draw(st.integers(0, len(shape) - 1))
            start = data.draw(st.integers(0, shape[axis]))
            length = data.draw(st.integers(0, shape[axis] - start))
            offset, lengths = list(boxes[number].offset), list(boxes[number].shape)
            offset[axis], lengths[axis] = start, length
            boxes = [*boxes[:number], Box(tuple(offset), tuple(lengths)), *boxes[number + 1 :]]
        if not boxes:
            return
    counted = np.zeros(shape, dtype=int)
    for box in boxes:
        counted[slices(box)] += 1
    assert (filling_fault(shape, boxes) is None) == bool((counted == 1).all())


def test_a_whole_tensor_is_one_run_and_rows_are_one_run_of_it() -> None:
    """So that bytes can go straight to where they belong."""
    tensor = Stored("float32", 4, (10, 3, 5), (Piece(7, 64, whole_box((10, 3, 5))),))
    (copy,) = tensor.copies()
    assert [(run.start, run.target, run.size) for run in copy.runs()] == [(64, 0, 600)]
    (copy,) = tensor.copies(Box((2, 0, 0), (4, 3, 5)))
    assert [(run.start, run.target, run.size) for run in copy.runs()] == [(64 + 120, 0, 240)]
    (copy,) = tensor.copies(Box((0, 1, 0), (2, 1, 5)))
    assert [(run.start, run.target, run.size) for run in copy.runs()] == [(84, 0, 20), (144, 20, 20)]


@pytest.mark.parametrize("wanted", [Box((0,), (11,)), Box((-1,), (2,)), Box((4, 0), (1, 1)), Box((11,), (0,))])
def test_a_region_outside_of_the_tensor_is_refused(wanted: Box) -> None:
    """By whoever asks for it, not by a read beyond the end."""
    with pytest.raises(ValueError, match="is not inside"):
        Stored("float32", 4, (10,), (Piece(0, 0, whole_box((10,))),)).copies(wanted)


DIGEST = "ab" * 32


def boxed(*boxes: Box, whole: tuple[int, ...] = (4, 6), **changed: Any) -> bytes:
    """A manifest with one tensor in these boxes, past its own checks."""
    blob = BlobRef(key=f"blobs/000001/{DIGEST}-01234567", size=1000, digest=DIGEST)
    tensors = {
        f"w#{number}": TensorRef(
            blob=0, dtype="uint8", shape=box.shape, start=0, end=box.volume, of="w", whole=whole, offset=box.offset
        )
        for number, box in enumerate(boxes)
    }
    fields: dict[str, Any] = {"job": "x", "attempt": 1, "writer": "w", "step": 1, "captured_at": AT, "blobs": (blob,)}
    return Manifest.model_construct(format=1, **fields, tensors={**tensors, **changed}).to_bytes()


HALVES = (Box((0, 0), (2, 6)), Box((2, 0), (2, 6)))


def test_boxes_that_fill_a_tensor_are_read_as_one() -> None:
    """Whatever their order."""
    manifest = decode_manifest("k", boxed(*reversed(HALVES)))
    tensor = manifest.stored()["w"]
    assert (tensor.shape, tensor.dtype, len(tensor.pieces)) == ((4, 6), "uint8", 2)
    pinwheel = (Box((0, 0), (1, 2)), Box((0, 2), (2, 1)), Box((2, 1), (1, 2)), Box((1, 0), (2, 1)), Box((1, 1), (1, 1)))
    decode_manifest("k", boxed(*pinwheel, whole=(3, 3)))  # no line cuts it in two


FAULTS: dict[str, tuple[bytes, str]] = {
    "a hole": (boxed(HALVES[0]), "leave a hole or overlap"),
    "an overlap": (boxed(*HALVES, Box((0, 0), (1, 1))), "leave a hole or overlap"),
    "a hole and an overlap of the same size": (boxed(HALVES[0], Box((1, 0), (2, 6))), "leave a hole or overlap"),
    "outside": (boxed(HALVES[0], Box((3, 0), (2, 6))), "is not inside"),
    "of other lengths": (boxed(HALVES[0], Box((2,), (2,))), "dimensions"),
    "whole as well": (boxed(*HALVES, w=TensorRef(blob=0, dtype="uint8", shape=(3,), start=0, end=3)), "whole and in boxes"),
    "of another type": (
        boxed(HALVES[0], **{"w#1": TensorRef(blob=0, dtype="int8", shape=(2, 6), start=0, end=12, of="w", whole=(4, 6),
                                             offset=(2, 0))}),
        "different tensors",
    ),
    "of another shape": (
        boxed(HALVES[0], **{"w#1": TensorRef(blob=0, dtype="uint8", shape=(2, 6), start=0, end=12, of="w", whole=(5, 6),
                                             offset=(2, 0))}),
        "different tensors",
    ),
    "without its place": (boxed(**{"w#1": TensorRef(blob=0, dtype="uint8", shape=(3,), start=0, end=3, of="w")}), "needs"),
    "a bomb": (boxed(Box((0, 0), (0, 10**12)), whole=(10**12, 10**12)), "larger than anything"),
    "too many cuts": (
        boxed(*(Box(place, (1,) * 7) for place in itertools.product((0, 1), repeat=7)), whole=(2,) * 7),
        "cut along 7 dimensions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_boxes_that_are_not_one_tensor_make_the_manifest_refused(fault: str) -> None:
    """Else a resume would leave a part of a tensor as it happened to be."""
    document, told = FAULTS[fault]
    with pytest.raises(CheckpointCorrupt, match=told):
        decode_manifest("k", document)
