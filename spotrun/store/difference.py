"""How two commits differ: tensor by tensor, and in what is not a tensor. In bounded memory, whatever their size.

Bytes that lie in blobs of one digest at the same place are the same without being read. What is read is not compared with
digests, which are of whole blobs: to know that a commit is right, verify it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from spotrun.errors import CheckpointCorrupt, StoreMissing
from spotrun.store.blob import BlobStore
from spotrun.store.manifest import Manifest
from spotrun.store.region import Box, Stored

__all__ = ["Change", "Side", "TensorDifference", "compare_states", "compare_tensors", "state_of"]

_CHUNK_BYTES = 8 << 20  # of one tensor at a time, on each side
_TEXT_MAX = 80
_PATHS_MAX = 100_000  # differing places of a document; more are not a difference but another document

_FORMATS = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "complex64": "<c8", "complex128": "<c16"}


class Change(str, Enum):
    """What became of a tensor."""

    SAME = "same"
    CHANGED = "changed"
    RESHAPED = "reshaped"  # another shape or type
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two commits."""

    store: BlobStore
    manifest: Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorDifference:
    """What became of a tensor from one commit to the other.

    Attributes:
        relative: the largest change of an element, as a share of the largest element; None if that says nothing, as for
            whole numbers, or cannot be told, as for types of eight bits and where something is not finite.
        note: what the shapes or types are, if they differ.
    """

    name: str
    change: Change
    size: int
    relative: float | None = None
    note: str = ""


def compare_tensors(
    left: Side, right: Side, *, told: Callable[[int], None] | None = None
) -> Iterator[TensorDifference]:
    """What became of each tensor, in the order of the right side, then what only the left has.

    Args:
        told: is given the bytes of each tensor that is done.

    Raises:
        CheckpointCorrupt: a blob is missing or too short.
        StoreError: a store failed.
    """
    olds, news = left.manifest.stored(), right.manifest.stored()
    for name, new in news.items():
        old = olds.get(name)
        size = math.prod(new.shape) * new.item
        if old is None:
            yield TensorDifference(name=name, change=Change.ADDED, size=size)
        elif (old.dtype, old.shape) != (new.dtype, new.shape):
            note = f"{old.dtype} {list(old.shape)} became {new.dtype} {list(new.shape)}"
            yield TensorDifference(name=name, change=Change.RESHAPED, size=size, note=note)
        elif _lies_the_same(left, old, right, new):
            yield TensorDifference(name=name, change=Change.SAME, size=size)
        else:
            yield _compared(name, (left, old), (right, new), size)
        if told is not None:
            told(size)
    for name, old in olds.items():
        if name not in news:
            yield TensorDifference(name=name, change=Change.REMOVED, size=math.prod(old.shape) * old.item)


def compare_states(left: Any, right: Any) -> Iterator[tuple[str, str, str]]:
    """Where two documents differ in what is not a tensor: the path, and both values as short text.

    Numbers of positions and names of tensors' places are left to `compare_tensors`.
    """
    todo: list[tuple[str, Any, Any]] = [("", left, right)]
    found = 0
    while todo and found < _PATHS_MAX:
        path, old, new = todo.pop()
        if isinstance(old, dict) and isinstance(new, dict):
            if old.get("$") in ("tensor", "array") and new.get("$") in ("tensor", "array"):
                continue
            keys = list(dict.fromkeys([*old, *new]))
            todo += [
                (f"{path}.{key}" if path else key, old.get(key, _NOTHING), new.get(key, _NOTHING))
                for key in reversed(keys)
            ]
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            todo += [(f"{path}[{place}]", old[place], new[place]) for place in reversed(range(len(old)))]
        elif type(old) is not type(new) or not (old == new or (old != old and new != new)):  # noqa: PLR0124  NaN
            found += 1
            yield path, _text(old), _text(new)


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


_NOTHING = _Nothing()


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{len(value)} members}}"
    text = repr(value)
    return text if len(text) <= _TEXT_MAX else f"{text[: _TEXT_MAX - 3]}..."


def _lies_the_same(left: Side, old: Stored, right: Side, new: Stored) -> bool:
    def where(side: Side, stored: Stored) -> list[tuple[str, int, Box]]:
        return [(side.manifest.blobs[piece.blob].digest, piece.start, piece.box) for piece in stored.pieces]

    return where(left, old) == where(right, new)


def _compared(name: str, left: tuple[Side, Stored], right: tuple[Side, Stored], size: int) -> TensorDifference:
    same, comparable = True, True
    difference = largest = 0.0
    for box in _chunks(left[1]):
        old, new = _read(*left, box), _read(*right, box)
        if old == new:
            if comparable and (numbers := _numbers(old, left[1].dtype)) is not None:
                largest = max(largest, _largest(numbers))
            continue
        same = False
        before, after = _numbers(old, left[1].dtype), _numbers(new, left[1].dtype)
        if before is None or after is None or not (np.isfinite(before).all() and np.isfinite(after).all()):
            comparable = False
            continue
        difference = max(difference, _largest(after - before))
        largest = max(largest, _largest(before), _largest(after))
    if same:
        return TensorDifference(name=name, change=Change.SAME, size=size)
    relative = (difference / largest if largest else 0.0) if comparable else None
    return TensorDifference(name=name, change=Change.CHANGED, size=size, relative=relative)


def _largest(numbers: np.ndarray[Any, Any]) -> float:
    return float(np.abs(numbers).max()) if numbers.size else 0.0


def _numbers(data: bytes, dtype: str) -> np.ndarray[Any, Any] | None:
    """The elements as float64 or complex128; None for types that are not floating, or that NumPy lacks."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    form = _FORMATS.get(dtype)
    if form is None:
        return None
    return np.frombuffer(data, form).astype(np.complex128 if "c" in form else np.float64)


def _chunks(stored: Stored) -> Iterator[Box]:
    """The tensor in boxes of a few megabytes: cut along the dimensions from the first on, as far as need be."""
    todo = [Box((0,) * len(stored.shape), stored.shape)]
    while todo:
        box = todo.pop()
        if box.volume * stored.item <= _CHUNK_BYTES:
            if box.volume:
                yield box
            continue
        axis = next(number for number, length in enumerate(box.shape) if length > 1)
        half = box.shape[axis] // 2
        for start, length in ((half, box.shape[axis] - half), (0, half)):
            offset = (*box.offset[:axis], box.offset[axis] + start, *box.offset[axis + 1 :])
            todo.append(Box(offset, (*box.shape[:axis], length, *box.shape[axis + 1 :])))


def _read(side: Side, stored: Stored, box: Box) -> bytes:
    memory = bytearray(box.volume * stored.item)
    view = memoryview(memory)
    for copy in stored.copies(box):
        for run in copy.runs():
            ref = side.manifest.blobs[run.blob]
            try:
                filled = side.store.read_into(ref.key, run.start, [view[run.target : run.target + run.size]])
            except StoreMissing:
                raise CheckpointCorrupt(ref.key, "it is missing") from None
            if filled != run.size:
                raise CheckpointCorrupt(ref.key, f"it ends {run.size - filled} bytes too soon")
    return bytes(memory)


def state_of(manifest: Manifest) -> Mapping[str, Any]:
    """A commit's document, of the first process if there are several."""
    state = manifest.state
    if isinstance(state, dict) and state.get("$") == "gang":
        state = state.get("v")
    return state if isinstance(state, dict) else {}
