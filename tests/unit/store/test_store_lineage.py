"""A writer's hold on a run, over real stores with faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from store_run import begin, manifest_of, save

from spotrun.errors import CheckpointCorrupt, Fenced, StoreError, StoreUnavailable
from spotrun.store import (
    BlobRef,
    BlobStore,
    ClaimEntry,
    CommitEntry,
    DamagedEntry,
    FileStore,
    MemoryStore,
    open_store,
    read_blob,
    read_log,
    read_manifest,
    verify,
    write_blob,
)
from spotrun.store.digest import Part
from spotrun.store.retry import RetryingStore


class FaultyStore(MemoryStore):
    """Memory in which the next creation of a key that starts with `prefix` goes wrong, once."""

    def __init__(self) -> None:
        super().__init__()
        self.prefix = ""
        self.fault = ""

    def break_next(self, prefix: str, fault: str) -> None:
        self.prefix, self.fault = prefix, fault

    def create(self, key: str, data: bytes) -> bool:
        fault = self.fault if key.startswith(self.prefix) else ""
        if not fault:
            return super().create(key, data)
        self.fault = ""
        if fault == "lost request":
            raise StoreUnavailable("no route")
        created = super().create(key, data)
        if fault == "lost reply":
            raise StoreUnavailable("connection reset")
        assert fault == "reply lost, tried again by the client"
        return created and super().create(key, data)


FAULTS = ["lost request", "lost reply", "reply lost, tried again by the client"]


def commits(store: BlobStore) -> list[tuple[int, int]]:
    return [(entry.attempt, entry.step) for entry in read_log(store) if isinstance(entry, CommitEntry)]


def patiently(ask: Callable[[], object]) -> None:
    try:
        ask()
    except StoreUnavailable:
        ask()


def test_a_newer_attempt_takes_over_and_the_older_one_is_fenced_for_good() -> None:
    """The zombie wakes up in the middle of a save. Nothing of it becomes visible, then or later."""
    store = MemoryStore()
    zombie = begin(store, attempt=1)
    assert zombie.claim() == ()
    first = save(store, zombie, 10)
    newer = begin(store, attempt=2, writer="other")
    assert newer.claim() == (first,)
    for _ in range(2):
        with pytest.raises(Fenced) as caught:
            save(store, zombie, 20)
        assert (caught.value.attempt, caught.value.newer, caught.value.holder) == (1, 2, "other")
    with pytest.raises(Fenced):
        zombie.claim()
    save(store, newer, 11)
    assert commits(store) == [(1, 10), (2, 11)]


def test_an_older_attempt_that_boots_late_refuses_to_start() -> None:
    """Its machine was asked for first, and came last."""
    store = MemoryStore()
    begin(store, attempt=3).claim()
    with pytest.raises(Fenced, match="attempt 2 is fenced: attempt 3"):
        begin(store, attempt=2, writer="late").claim()
    assert len(read_log(store)) == 1


def test_a_second_process_of_one_attempt_is_refused_unless_it_is_the_same_writer() -> None:
    """A number is given out once. A restarted process, which says the same name, takes over from its former self."""
    store = MemoryStore()
    before = begin(store, attempt=1, writer="host:1")
    before.claim()
    with pytest.raises(Fenced, match=r"another process \(host:1\)"):
        begin(store, attempt=1, writer="host:2").claim()
    again = begin(store, attempt=1, writer="host:1")
    again.claim()
    save(store, again, 5)
    with pytest.raises(Fenced, match="another process"):
        save(store, before, 6)
    assert commits(store) == [(1, 5)]


def test_without_a_number_each_process_takes_the_next() -> None:
    """A script run by hand, again and again."""
    store = MemoryStore()
    for number in range(1, 4):
        lineage = begin(store)
        lineage.claim()
        assert lineage.attempt == number
        save(store, lineage, number)
    assert commits(store) == [(1, 1), (2, 2), (3, 3)]


def test_of_many_that_claim_at_once_the_last_in_the_log_owns_the_run() -> None:
    """Each gets its own number; all but the last are fenced at their next commit."""
    store = MemoryStore()
    start = threading.Barrier(12)

    def race(racer: int) -> object:
        lineage = begin(store, writer=f"w{racer}")
        start.wait(timeout=30)
        try:
            lineage.claim()
            return save(store, lineage, lineage.attempt or 0)
        except Fenced as err:
            return err

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(race, range(12)))
    log = read_log(store)
    claims = [entry for entry in log if isinstance(entry, ClaimEntry)]
    assert [claim.attempt for claim in claims] == sorted({claim.attempt for claim in claims})
    committed = [entry for entry in results if isinstance(entry, CommitEntry)]
    assert len(committed) + sum(isinstance(result, Fenced) for result in results) == 12
    assert any(entry.attempt == claims[-1].attempt for entry in committed)
    holder = 0
    for entry in log:
        assert not isinstance(entry, DamagedEntry)
        holder = entry.attempt if isinstance(entry, ClaimEntry) else holder
        assert entry.attempt == holder, "a commit stands behind the claim of another"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("prefix", ["log/00000001", "log/00000003", "manifests/"])
def test_a_lost_request_or_reply_neither_fences_the_writer_nor_doubles_a_commit(fault: str, prefix: str) -> None:
    """Whichever creation it hits, and whoever tries again: the client library or the caller."""
    store = FaultyStore()
    lineage = begin(store, attempt=1)
    store.break_next(prefix, fault)
    patiently(lineage.claim)
    for step in (1, 2, 3):
        manifest = manifest_of(lineage, step, (write_blob(store, 1, [b"%d" % step]),))
        patiently(lambda manifest=manifest: lineage.commit(manifest))  # type: ignore[misc]
    assert store.fault == ""
    assert commits(store) == [(1, 1), (1, 2), (1, 3)]
    assert [entry.step for entry in lineage.commits] == [1, 2, 3]


def test_a_commit_whose_reply_was_lost_is_known_at_the_next_one() -> None:
    """The caller gives up on a save that did land, trains on, and commits a later step."""
    store = FaultyStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    store.break_next("log/", "lost reply")
    with pytest.raises(StoreUnavailable):
        save(store, lineage, 1)
    assert lineage.commits == ()
    save(store, lineage, 2)
    assert [entry.step for entry in lineage.commits] == [1, 2]
    assert commits(store) == [(1, 1), (1, 2)]


def test_a_manifest_is_never_overwritten() -> None:
    """A step that is saved twice, with another state, has two manifests, and both commits can be read."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    blob = write_blob(store, 1, [b"one"])
    first = lineage.commit(manifest_of(lineage, 5, (blob,)))
    second = lineage.commit(manifest_of(lineage, 5))
    assert first.manifest != second.manifest
    assert read_manifest(store, first).blobs == (blob,)
    assert read_manifest(store, second).blobs == ()


def test_a_damaged_commit_does_not_stop_a_resume_from_an_earlier_one() -> None:
    """The newest entry is unreadable: a new attempt claims behind it, goes on from the one before, and commits."""
    store = MemoryStore()
    older = begin(store, attempt=1)
    older.claim()
    for step in (1, 2):
        save(store, older, step)
    store.write("log/00000003.json", [b"\0" * 400])
    newer = begin(store, attempt=2)
    assert [entry.step for entry in newer.claim()] == [1]
    save(store, newer, 2)
    assert [type(entry) for entry in read_log(store)] == [
        ClaimEntry,
        CommitEntry,
        DamagedEntry,
        ClaimEntry,
        CommitEntry,
    ]


@pytest.mark.parametrize("what", ["claim", "commit"])
def test_a_writer_stops_when_it_cannot_read_what_took_its_number(what: str) -> None:
    """It may be the claim of a newer attempt, so going on is not worth the risk; the newer one can."""
    store = MemoryStore()
    older, newer = begin(store, attempt=1), begin(store, attempt=2)
    older.claim()
    newer.claim()
    if what == "commit":
        save(store, newer, 1)
    store.write(store.list("log/")[1], [b"{}"])
    for _ in range(2):
        with pytest.raises(CheckpointCorrupt, match=r"log/00000002\.json is damaged: .*stops writing"):
            save(store, older, 5)
    save(store, newer, 2)
    assert commits(store)[-1] == (2, 2)


def test_a_zombie_that_fills_the_hole_of_a_vanished_entry_is_not_told_that_it_committed() -> None:
    """Someone deletes a claim from the middle of the log. The older writer's create succeeds there; it looks behind."""
    store = MemoryStore()
    older, newer = begin(store, attempt=1), begin(store, attempt=2)
    older.claim()
    newer.claim()
    save(store, newer, 1)
    store.delete("log/00000002.json")
    with pytest.raises(Fenced):
        save(store, older, 7)
    third = begin(store, attempt=3)
    assert third.claim()[-1].step == 1


def test_a_store_that_overwrites_instead_of_creating_is_refused_at_the_first_claim() -> None:
    """Several servers that speak S3 ignore the condition without a word."""

    class Overwriting(MemoryStore):
        def create(self, key: str, data: bytes) -> bool:
            self.write(key, [data])
            return True

    with pytest.raises(StoreError, match="two attempts could both write"):
        begin(Overwriting(), attempt=1).claim()


def test_a_checkpoint_whose_blob_is_not_there_cannot_be_committed() -> None:
    """Whether it was never written or was removed since."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    blob = write_blob(store, 1, [b"data"])
    store.delete(blob.key)
    with pytest.raises(CheckpointCorrupt, match="not in the store"):
        lineage.commit(manifest_of(lineage, 1, (blob,)))
    assert commits(store) == []
    assert save(store, lineage, 2).step == 2


def test_only_ones_own_manifests_can_be_committed_and_only_after_a_claim() -> None:
    """Mistakes of the caller."""
    store = MemoryStore()
    lineage = begin(store, attempt=2)
    with pytest.raises(ValueError, match="claim"):
        lineage.commit(manifest_of(lineage, 1))
    lineage.claim()
    with pytest.raises(ValueError, match="not ours"):
        lineage.commit(manifest_of(begin(store, attempt=1), 1))
    for attempt, writer in ((0, "w"), (10**6, "w"), (1, ""), (1, "x" * 300), (1, "a\nb"), (1, "\ud800")):
        with pytest.raises(ValueError):
            begin(store, attempt=attempt, writer=writer)


def test_a_claim_is_made_once_however_often_it_is_asked_for() -> None:
    """It also returns what was committed meanwhile."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    entry = save(store, lineage, 1)
    assert lineage.claim() == (entry,)
    assert len(read_log(store)) == 2


def test_blobs_are_verified_after_writing_and_on_every_reading(tmp_path: Path) -> None:
    """A store that loses the end of what it takes, and one that flips a bit."""

    class Losing(MemoryStore):
        def write(self, key: str, parts: Sequence[Part]) -> None:
            super().write(key, [b"".join(parts)[:-1]])

    with pytest.raises(CheckpointCorrupt, match="does not hold"):
        write_blob(Losing(), 1, [b"0123456789"])
    store = FileStore(tmp_path)
    ref = write_blob(store, 7, [b"0123", memoryview(b"456789")])
    assert ref.key.startswith(f"blobs/000007/{ref.digest}-")
    assert write_blob(store, 7, [b"0123456789"]).key != ref.key
    assert read_blob(store, ref) == b"0123456789"
    for damaged, told in ((b"0123456788", "differ"), (b"012345678", "only 9"), (b"01234567890", "more")):
        store.write(ref.key, [damaged])
        with pytest.raises(CheckpointCorrupt, match=told):
            read_blob(store, ref)
    store.delete(ref.key)
    with pytest.raises(CheckpointCorrupt, match="missing"):
        read_blob(store, ref)
    empty = write_blob(store, 7, [])
    assert read_blob(store, empty) == b""


def test_a_blob_of_many_chunks_is_verified_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than a chunk is asked for at once; a bit in the last one is found."""
    monkeypatch.setattr("spotrun.store.content._CHUNK_BYTES", 1000)
    asked: list[int] = []

    class Watching(MemoryStore):
        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            data = super().read(key, start, end)
            if key.startswith("blobs/"):
                asked.append(len(data))
            return data

    store = Watching()
    lineage = begin(store, attempt=1)
    lineage.claim()
    blobs: tuple[BlobRef, ...] = (write_blob(store, 1, [bytes(range(250)) * 10]), write_blob(store, 1, []))
    entry = lineage.commit(manifest_of(lineage, 1, blobs))
    asked.clear()
    assert verify(store, entry).blobs == blobs
    assert asked == [1000, 1000, 500, 0]
    for damaged in (bytes(range(250)) * 9 + bytes(250), bytes(range(250)) * 10 + b"x", bytes(range(250)) * 9):
        store.write(blobs[0].key, [damaged])
        with pytest.raises(CheckpointCorrupt):
            verify(store, entry)


def test_a_manifest_of_another_commit_is_not_taken_for_this_ones() -> None:
    """Even with a digest that fits: the log says which step and attempt it must be."""
    store = MemoryStore()
    lineage = begin(store, attempt=1)
    lineage.claim()
    entry = save(store, lineage, 4)
    with pytest.raises(CheckpointCorrupt, match="step 4 of attempt 1, but the log says step 5"):
        read_manifest(store, replace(entry, step=5))


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_run_goes_through_three_attempts_at_the_place_that_a_url_names(kind: str, tmp_path: Path) -> None:
    """As a user would have it."""
    uri = f"{tmp_path}/runs/job-1" if kind == "file" else f"memory://{tmp_path.name}/job-1"
    step = 0
    for attempt in (1, 2, 5):
        store = open_store(uri)
        lineage = begin(store, attempt=attempt)
        found = lineage.claim()
        assert (found[-1].step if found else 0) == step
        for _ in range(3):
            step += 1
            verify(store, save(store, lineage, step))
    assert [step for _, step in commits(open_store(uri))] == list(range(1, 10))


def test_a_store_that_confirms_what_it_took_is_not_asked_again() -> None:
    """One round trip less for each blob, where the reply to a write says that all of it is there."""

    class Confirming(MemoryStore):
        vouches = True

        def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
            raise AssertionError("it was asked")

    write_blob(RetryingStore(Confirming()), 1, [b"0123456789"])
