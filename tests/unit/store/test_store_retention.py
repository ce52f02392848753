"""What prune removes, and that it never removes what someone needs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_run import begin, manifest_of, save

from spotrun.errors import CheckpointCorrupt
from spotrun.store import CommitEntry, Lineage, MemoryStore, prune, read_log, read_manifest, verify, write_blob


def commits(store: MemoryStore) -> list[CommitEntry]:
    return [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]


def readable(store: MemoryStore) -> list[int]:
    found = []
    for entry in commits(store):
        try:
            found.append(verify(store, entry).step)
        except CheckpointCorrupt:
            continue
    return found


def test_the_last_commits_are_kept_whole_and_the_rest_is_removed() -> None:
    """The log stays."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    for step in range(1, 6):
        save(store, lineage, step)
    assert prune(store, lineage.commits, keep=2) == 6
    assert readable(store) == [4, 5]
    assert len(store.list("manifests/")) == 2
    assert len(store.list("blobs/")) == 3
    assert len(read_log(store)) == 6
    assert prune(store, lineage.commits, keep=2) == 0
    assert prune(store, lineage.commits, keep=9) == 0
    assert prune(store, (), keep=1) == 0


def test_the_newest_commit_can_not_be_pruned() -> None:
    """Keeping none is refused."""
    store = MemoryStore()
    for keep in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            prune(store, (), keep=keep)


def test_a_kept_manifest_that_cannot_be_read_stops_everything() -> None:
    """Else the blobs that it names would be taken for unneeded."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    for step in range(1, 5):
        save(store, lineage, step)
    store.write(lineage.commits[-2].manifest, [b"damaged"])
    before = store.list("")
    with pytest.raises(CheckpointCorrupt):
        prune(store, lineage.commits, keep=2)
    assert store.list("") == before


def test_a_higher_keep_counts_only_what_is_still_there() -> None:
    """The user asks for more than were kept so far; and a newest commit without its manifest stops everything."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    for step in range(1, 4):
        save(store, lineage, step)
        prune(store, lineage.commits, keep=1)
    for step in range(4, 8):
        save(store, lineage, step)
        prune(store, lineage.commits, keep=3)
    assert readable(store) == [5, 6, 7]
    store.delete(lineage.commits[-1].manifest)
    before = store.list("")
    with pytest.raises(CheckpointCorrupt, match="newest"):
        prune(store, lineage.commits, keep=1)
    assert store.list("") == before


def test_what_earlier_attempts_left_unfinished_is_removed() -> None:
    """Blobs of a save that never became a commit, and manifests that no entry names."""
    store = MemoryStore()
    dead = begin(store, attempt=1)
    dead.claim()
    save(store, dead, 1)
    write_blob(store, 1, [b"half a save"])
    store.create("manifests/000000000009-000001.json", b"never committed")
    alive = begin(store, attempt=2)
    alive.claim()
    save(store, alive, 2)
    save(store, alive, 3)
    prune(store, alive.commits, keep=1)
    assert readable(store) == [3]
    needed = {blob.key for blob in read_manifest(store, commits(store)[-1]).blobs}
    assert set(store.list("blobs/")) == needed
    assert store.list("manifests/") == [commits(store)[-1].manifest]


def test_a_save_that_is_under_way_is_not_touched() -> None:
    """Other ranks of the same attempt, or a newer attempt, may be writing blobs that no manifest names yet."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    for step in (1, 2, 3):
        save(store, lineage, step)
    mine, newer = write_blob(store, 1, [b"rank 1, next step"]), write_blob(store, 2, [b"next attempt"])
    store.create("manifests/000000000004-000002.json", b"on its way")
    prune(store, lineage.commits, keep=1)
    assert {mine.key, newer.key} <= set(store.list("blobs/"))
    assert "manifests/000000000004-000002.json" in store.list("manifests/")


def test_objects_of_others_in_the_place_are_not_touched() -> None:
    """Heartbeats, outputs, and what a user puts beside them."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    others = [
        "attempts/000001/heartbeat.json",
        "output/model.bin",
        "blobs/notes.txt",
        "manifests/README",
        "blobs/000001x/y",
    ]
    for key in others:
        store.write(key, [b"x"])
    for step in (1, 2, 3):
        save(store, lineage, step)
    prune(store, lineage.commits, keep=1)
    assert all(store.read(key) == b"x" for key in others)


class Slow(MemoryStore):
    """A zombie's view of a store: its deletions are held back until someone lets them go."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self._objects = store._objects
        self.held: list[str] = []

    def delete(self, key: str) -> None:
        self.held.append(key)


actions = st.lists(st.sampled_from(["save", "save", "save", "prune", "take over", "arrive"]), min_size=5, max_size=40)


@settings(max_examples=300, deadline=None)
@given(actions=actions, keep=st.integers(1, 3), layers=st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_deletions_that_arrive_late_never_hit_a_needed_blob(actions: list[str], keep: int, layers: list[int]) -> None:
    """Writers prune after their commits and are replaced at any moment; their deletions arrive, again, at any later one.

    Layers change or stay from save to save, and a save takes over what the commit before it holds. The newest commit is
    whole at any time.
    """
    store = MemoryStore()
    flying: list[list[str]] = []
    attempt, step = 1, 0
    lineage: Lineage = begin(store, attempt=attempt)
    lineage.claim()
    for turn, action in enumerate(actions):
        match action:
            case "save":
                step += 1
                before = (
                    {blob.digest: blob for blob in read_manifest(store, lineage.commits[-1]).blobs}
                    if lineage.commits
                    else {}
                )
                blobs = []
                for layer, content in enumerate((layers[turn], step, 7)):
                    fresh = write_blob(MemoryStore(), attempt, [b"%d:%d" % (layer, content)])
                    blobs.append(before.get(fresh.digest) or write_blob(store, attempt, [b"%d:%d" % (layer, content)]))
                lineage.commit(manifest_of(lineage, step, tuple(blobs)))
            case "prune" if lineage.commits and lineage.commits[-1].attempt == attempt:
                slow = Slow(store)
                prune(slow, lineage.commits, keep=keep)
                for key in slow.held:
                    store.delete(key)
                flying.append(slow.held)  # a copy of each request may arrive once more, at any time later
            case "take over":
                attempt += 1
                lineage = begin(store, attempt=attempt)
                lineage.claim()
            case "arrive" if flying:
                for key in flying.pop(layers[turn] % len(flying)):
                    store.delete(key)
        if lineage.commits:
            verify(store, lineage.commits[-1])


def test_bytes_that_come_back_are_stored_anew_and_not_hit_by_the_removal_of_the_old_ones() -> None:
    """A layer toggles between two values while the commit that first held one of them is pruned."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    for step in (1, 2, 3):
        save(store, lineage, step)
    old = read_manifest(store, lineage.commits[0]).blobs[0]
    again = write_blob(store, 1, [store.read(old.key)])
    prune(store, lineage.commits, keep=2)
    lineage.commit(manifest_of(lineage, 4, (again,)))
    store.delete(old.key)
    assert readable(store) == [2, 3, 4]
