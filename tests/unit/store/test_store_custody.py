"""Custody: pruning by rules beside a running job, tags, orphans, what there is of a run, how commits differ."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_run import begin, manifest_of, save

from spotrun.errors import CheckpointCorrupt, CheckpointError, SpecError
from spotrun.policy import Retention
from spotrun.store import (
    CommitEntry,
    Lineage,
    Manifest,
    MemoryStore,
    TensorRef,
    read_log,
    read_manifest,
    verify,
    write_blob,
)
from spotrun.store.collection import find_orphans
from spotrun.store.difference import Change, Side, compare_states, compare_tensors
from spotrun.store.inventory import CommitState, find_commit, inventory
from spotrun.store.retention import Pruner, remove
from spotrun.store.tag import add_tag, read_tags, remove_tag, tags_by_manifest

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)


def commits(store: MemoryStore) -> list[CommitEntry]:
    return [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]


def pruner(store: MemoryStore, retention: Retention) -> Pruner:
    def choose(there: Sequence[CommitEntry]) -> list[CommitEntry]:
        return retention.choose(there, tags=tags_by_manifest(store))

    return Pruner(store, choose)


def run_of(steps: int, store: MemoryStore | None = None) -> tuple[MemoryStore, Lineage]:
    store = store or MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    for step in range(1, steps + 1):
        save(store, lineage, step)
    return store, lineage


def whole(store: MemoryStore) -> list[int]:
    there = set(store.list("manifests/"))
    return [verify(store, entry).step for entry in commits(store) if entry.manifest in there]


def test_an_old_commit_that_is_kept_stays_whole_when_its_neighbours_go() -> None:
    """Its frozen blob was written by the first commit, and is shared by all."""
    store, lineage = run_of(12)
    pruner(store, Retention(last=2, every_steps=5)).prune(lineage.commits)
    assert whole(store) == [1, 5, 10, 11, 12]
    assert len(store.list("blobs/")) == 6
    save(store, lineage, 13)
    pruner(store, Retention(last=1)).prune(lineage.commits)
    assert whole(store) == [13]


def test_a_tagged_commit_is_kept_until_its_tag_is_gone() -> None:
    """The tag's object is beside the log; the commit knows nothing of it."""
    store, lineage = run_of(5)
    tag = add_tag(store, "epoch-1", lineage.commits[1], at=NOW)
    assert add_tag(store, "epoch-1", lineage.commits[1], at=NOW) == tag  # a reply was lost
    assert read_tags(store) == (tag,)
    pruner(store, Retention(last=1)).prune(lineage.commits)
    assert whole(store) == [2, 5]
    with pytest.raises(SpecError, match="given to another commit"):
        add_tag(store, "epoch-1", lineage.commits[4], at=NOW)
    remove_tag(store, "epoch-1")
    pruner(store, Retention(last=1)).prune(lineage.commits)
    assert whole(store) == [5]
    with pytest.raises(SpecError, match="no tag"):
        remove_tag(store, "epoch-1")


def test_a_tag_on_a_commit_that_is_gone_is_taken_back() -> None:
    """A prune was faster: the name is free again, and the user knows."""
    store, lineage = run_of(3)
    blob = read_manifest(store, lineage.commits[0]).blobs[0]
    store.delete(blob.key)
    with pytest.raises(CheckpointError, match="removed meanwhile"):
        add_tag(store, "good", lineage.commits[0], at=NOW)
    store.delete(lineage.commits[0].manifest)
    with pytest.raises(CheckpointCorrupt):
        add_tag(store, "good", lineage.commits[0], at=NOW)
    assert read_tags(store) == ()


def test_a_damaged_tag_stops_pruning() -> None:
    """Nobody knows what it keeps."""
    store, lineage = run_of(4)
    add_tag(store, "good", lineage.commits[0], at=NOW)
    line = store.read("tags/good.json")
    before = store.list("")
    for damaged in (line[:-2], line.replace(b'"step":1', b'"step":2'), b"{}", b"[]", b"", b"x" * 9999, line * 2):
        store.write("tags/good.json", [damaged])
        with pytest.raises(CheckpointCorrupt, match="tags/good"):
            pruner(store, Retention(last=1)).prune(lineage.commits)
    assert store.list("") == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "latest", "120", "120-2", "-a", "a" * 101, "é", "a b"])
def test_a_tag_never_looks_like_a_step_or_a_path(name: str) -> None:
    """Its name becomes a key."""
    with pytest.raises(SpecError, match="is no tag"):
        add_tag(MemoryStore(), name, run_of(1)[1].commits[0], at=NOW)


actions = st.lists(
    st.sampled_from(
        ["save", "save", "save", "begin", "end", "prune", "outsider", "outsider", "arrive", "take over", "tag"]
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(
    actions=actions,
    keep=st.builds(Retention, last=st.integers(1, 3), every_steps=st.none() | st.integers(1, 4)),
    layers=st.lists(st.integers(0, 2), min_size=40, max_size=40),
)
def test_an_outsider_may_prune_beside_writers_at_any_moment(
    actions: list[str], keep: Retention, layers: list[int]
) -> None:
    """Someone plans a removal, and carries it out at any later time: in the middle of a save, or after a take-over.

    What any manifest in the store names is there at any time; the newest commit and every tagged one are whole.
    """
    store = MemoryStore()
    attempt, step = 1, 0
    lineage = begin(store, attempt=attempt)
    lineage.claim()
    planned: list[tuple[str, ...]] = []
    half: Manifest | None = None
    tagged: list[CommitEntry] = []
    for turn, action in enumerate(actions):
        match action:
            case "save" | "begin" if half is None:
                step += 1
                before = (
                    {blob.digest: blob for blob in read_manifest(store, lineage.commits[-1]).blobs}
                    if lineage.commits
                    else {}
                )
                contents = [b"%d:%d" % pair for pair in enumerate((layers[turn], step, 7))]
                blobs = [
                    before.get(write_blob(MemoryStore(), 1, [each]).digest) or write_blob(store, attempt, [each])
                    for each in contents
                ]
                half = manifest_of(lineage, step, tuple(blobs))
                if action == "save":
                    lineage.commit(half)
                    half = None
            case "end" if half is not None:
                lineage.commit(half)
                half = None
            case "prune" if half is None and lineage.commits and lineage.commits[-1].attempt == attempt:
                pruner(store, keep).prune(lineage.commits)
            case "outsider" if commits(store):
                planned.append(pruner(store, keep).plan(commits(store)).keys)
            case "arrive" if planned:
                remove(store, planned.pop(layers[turn] % len(planned)))
            case "take over":
                attempt, half = attempt + 1, None
                lineage = begin(store, attempt=attempt)
                lineage.claim()
            case "tag" if commits(store) and not planned:
                add_tag(store, f"t{turn}", commits(store)[-1], at=NOW)
                tagged.append(commits(store)[-1])
        newest = commits(store)[-1:]
        for entry in (*newest, *tagged):
            verify(store, entry)
        whole(store)


class Dated(MemoryStore):
    """Knows when its objects were written."""

    def __init__(self) -> None:
        super().__init__()
        self.at = NOW
        self.times: dict[str, datetime] = {}

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self.times[key] = self.at
        super().write(key, parts)

    def create(self, key: str, data: bytes) -> bool:
        self.times.setdefault(key, self.at)
        return super().create(key, data)

    def modified(self, prefix: str) -> dict[str, datetime]:
        return {key: self.times[key] for key in self.list(prefix)}


def orphans(store: MemoryStore, *, now: datetime = NOW) -> tuple[list[str], int]:
    found = find_orphans(store, read_log(store), now=now, grace=timedelta(days=1))
    return list(found.keys), found.young


def test_what_lost_attempts_left_is_an_orphan_at_once() -> None:
    """They are fenced: whatever they still write, no commit will need it."""
    store, _ = run_of(2)
    left = write_blob(store, 1, [b"half a save"])
    store.create("manifests/000000000009-000001-00000000.json", b"never committed")
    assert orphans(store) == ([], 2)
    newer = begin(store, attempt=2)
    newer.claim()
    assert orphans(store) == (["manifests/000000000009-000001-00000000.json", left.key], 0)
    remove(store, orphans(store)[0])
    assert whole(store) == [1, 2]


def test_what_the_newest_attempt_left_is_an_orphan_after_the_grace_time_only() -> None:
    """It may be a save that is under way; a store that cannot tell ages keeps it for good."""
    store = Dated()
    run_of(2, store)
    old = write_blob(store, 1, [b"a save that failed"])
    store.at += timedelta(hours=25)
    young = write_blob(store, 1, [b"a save under way"])
    later = store.at + timedelta(minutes=5)
    assert orphans(store, now=later) == ([old.key], 1)
    remove(store, orphans(store, now=later)[0])
    assert young.key in store.list("blobs/")
    assert whole(store) == [1, 2]


def test_nothing_is_an_orphan_where_something_cannot_be_read() -> None:
    """A damaged entry may be a commit; a damaged manifest may need any blob."""
    store, lineage = run_of(2)
    begin(store, attempt=2).claim()
    write_blob(store, 1, [b"half a save"])
    manifest = store.read(lineage.commits[0].manifest)
    store.write(lineage.commits[0].manifest, [b"x"])
    with pytest.raises(CheckpointError, match="nothing is removed"):
        orphans(store)
    store.write(lineage.commits[0].manifest, [manifest])
    store.delete("log/00000002.json")
    with pytest.raises(CheckpointError, match="none is removed"):
        orphans(store)


def test_the_inventory_says_what_each_commit_added_and_what_became_of_it() -> None:
    """A frozen layer is counted once; what was pruned adds nothing that anybody could tell."""
    store, lineage = run_of(5)
    pruner(store, Retention(last=1, every_steps=2)).prune(lineage.commits)
    held = inventory(store, lineage.commits)
    assert [each.state.value for each in held] == ["kept", "kept", "pruned", "kept", "kept"]
    assert [each.added for each in held] == [224, 164, None, None, 164]
    store.write(held[1].entry.manifest, [b"x"])
    store.delete(held[4].entry.manifest)
    states = [each.state for each in inventory(store, lineage.commits)]
    assert states[1] is states[4] is CommitState.DAMAGED


def test_a_commit_is_found_by_step_attempt_and_tag() -> None:
    """Of several commits of one step the newest is meant."""
    store, first = run_of(3)
    second = begin(store, attempt=2)
    second.claim()
    save(store, second, 3)
    found = commits(store)
    assert find_commit(found, "latest", tags={}) is find_commit(found, "3", tags={}) is found[-1]
    assert find_commit(found, "3-1", tags={}) is found[2]
    assert find_commit(found, "best", tags={"best": found[0].manifest}) is found[0]
    for wanted in ("4", "3-3", "other", "", "1e3"):
        if wanted:
            with pytest.raises(SpecError, match="newest steps are 1, 2, 3"):
                find_commit(found, wanted, tags={})
    with pytest.raises(SpecError, match="nothing is committed"):
        find_commit([], "latest", tags={})
    assert first.commits[-1] in found


def tensor_commit(values: Sequence[float], *, cut: int | None = None, extra: bool = False) -> Side:
    """A commit of one float tensor, whole or in two boxes, and of one that never changes."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    size = len(values)
    blobs = [write_blob(store, 1, [struct.pack("<4f", *range(4))])]
    tensors = {"same": TensorRef(blob=0, dtype="float32", shape=(4,), start=0, end=16)}
    for number, (start, end) in enumerate([(0, size)] if cut is None else [(0, cut), (cut, size)]):
        blobs.append(write_blob(store, 1, [struct.pack(f"<{end - start}f", *values[start:end])]))
        boxed = {} if cut is None else {"of": "w", "whole": (size,), "offset": (start,)}
        name = "w" if cut is None else f"w#{number}"
        tensors[name] = TensorRef(
            blob=number + 1, dtype="float32", shape=(end - start,), start=0, end=4 * (end - start), **boxed
        )
    if extra:
        tensors["new"] = tensors["same"]
    manifest = manifest_of(lineage, 1).model_copy(update={"blobs": tuple(blobs), "tensors": tensors})
    return Side(store, manifest)


def test_tensors_are_compared_whatever_boxes_they_lie_in() -> None:
    """Two processes saved what one did: the same. One element moved: by how much."""
    whole_side, cut = tensor_commit([1.0, 2.0, 4.0]), tensor_commit([1.0, 2.0, 4.0], cut=2)
    assert {each.name: each.change for each in compare_tensors(whole_side, cut)} == {
        "same": Change.SAME,
        "w": Change.SAME,
    }
    moved = {each.name: each for each in compare_tensors(cut, tensor_commit([1.0, 3.0, 4.0], extra=True))}
    assert moved["w"].change is Change.CHANGED
    assert moved["w"].relative == pytest.approx(0.25)
    assert moved["new"].change is Change.ADDED
    back = {each.name: each for each in compare_tensors(tensor_commit([1.0], extra=True), tensor_commit([1.0, 2.0]))}
    assert back["new"].change is Change.REMOVED
    assert back["w"].note == "float32 [1] became float32 [2]"
    endless = {each.name: each for each in compare_tensors(cut, tensor_commit([1.0, float("nan"), 4.0]))}
    assert endless["w"].relative is None


def test_documents_are_compared_place_by_place() -> None:
    """Tensors in them are left out, and NaN is itself."""
    left = {"a": {"lr": 0.1, "n": float("nan")}, "b": [1, 2], "t": {"$": "tensor", "name": "x"}, "gone": 1}
    right = {"a": {"lr": 0.2, "n": float("nan")}, "b": [1, 3], "t": {"$": "tensor", "name": "y"}, "d": {"x": 1}}
    assert list(compare_states(left, right)) == [
        ("a.lr", "0.1", "0.2"),
        ("b[1]", "2", "3"),
        ("gone", "1", "nothing"),
        ("d", "nothing", "{1 members}"),
    ]
