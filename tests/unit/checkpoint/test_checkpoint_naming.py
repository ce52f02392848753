"""`run.save(tag=...)`: which commit gets the name, and that no interruption loses it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import pytest
from torch import nn

import spotrun
from spotrun.checkpoint import hold
from spotrun.checkpoint.distributed.document import merged
from spotrun.checkpoint.naming import names_in
from spotrun.errors import SpecError, StoreError
from spotrun.store import CommitEntry, MemoryStore, read_log, read_manifest
from spotrun.store.tag import add_tag, read_tags, remove_tag

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)


class Store(MemoryStore):
    """A store that can be shut, and that can fail where a tag is made."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.at_tag: StoreError | None = None
        self.broken = False

    def write(self, key: str, parts: Sequence[Any]) -> None:
        self.open.wait(30)
        if self.broken:
            raise StoreError("No space left on device")
        super().write(key, parts)

    def create(self, key: str, data: bytes) -> bool:
        if key.startswith("tags/") and self.at_tag is not None:
            raise self.at_tag
        return super().create(key, data)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(hold, "open_store", lambda uri, *_: store)
    return store


def attach() -> spotrun.Run:
    return spotrun.attach(name="named", interval=3600, keep_last=1, model=nn.Linear(2, 2))


def settled(run: spotrun.Run) -> None:
    thread = run._parts.keeper._saver._thread
    if thread is not None:
        thread.join()


def kept(store: Store) -> list[int]:
    """The steps of the commits that are still there."""
    entries = [entry for entry in read_log(store) if isinstance(entry, CommitEntry)]
    there = set(store.list("manifests/"))
    return [entry.step for entry in entries if entry.manifest in there]


def tags(store: Store) -> dict[str, int]:
    return {tag.name: tag.step for tag in read_tags(store)}


def test_a_tagged_commit_outlives_retention(store: Store) -> None:
    """Only the last commit is kept, and those that have a name."""
    run = attach()
    for number in run.steps(6):
        run.save(tag="warm" if number == 1 else None)
        settled(run)
    assert tags(store) == {"warm": 2}
    assert kept(store) == [2, 6]


def test_a_name_moves_on_to_the_next_commit_that_asks_for_it(store: Store) -> None:
    """The best so far: the one before is let go."""
    run = attach()
    for number in run.steps(6):
        if number in (1, 3):
            run.save(tag="best")
    assert tags(store) == {"best": 4}
    assert kept(store) == [4, 6]


def test_a_name_that_was_given_by_hand_stays_where_it_is(store: Store) -> None:
    """Somebody relies on it; the training says so, and goes on."""
    list(attach().steps(2))
    add_tag(store, "release", [entry for entry in read_log(store) if isinstance(entry, CommitEntry)][-1], at=NOW)
    run = attach()
    for number in run.steps(5):
        if number == 3:
            run.save(tag="release")
    assert tags(store) == {"release": 2}
    (warning,) = run._parts.reporter.progress.warnings
    assert warning.startswith("step 4 is committed, but not all tags are given: the tag release was given to step 2 by")


def test_the_state_of_the_step_is_saved_though_another_save_is_in_flight(store: Store) -> None:
    """Without a tag the wish would wait for a later step; with it, this one is saved."""
    run = attach()
    for number in run.steps(6):
        if number == 0:
            store.open.clear()
            run.save()
        if number == 2:
            threading.Timer(0.05, store.open.set).start()
            run.save(tag="this")
    assert tags(store) == {"this": 3}


def test_a_save_that_fails_hands_its_name_to_the_next(store: Store) -> None:
    """The name is told to be late, not lost."""
    run = attach()
    for number in run.steps(4):
        if number == 0:
            store.broken = True
            run.save(tag="early")
        else:
            settled(run)
            store.broken = False
    assert tags(store) == {"early": 4}
    assert (
        "the training goes on and will try again; the next commit gets the tag early"
        in (run._parts.reporter.progress.warnings[0])
    )


def test_a_store_that_would_not_take_a_name_is_asked_again(store: Store) -> None:
    """The commit stands; its name comes with the next."""
    run = attach()
    for number in run.steps(4):
        store.at_tag = StoreError("throttled") if number < 2 else None
        if number == 0:
            run.save(tag="early", wait=True)
            continue
        settled(run)
    assert "not all tags are given: throttled" in run._parts.reporter.progress.warnings[0]
    assert tags(store) == {"early": 1}


@pytest.mark.parametrize("by_hand", [False, True])
def test_killed_between_commit_and_tag_the_next_attempt_gives_it(store: Store, by_hand: bool) -> None:
    """The name is part of what was committed. One that was taken away by hand comes back with it as well."""
    run = attach()
    store.at_tag = None if by_hand else StoreError("no more")
    steps = run.steps(9)
    next(steps)
    run.save(tag="early")
    next(steps)
    settled(run)
    run._parts.keeper.abandon()  # nothing more comes of this attempt
    if by_hand:
        remove_tag(store, "early")
    store.at_tag = None
    assert tags(store) == {}
    run = attach()
    assert run.resumed_from == 1
    assert tags(store) == {"early": 1}


def test_the_last_step_may_have_a_name_and_so_may_one_that_is_saved_already(store: Store) -> None:
    """Between steps of one's own, the same state twice: plainly, then with a name."""
    run = attach()
    run.step()
    run.save(wait=True)
    run.save(tag="again", wait=True)
    run.step()
    run.save(tag="end")
    run.close()
    assert tags(store) == {"again": 1, "end": 2}


def test_a_name_that_no_tag_can_have_is_refused_at_once(store: Store) -> None:
    """Before anything is saved."""
    run = attach()
    for _ in run.steps(1):
        for name in ("latest", "12", "a/b", ""):
            with pytest.raises(SpecError, match="is no tag"):
                run.save(tag=name)
    assert tags(store) == {}


def test_names_of_several_processes_come_together() -> None:
    """Each may ask for its own; what is there of strange form says nothing."""
    parts = [{"tags": []}, {"tags": ["b", "a"]}, {"tags": ["b"]}]
    assert names_in(merged(parts)) == ("a", "b")
    assert names_in(merged([{"tags": ["a"]}, {"tags": ["b"]}])) == ("a", "b")
    assert names_in(merged([{}, {}])) == ()
    for state in ({}, None, [], {"tags": 3}, {"tags": [3]}):
        assert names_in(state) == ()


def test_names_are_part_of_the_manifest(store: Store) -> None:
    """Where readers of the format find them."""
    run = attach()
    for number in run.steps(2):
        if number == 0:
            run.save(tag="first")
    first = next(entry for entry in read_log(store) if isinstance(entry, CommitEntry))
    assert read_manifest(store, first).state["tags"] == ["first"]
