"""Verifying a commit: every byte is read, several blobs at a time, in bounded memory, with word of how far it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from store_run import begin, manifest_of, save

from spotrun.errors import CheckpointCorrupt, StoreUnavailable
from spotrun.store import CommitEntry, MemoryStore, content, fill_blob, read_manifest, verify, write_blob


def committed(store: MemoryStore, contents: Sequence[bytes]) -> CommitEntry:
    lineage = begin(store)
    lineage.claim()
    return lineage.commit(manifest_of(lineage, 1, tuple(write_blob(store, 1, [one]) for one in contents)))


def test_progress_goes_to_the_last_byte_and_never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a blob must be read twice."""
    monkeypatch.setattr(content, "_CHUNK_BYTES", 10)

    class Noisy(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.heard: set[str] = set()

        def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
            filled = super().read_into(key, start, memories)
            if key.startswith("blobs/") and start == 20 and key not in self.heard:
                self.heard.add(key)
                memories[0][0] ^= 1
            return filled

    store = Noisy()
    entry = committed(store, [bytes([number]) * (number * 7 + 1) for number in range(9)])
    told: list[tuple[int, int]] = []
    manifest = verify(store, entry, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (manifest.size, manifest.size)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(store.heard) == 6


def test_several_blobs_are_read_at_a_time_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large they are, each is read in chunks."""
    monkeypatch.setattr(content, "_CHUNK_BYTES", 100)

    class Busy(MemoryStore):
        together = threading.Barrier(content._VERIFY_THREADS)
        largest = 0

        def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
            if key.startswith("blobs/"):
                self.largest = max(self.largest, sum(memory.nbytes for memory in memories))
                if start == 0:
                    self.together.wait(30)
            return super().read_into(key, start, memories)

    store = Busy()
    entry = committed(store, [bytes([number]) * 1000 for number in range(content._VERIFY_THREADS)])
    verify(store, entry)
    assert store.largest <= 101


def test_of_several_damaged_blobs_the_first_is_named() -> None:
    """So that two looks at the same damage say the same."""
    store = MemoryStore()
    entry = committed(store, [bytes([number]) * 50 for number in range(8)])
    blobs = read_manifest(store, entry).blobs
    for number in (2, 5, 7):
        store.write(blobs[number].key, [b"x" * 50])
    for _ in range(5):
        with pytest.raises(CheckpointCorrupt) as found:
            verify(store, entry)
        assert found.value.key == blobs[2].key


@pytest.mark.parametrize("change", ["flipped", "longer", "shorter", "empty", "missing", "swapped"])
def test_every_kind_of_damage_is_found(change: str) -> None:
    """In an object of any size, also of none."""
    contents = [b"", b"a", b"b" * 100]
    for number in range(3):
        store = MemoryStore()
        entry = committed(store, contents)
        key = read_manifest(store, entry).blobs[number].key
        data = store.read(key)
        if change == "missing":
            store.delete(key)
        elif change == "swapped":
            store.write(key, [contents[(number + 1) % 3]])
        else:
            new = {"flipped": data[:-1] + b"\x01", "longer": data + b"x", "shorter": data[:-1], "empty": b""}[change]
            if new == data:
                continue
            store.write(key, [new])
        with pytest.raises(CheckpointCorrupt, match=key):
            verify(store, entry)


def test_a_store_that_fails_is_no_damage() -> None:
    """The network being away says nothing of the bytes."""

    class Away(MemoryStore):
        away = False

        def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
            if self.away and key.startswith("blobs/"):
                raise StoreUnavailable("the network is away")
            return super().read_into(key, start, memories)

    store = Away()
    lineage = begin(store)
    lineage.claim()
    entry = save(store, lineage, 1)
    store.away = True
    with pytest.raises(StoreUnavailable):
        verify(store, entry)


def test_memory_for_a_blob_is_given_request_by_request() -> None:
    """And what came with one is there when the next is asked for."""
    store = MemoryStore()
    ref = write_blob(store, 1, [b"0123456789"])
    seen: list[bytes] = []
    memory = memoryview(bytearray(4))

    def requests() -> Iterator[Sequence[memoryview]]:
        for size in (4, 4, 2):
            yield [memory[:1], memory[1:size]]
            seen.append(bytes(memory[:size]))

    fill_blob(store, ref, requests)
    assert seen == [b"0123", b"4567", b"89"]
