"""Blobs read straight into the memory of tensors.

A blob's bytes are taken in their order, since its digest is over all of them, and each is put where it belongs as it
arrives: into a tensor's own memory where a run of bytes can lie there as it is, otherwise through a piece of scratch
memory, from which it is copied on: to another order of dimensions, to a part of a tensor, to a GPU. What nobody wants
passes through the scratch memory, too, and is hashed like the rest. A blob of which nobody wants a byte is not read.

So targets are written before their bytes are known to be right. Whoever calls `fill` must treat them as undefined until
it returns, and overwrite them all if it raises.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from spotrun.checkpoint.address import copy as copy_bytes
from spotrun.checkpoint.scratch import Scratch, Scratches
from spotrun.checkpoint.stored import StoredTensor, Target
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store import BlobRef, BlobStore, Box, Copy, Piece, fill_blob, whole_box
from spotrun.store.parallel import in_parallel

__all__ = ["fill"]

_CHUNK_BYTES = 2 << 20  # of what goes through scratch memory at once
_REQUEST_BYTES = 64 << 20  # one request for a blob of the usual size; larger ones are hashed while they arrive
_SMALL_BYTES = 256 << 10  # whole tensors up to this size go through scratch memory, many at a time
_RUN_BYTES_MIN = 16 << 10  # shorter runs are copied from scratch memory rather than read one by one
_PASSES_MAX = 16  # over one blob, if several tensors share its bytes


@dataclass(frozen=True, slots=True)
class _Move:
    """What of a chunk goes where: `place[...] = chunk[of]`."""

    of: tuple[slice, ...]
    place: torch.Tensor


class _Segment(NamedTuple):
    """Bytes [start, end) of a blob and the memory they go to; to scratch memory if that is None, and on from there.

    Attributes:
        shape: of the chunk of a tensor that these bytes are.
        small: whole tensors that these bytes are: the address of each, where its bytes begin in the segment, its size.
    """

    start: int
    end: int
    memory: memoryview | None = None
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.uint8
    moves: tuple[_Move, ...] = ()
    small: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Need:
    """A stored piece of which somebody wants at least a part, and all who do."""

    piece: Piece
    tensor: StoredTensor
    copies: list[tuple[Copy, Target]]

    @property
    def start(self) -> int:
        return self.piece.start


def fill(store: BlobStore, blobs: Sequence[BlobRef], tensors: Sequence[StoredTensor]) -> frozenset[int]:
    """Reads what these tensors' targets want, and finds every byte right before it returns.

    Tensors without a target get memory of their own.

    Returns:
        The numbers of the blobs that were read.

    Raises:
        CheckpointCorrupt: a blob is missing, or differs from its digest at a second look, too; targets are undefined.
        CheckpointError: the machine lacks the memory; nothing was read.
        StoreError: the store failed; targets are undefined.
    """
    _withdraw_shared(tensors)
    _check_memory(tensors)
    for tensor in tensors:
        tensor.allocate()
    needs: dict[int, list[_Need | _Segment]] = {}
    for tensor in tensors:
        straight = _straight(tensor)
        if straight is not None:
            needs.setdefault(tensor.stored.pieces[0].blob, []).append(straight)
            continue
        for need in _needs_of(tensor):
            needs.setdefault(need.piece.blob, []).append(need)
    numbers = sorted(needs)
    scratches = Scratches(pinned=any(t.tensor.device.type == "cuda" for s in tensors for t in s.targets))

    def read(index: int) -> None:
        ref = blobs[numbers[index]]
        for segments in _passes(ref, needs[numbers[index]]):
            with scratches.one() as scratch:
                fill_blob(store, ref, lambda: _requests(segments, scratch))  # noqa: B023  called before the next pass

    in_parallel(read, len(numbers))
    return frozenset(numbers)


def _withdraw_shared(tensors: Sequence[StoredTensor]) -> None:
    """Where two stored tensors would go to the same memory, only the first does; loading copies the others in order."""
    if _lie_apart([target.tensor for tensor in tensors if tensor.is_offered for target in tensor.targets]):
        return
    ranges = sorted(
        (
            (target.tensor.device.type, target.tensor.device.index, target.tensor.data_ptr(), order, tensor)
            for order, tensor in enumerate(tensors)
            if tensor.is_offered and tensor.nbytes
            for target in tensor.targets
        ),
        key=lambda found: found[:4],
    )
    last: tuple[Any, ...] = ()
    end = 0
    for kind, index, start, _, tensor in ranges:
        if (kind, index) == last and start < end:
            tensor.withdraw()
            continue
        last = (kind, index)
        end = start + sum(target.tensor.nbytes for target in tensor.targets if target.tensor.data_ptr() == start)


def _lie_apart(memories: Sequence[torch.Tensor]) -> bool:
    """Whether these tensors lie in the main memory, and no two in the same part of it."""
    if not all(memory.is_cpu for memory in memories):
        return False
    starts = np.asarray([memory.data_ptr() for memory in memories], np.int64)
    sizes = np.asarray([memory.nbytes for memory in memories], np.int64)
    order = np.argsort(starts[sizes > 0])
    ends = (starts + sizes)[sizes > 0][order]
    return bool((starts[sizes > 0][order][1:] >= ends[:-1]).all())


def _check_memory(tensors: Sequence[StoredTensor]) -> None:
    """Refuses sizes that no memory has before anything is allocated.

    Raises:
        CheckpointError: see above.
    """
    needed = sum(tensor.nbytes for tensor in tensors if not tensor.targets and tensor.device.type == "cpu")
    total = psutil.virtual_memory().total
    if needed > total:
        raise CheckpointError(
            f"the checkpoint holds {needed / 1e9:,.0f} GB of state beside what the script has built, and this machine "
            f"has {total / 1e9:,.0f} GB of memory; resume on a larger one"
        )


def _straight(tensor: StoredTensor) -> _Segment | None:
    """The bytes of a tensor that lies whole in a blob and goes whole to memory of the same form: most tensors do."""
    if len(tensor.stored.pieces) != 1 or len(tensor.targets) != 1:
        return None
    (target,) = tensor.targets
    memory = target.tensor
    if target.box.shape != tensor.stored.shape or not memory.is_cpu or not memory.is_contiguous():
        return None
    start, size = tensor.stored.pieces[0].start, memory.nbytes
    assert memory.dtype is tensor.dtype, tensor.name
    assert memory.shape == tensor.shape, tensor.name
    if 0 < size <= min(_SMALL_BYTES, _CHUNK_BYTES):
        return _Segment(start, start + size, small=((memory.data_ptr(), 0, size),))
    return _Segment(start, start + size, _bytes_of(memory)) if size else None


def _needs_of(tensor: StoredTensor) -> Iterator[_Need]:
    pieces = tensor.stored.pieces
    if len(pieces) == 1 == len(tensor.targets):
        for copy in tensor.stored.copies(tensor.targets[0].box):
            yield _Need(pieces[0], tensor, [(copy, tensor.targets[0])])
        return
    found: dict[Piece, list[tuple[Copy, Target]]] = {}
    for target in tensor.targets:
        for copy in tensor.stored.copies(target.box):
            found.setdefault(copy.piece, []).append((copy, target))
    for piece, copies in found.items():
        yield _Need(piece, tensor, copies)


def _passes(ref: BlobRef, needs: Sequence[_Need | _Segment]) -> Iterator[list[_Segment]]:
    """The blob from its first byte to its last, once; more often only if tensors share bytes of it."""
    left = sorted(needs, key=lambda need: need.start)
    for _ in range(_PASSES_MAX):
        segments: list[_Segment] = []
        later: list[_Need | _Segment] = []
        end = 0
        for need in left:
            if need.start < end:
                later.append(need)
                continue
            for segment in (need,) if isinstance(need, _Segment) else _segments_of(need):
                if segment.start > end:
                    segments.extend(_unwanted(end, segment.start))
                segments.append(segment)
                end = segment.end
        segments.extend(_unwanted(end, ref.size))
        yield list(_joined(segments))
        left = later
        if not left:
            return
    raise CheckpointCorrupt(ref.key, f"more than {_PASSES_MAX} tensors lie in the same bytes of it")


def _joined(segments: Sequence[_Segment]) -> Iterator[_Segment]:
    """The segments, with runs of small tensors received and hashed as one: a call for each would take longer."""
    run: list[_Segment] = []
    for segment in segments:
        if run and (not segment.small or segment.end - run[0].start > _CHUNK_BYTES):
            yield _run(run)
            run = []
        if segment.small:
            run.append(segment)
        else:
            yield segment
    if run:
        yield _run(run)


def _run(segments: Sequence[_Segment]) -> _Segment:
    start = segments[0].start
    small = tuple(
        (address, segment.start - start + at, size) for segment in segments for address, at, size in segment.small
    )
    return _Segment(start, segments[-1].end, small=small)


def _unwanted(start: int, end: int) -> Iterator[_Segment]:
    for at in range(start, end, _CHUNK_BYTES):
        yield _Segment(at, min(at + _CHUNK_BYTES, end))


def _segments_of(need: _Need) -> Iterator[_Segment]:
    """The needed bytes of a piece, in order; bytes between them are wanted by nobody."""
    if len(need.copies) == 1:
        ((copy, target),) = need.copies
        if target.tensor.device.type == "cpu" and target.tensor.is_contiguous():
            size = copy.source.volume * copy.item
            runs = list(itertools.islice(copy.runs(), size // _RUN_BYTES_MIN + 2))
            if len(runs) <= size // _RUN_BYTES_MIN + 1:
                memory = _bytes_of(target.tensor)
                for run in runs:
                    yield _Segment(run.start, run.start + run.size, memory[run.target : run.target + run.size])
                return
    start = need.piece.start
    item = need.tensor.stored.item
    for chunk in _chunks(need.piece.box.shape, _CHUNK_BYTES // item):
        end = start + chunk.volume * item
        moves = tuple(_moves(chunk, need.copies))
        yield _Segment(start, end, None, chunk.shape, need.tensor.dtype, moves)
        start = end


def _moves(chunk: Box, copies: Sequence[tuple[Copy, Target]]) -> Iterator[_Move]:
    for copy, target in copies:
        common = chunk.overlap(copy.source)
        if common is not None:
            inside = common.within(copy.source)
            at = Box(tuple(map(int.__add__, inside.offset, copy.target.offset)), inside.shape)
            yield _Move(_slices(common.within(chunk)), target.tensor[_slices(at)])


def _chunks(shape: tuple[int, ...], limit: int) -> Iterator[Box]:
    """A tensor of this shape in boxes of at most `limit` elements, each a run of it, in order."""
    if math.prod(shape) <= limit:
        yield whole_box(shape)
        return
    row = math.prod(shape[1:])
    if row <= limit:
        rows = limit // row
        for at in range(0, shape[0], rows):
            yield Box((at, *(0,) * (len(shape) - 1)), (min(rows, shape[0] - at), *shape[1:]))
        return
    for at in range(shape[0]):
        for inner in _chunks(shape[1:], limit):
            yield Box((at, *inner.offset), (1, *inner.shape))


def _requests(segments: Sequence[_Segment], scratch: Scratch) -> Iterator[list[memoryview]]:
    """Memory for the whole blob, request by request; what came through scratch memory is moved on behind each."""
    batch: list[tuple[_Segment, torch.Tensor | None]] = []
    memories: list[memoryview] = []
    size = 0
    for segment in _cut(segments):
        length = segment.end - segment.start
        if batch and (size + length > _REQUEST_BYTES or (segment.memory is None and not scratch.has(length))):
            yield memories
            _move_on(batch, scratch)
            batch, memories, size = [], [], 0
        if segment.memory is None:
            piece = scratch.take(length)
            memories.append(_bytes_of(piece))
            batch.append((segment, piece))
        else:
            memories.append(segment.memory)
            batch.append((segment, None))
        size += length
    if batch:
        yield memories
        _move_on(batch, scratch)


def _cut(segments: Sequence[_Segment]) -> Iterator[_Segment]:
    for segment in segments:
        if segment.memory is None or segment.end - segment.start <= _REQUEST_BYTES:
            yield segment
            continue
        for at in range(0, len(segment.memory), _REQUEST_BYTES):
            memory = segment.memory[at : at + _REQUEST_BYTES]
            yield _Segment(segment.start + at, segment.start + at + len(memory), memory)


def _move_on(batch: Sequence[tuple[_Segment, torch.Tensor | None]], scratch: Scratch) -> None:
    with torch.no_grad(), scratch.side_stream():
        for segment, piece in batch:
            if piece is None:
                continue
            base = piece.data_ptr()
            for address, at, size in segment.small:
                copy_bytes(address, base + at, size)
            if segment.moves:
                chunk = piece.view(segment.dtype).view(segment.shape)
                for move in segment.moves:
                    move.place.copy_(chunk[move.of], non_blocking=True)
    scratch.reset()


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(box.offset, box.shape, strict=True))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous tensor of the main memory; valid as long as the tensor is. Works for every dtype."""
    size = tensor.nbytes
    if not size:
        return memoryview(b"")
    kind: Callable[[int], Any] = (ctypes.c_char * size).from_address
    return memoryview(kind(tensor.data_ptr())).cast("B")
