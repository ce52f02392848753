"""What every `BlobStore` must do, as tests: a store's own test class subclasses `StoreContract`."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from spotrun.errors import StoreError, StoreMissing, StoreUnavailable
from spotrun.store import BlobStore

RACERS = 50

HOSTILE_KEYS = ["", "/etc/passwd", "../outside", "a/../../outside", "a//b", "a/./b", "a/", "a\\b", "a\0b", "a\nb",
                ".spotrun-tmp/x", "x" * 300, "/".join(["abcdefg"] * 200), "\ud800"]  # fmt: skip


class StoreContract:
    """Subclasses give the fixture `store`: empty, and of their kind."""

    def test_what_is_written_is_read_back_whole_and_in_ranges(self, store: BlobStore) -> None:
        """Ranges end where the object ends, as slices do."""
        store.write("a/b", [b"0123", memoryview(b"456"), b"", b"789"])
        assert store.read("a/b") == b"0123456789"
        assert store.read("a/b", 3, 6) == b"345"
        assert store.read("a/b", 8) == b"89"
        assert store.read("a/b", 8, 100) == b"89"
        assert store.read("a/b", 10, 12) == b""
        assert store.read("a/b", 11) == b""
        assert store.read("a/b", 4, 4) == b""

    def test_ranges_are_read_into_memory_of_the_callers(self, store: BlobStore) -> None:
        """As many bytes as there are, and not one beside them."""
        store.write("k", [b"0123456789"])
        memory = bytearray(b"-" * 8)
        assert store.read_into("k", 2, [memoryview(memory)[1:3], memoryview(memory)[3:5]]) == 4
        assert bytes(memory) == b"-2345---"
        assert store.read_into("k", 8, [memoryview(memory)[5:6], memoryview(memory)[6:]]) == 2
        assert bytes(memory[:7]) == b"-234589"
        assert store.read_into("k", 10, [memoryview(memory)]) == 0
        assert store.read_into("k", 3, []) == 0
        with pytest.raises(StoreMissing):
            store.read_into("not-there", 0, [memoryview(memory)])

    def test_an_empty_object_is_an_object(self, store: BlobStore) -> None:
        """Nothing in it, but it is there."""
        store.write("empty", [])
        assert store.read("empty") == b""
        assert store.read("empty", 0, 1) == b""
        assert store.list("") == ["empty"]
        assert not store.create("empty", b"x")
        assert store.create("also-empty", b"")
        assert not store.create("also-empty", b"")

    def test_parts_may_be_views_of_any_contiguous_memory(self, store: BlobStore) -> None:
        """Tensor memory comes as views, of bytes or not."""
        numbers = memoryview(bytearray(range(16))).cast("I")
        store.write("k", [numbers, memoryview(b"abcdef")[2:4]])
        assert store.read("k") == bytes(range(16)) + b"cd"

    def test_a_write_replaces_what_was_there(self, store: BlobStore) -> None:
        """Also by something shorter."""
        store.write("k", [b"long before"])
        store.write("k", [b"new"])
        assert store.read("k") == b"new"

    def test_create_leaves_what_is_there_alone_and_says_so(self, store: BlobStore) -> None:
        """The log's foundation."""
        assert store.create("log/1", b"first")
        assert not store.create("log/1", b"second")
        assert store.read("log/1") == b"first"
        store.write("other", [b"x"])
        assert not store.create("other", b"y")

    def test_a_deleted_object_is_gone_and_may_be_created_again(self, store: BlobStore) -> None:
        """Deleting what is not there is silent."""
        store.write("a/b/c", [b"x"])
        store.delete("a/b/c")
        store.delete("a/b/c")
        store.delete("never/was")
        with pytest.raises(StoreMissing) as caught:
            store.read("a/b/c")
        assert caught.value.key == "a/b/c"
        assert store.create("a/b/c", b"y")

    def test_missing_objects_are_missing_however_they_are_asked_for(self, store: BlobStore) -> None:
        """Whole or by range; below a key that exists or not."""
        store.write("there", [b"x"])
        for key in ("not-there", "no/such/place", "theres"):
            with pytest.raises(StoreMissing):
                store.read(key)
            with pytest.raises(StoreMissing):
                store.read(key, 1, 2)

    def test_listings_are_sorted_complete_and_by_prefix(self, store: BlobStore) -> None:
        """A prefix need not end at a slash."""
        keys = ["b/2", "b/10", "b/1/x", "b/1/y", "a", "b2", "c/d/e/f"]
        for key in keys:
            store.write(key, [key.encode()])
        assert store.list("") == sorted(keys)
        assert store.list("b/") == ["b/1/x", "b/1/y", "b/10", "b/2"]
        assert store.list("b") == ["b/1/x", "b/1/y", "b/10", "b/2", "b2"]
        assert store.list("b/1") == ["b/1/x", "b/1/y", "b/10"]
        assert store.list("c/d/e/f") == ["c/d/e/f"]
        assert store.list("nothing/here") == []
        assert store.list("zzz") == []

    def test_a_listing_sees_every_write_and_deletion_at_once(self, store: BlobStore) -> None:
        """No cache stands between."""
        for number in range(5):
            store.create(f"log/{number}", b"x")
            assert store.list("log/") == [f"log/{n}" for n in range(number + 1)]
        store.delete("log/2")
        assert store.list("log/") == ["log/0", "log/1", "log/3", "log/4"]

    def test_names_of_users_files_survive(self, store: BlobStore) -> None:
        """Outputs are uploaded under the names that they have."""
        keys = ["out/events.out.tfevents.1,2", "out/Straße 1.txt", "out/.hidden", "out/a+b=c&d%20#e?f", "out/100%.txt"]
        for key in keys:
            store.write(key, [key.encode()])
        assert store.list("out/") == sorted(keys)
        for key in keys:
            assert store.read(key) == key.encode()

    @pytest.mark.parametrize("key", HOSTILE_KEYS, ids=range(len(HOSTILE_KEYS)))
    def test_a_key_that_could_leave_the_root_is_refused(self, store: BlobStore, key: str) -> None:
        """Whatever asks for it, and before anything is touched."""
        asks = (store.read, store.delete, lambda k: store.write(k, [b"x"]), lambda k: store.create(k, b"x"))
        for ask in asks:
            with pytest.raises(StoreError) as caught:
                ask(key)
            assert not isinstance(caught.value, StoreMissing)
        assert store.list("") == []

    def test_of_many_that_create_one_key_at_once_exactly_one_wins(self, store: BlobStore) -> None:
        """Each key's winner is told so, and its bytes are what is read."""
        start = threading.Barrier(RACERS)

        def race(racer: int) -> bool:
            start.wait(timeout=60)
            return store.create("log/00000001.json", b"racer %d" % racer)

        with ThreadPoolExecutor(RACERS) as pool:
            won = list(pool.map(race, range(RACERS)))
        assert won.count(True) == 1
        assert store.read("log/00000001.json") == b"racer %d" % won.index(True)

    def test_a_reader_never_sees_a_partly_written_object(self, store: BlobStore) -> None:
        """One writer replaces an object over and over while readers look."""
        old, new = b"a" * 300_000, b"b" * 200_000
        store.write("k", [old])
        done = threading.Event()

        def look() -> set[bytes]:
            seen = set()
            while not done.is_set():
                with contextlib.suppress(
                    StoreUnavailable
                ):  # moto, when what it reads from is replaced: not a wrong byte
                    seen.add(store.read("k"))
            return seen

        with ThreadPoolExecutor(2) as pool:
            looks = [pool.submit(look) for _ in range(2)]
            try:
                for turn in range(20):
                    store.write("k", [new if turn % 2 else old])
            finally:
                done.set()
            assert set().union(*(one.result(timeout=60) for one in looks)) <= {old, new}
