"""Bytes go from blobs straight to where they belong, whatever the boxes, the strides and the wishes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psutil
import pytest
import torch
from full_job import digest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_state import blobs_of

from spotrun.checkpoint import reading, scratch
from spotrun.checkpoint.reading import fill
from spotrun.checkpoint.stored import StoredTensor, Target
from spotrun.checkpoint.tensor import DTYPES
from spotrun.clock import SystemClock
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store import BlobRef, Box, Manifest, MemoryStore, TensorRef, write_blob


class Counting(MemoryStore):
    """Counts requests for each object."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        self.requests[key] += 1
        return super().read_into(key, start, memories)


class Shelf:
    """Tensors in a store."""

    def __init__(self, tensors: dict[str, torch.Tensor], **layout: int) -> None:
        self.store = Counting()
        contents, refs = blobs_of(tensors, **layout)
        self.blobs = tuple(write_blob(self.store, 1, [content]) for content in contents)
        self.manifest = Manifest(
            job="j", attempt=1, writer="w", step=1, captured_at=SystemClock().now(), blobs=self.blobs, tensors=refs
        )
        self.store.requests.clear()

    def opened(self) -> dict[str, StoredTensor]:
        return {name: StoredTensor(name, stored) for name, stored in self.manifest.stored().items()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is cut in small pieces, so that small tensors meet every limit."""
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(reading, "_REQUEST_BYTES", 96)
    monkeypatch.setattr(reading, "_RUN_BYTES_MIN", 8)
    monkeypatch.setattr(scratch, "_BYTES", 192)


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    size = int(torch.Size(shape).numel()) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)


def with_strides(like: torch.Tensor, order: Sequence[int]) -> torch.Tensor:
    """Fresh memory of this shape, whose dimensions lie in another order."""
    turned = torch.empty([like.shape[axis] for axis in order], dtype=like.dtype)
    return turned.permute([list(order).index(axis) for axis in range(like.ndim)])


def slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(box.offset, box.shape, strict=True))


_CASES = settings(max_examples=150, deadline=None, database=None)


@pytest.mark.usefixtures("tiny")
@pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")
def test_any_layout_is_read_into_any_memory() -> None:
    """Cut in boxes or whole, of every dtype, into memory in any order of dimensions, or fresh, or regions of it."""

    @_CASES
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        torch.manual_seed(data.draw(st.integers(0, 99)))
        dtypes = st.sampled_from(sorted(DTYPES.values(), key=str))
        shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)
        given_tensors = {
            f"t{number}": random_tensor(data.draw(dtypes), data.draw(shapes))
            for number in range(data.draw(st.integers(1, 5)))
        }
        shelf = Shelf(given_tensors, limit=data.draw(st.integers(1, 400)), rows=data.draw(st.integers(1, 9)))
        opened = shelf.opened()
        got: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, tensor in given_tensors.items():
            wish = data.draw(st.sampled_from(["fresh", "plain", "turned", "regions"]))
            if wish == "plain":
                opened[name].offer(memory := torch.empty_like(tensor))
                got[name] = memory, tensor
            elif wish == "turned":
                opened[name].offer(memory := with_strides(tensor, data.draw(st.permutations(range(tensor.ndim)))))
                assert opened[name].is_offered
                got[name] = memory, tensor
            elif wish == "regions":
                targets = []
                for number in range(data.draw(st.integers(1, 3))):
                    starts = [data.draw(st.integers(0, length)) for length in tensor.shape]
                    lengths = [data.draw(st.integers(0, n - at)) for n, at in zip(tensor.shape, starts, strict=True)]
                    box = Box(tuple(starts), tuple(lengths))
                    memory = torch.empty(lengths, dtype=tensor.dtype)
                    targets.append(Target(memory, box))
                    got[f"{name}/{number}"] = memory, tensor[slices(box)]
                opened[name].targets, opened[name]._tensor = tuple(targets), targets[0].tensor
        read = fill(shelf.store, shelf.blobs, list(opened.values()))
        for name, tensor in given_tensors.items():
            if name not in got and f"{name}/0" not in got:
                got[name] = opened[name].take(), tensor
        for name, (memory, expected) in got.items():
            assert memory.shape == expected.shape, name
            assert digest(memory.contiguous()) == digest(expected.contiguous()), name
        assert set(shelf.store.requests) == {shelf.blobs[number].key for number in read}

    check()


def test_a_blob_of_many_tensors_is_one_request_and_nothing_is_copied() -> None:
    """Header and what lies between are all that goes elsewhere."""
    tensors = {f"p{number}": torch.randn(50, 50) for number in range(40)}
    shelf = Shelf(tensors, limit=100_000)
    opened = shelf.opened()
    memories = {name: torch.empty(50, 50) for name in tensors}
    for name, memory in memories.items():
        opened[name].offer(memory)
    assert len(shelf.blobs) == 4
    assert fill(shelf.store, shelf.blobs, list(opened.values())) == {0, 1, 2, 3}
    assert list(shelf.store.requests.values()) == [1, 1, 1, 1]
    for name, memory in memories.items():
        assert digest(memory) == digest(tensors[name])
        assert opened[name].take(memory) is memory


def test_only_blobs_with_something_wanted_are_read() -> None:
    """Rows 4 to 8 of a tensor that lies in boxes of two rows: two blobs of six."""
    whole = torch.randn(12, 5)
    shelf = Shelf({"w": whole}, limit=1, rows=2)
    (stored,) = shelf.opened().values()
    memory = torch.empty(4, 5)
    stored.targets, stored._tensor = (Target(memory, Box((4, 0), (4, 5))),), memory
    assert fill(shelf.store, shelf.blobs, [stored]) == {2, 3}
    assert digest(memory) == digest(whole[4:8])


def test_damage_in_a_part_that_nobody_wants_is_found() -> None:
    """A digest is over the whole blob: nothing is believed of one that does not add up."""
    shelf = Shelf({"a": torch.zeros(10), "b": torch.zeros(10)}, limit=1000)
    data = bytearray(shelf.store.read(shelf.blobs[0].key))
    data[-1] ^= 1
    shelf.store.write(shelf.blobs[0].key, [bytes(data)])
    with pytest.raises(CheckpointCorrupt, match="differ from its digest"):
        fill(shelf.store, shelf.blobs, [shelf.opened()["a"]])
    assert shelf.store.requests[shelf.blobs[0].key] == 2  # a second look


def test_damage_on_the_way_is_healed_by_the_second_look() -> None:
    """Bytes that arrived wrong once are written over by the right ones."""

    class Noisy(Counting):
        def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
            filled = super().read_into(key, start, memories)
            if self.requests[key] == 1:
                memories[0][0] ^= 1
            return filled

    shelf = Shelf({"a": torch.randn(10)})
    noisy = Noisy()
    noisy.write(shelf.blobs[0].key, [shelf.store.read(shelf.blobs[0].key)])
    stored = shelf.opened()["a"]
    fill(noisy, shelf.blobs, [stored])
    assert noisy.requests[shelf.blobs[0].key] == 2


@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "missing"])
def test_an_object_of_another_size_is_damaged(change: str) -> None:
    """Also if all that was declared is there and right."""
    shelf = Shelf({"a": torch.randn(10)})
    key = shelf.blobs[0].key
    data = shelf.store.read(key)
    if change == "missing":
        shelf.store.delete(key)
    else:
        shelf.store.write(key, [{"longer": data + b"x", "shorter": data[:-1], "empty": b""}[change]])
    told = {"longer": "has more", "shorter": "has only", "empty": "has only 0", "missing": "it is missing"}
    with pytest.raises(CheckpointCorrupt, match=told[change]):
        fill(shelf.store, shelf.blobs, list(shelf.opened().values()))


def test_two_tensors_for_the_same_memory_do_not_race() -> None:
    """Tied now and not tied when saved: as before, the later one wins, by a copy, and not by chance."""
    shelf = Shelf({"a": torch.zeros(1000), "b": torch.ones(1000)}, limit=1)
    memory = torch.empty(1500)
    opened = shelf.opened()
    first, second = memory[:1000], memory[500:]
    opened["a"].offer(first)
    opened["b"].offer(second)
    fill(shelf.store, shelf.blobs, list(opened.values()))
    assert opened["a"].is_offered
    assert not opened["b"].is_offered
    opened["a"].put(first)
    opened["b"].put(second)
    assert digest(memory) == digest(torch.cat([torch.zeros(500), torch.ones(1000)]))


def test_tensors_that_share_bytes_of_a_blob_are_both_read() -> None:
    """Nothing of ours writes such a manifest, but it adds up, so it is read: more than once. Not without end."""
    content = bytes(range(64))
    store = Counting()
    blob = write_blob(store, 1, [content])

    def manifest(count: int) -> dict[str, StoredTensor]:
        refs = {
            f"t{at}": TensorRef(blob=0, dtype="uint8", shape=(40,), start=at % 20, end=at % 20 + 40)
            for at in range(count)
        }
        fields: Any = {"job": "j", "attempt": 1, "writer": "w", "step": 1, "captured_at": SystemClock().now()}
        stored = Manifest(**fields, blobs=(blob,), tensors=refs).stored()
        return {name: StoredTensor(name, one) for name, one in stored.items()}

    opened = manifest(5)
    fill(store, (blob,), list(opened.values()))
    for at in range(5):
        assert bytes(opened[f"t{at}"].take().numpy()) == content[at : at + 40]
    with pytest.raises(CheckpointCorrupt, match="more than 16 tensors"):
        fill(store, (blob,), list(manifest(17).values()))


def test_sizes_that_no_machine_has_are_refused_before_anything_is_allocated_or_read() -> None:
    """A manifest can claim a petabyte of state: that costs an error, and no memory."""
    digest_of_it = "ab" * 32
    size = 10**13
    store = Counting()
    blobs = tuple(
        BlobRef(key=f"blobs/000001/{digest_of_it}-{number:08x}", size=size, digest=digest_of_it) for number in range(90)
    )
    refs = {
        f"w#{number}": TensorRef(
            blob=number, dtype="uint8", shape=(1, size), start=0, end=size, of="w", whole=(90, size),
            offset=(number, 0),
        )
        for number in range(90)
    }  # fmt: skip
    fields: Any = {"job": "j", "attempt": 1, "writer": "w", "step": 1, "captured_at": SystemClock().now()}
    (stored,) = Manifest(**fields, blobs=blobs, tensors=refs).stored().values()
    before = psutil.Process().memory_info().rss
    with pytest.raises(CheckpointError, match="900,000 GB of state"):
        fill(store, blobs, [StoredTensor("w", stored)])
    assert psutil.Process().memory_info().rss - before < 50 << 20
    assert not store.requests


def test_scratch_memory_stays_small_however_large_the_tensor() -> None:
    """A transposed tensor of 48 MB, and one in a single blob of which a column is wanted."""
    whole = torch.arange(12_000_000, dtype=torch.float32).reshape(3000, 4000)
    shelf = Shelf({"w": whole}, limit=10**9)
    (stored,) = shelf.opened().values()
    memory = with_strides(whole, (1, 0))
    stored.offer(memory)
    column = shelf.opened()["w"]
    column.targets = (Target(torch.empty(3000, 1), Box((0, 17), (3000, 1))),)
    column._tensor = column.targets[0].tensor
    taken: list[int] = []
    make = scratch.Scratch.__init__

    def counted(self: scratch.Scratch, *, pinned: bool) -> None:
        make(self, pinned=pinned)
        taken.append(self._memory.nbytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch.Scratch, "__init__", counted)
        fill(shelf.store, shelf.blobs, [stored])
        fill(shelf.store, shelf.blobs, [column])
    assert torch.equal(memory, whole)
    assert torch.equal(column.take(), whole[:, 17:18])
    assert sum(taken) <= 2 * 3 * (8 << 20)


def test_chunks_cover_a_tensor_once_in_order() -> None:
    """Each a run of bytes: whatever the shape and the limit."""
    for shape in [(), (1,), (7,), (3, 5), (2, 3, 4), (5, 1, 2, 3), (1, 1, 9)]:
        for limit in (1, 2, 3, 5, 8, 1000):
            order = torch.arange(int(torch.Size(shape).numel())).reshape(shape)
            chunks = list(reading._chunks(shape, limit))
            seen = [order[slices(chunk)].reshape(-1).tolist() for chunk in chunks]
            assert list(itertools.chain.from_iterable(seen)) == list(range(order.numel()))
            assert all(len(items) <= limit for items in seen)
