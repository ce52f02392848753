"""A power cut at every moment of everything that a store does with a disk."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from store_disks import PowerCut, PowerCutDisk
from store_run import begin, save

from spotrun.store import CommitEntry, DamagedEntry, FileStore, prune, read_log, verify

LUCKS = [0.0, 1.0, *(random.Random(seed) for seed in range(4))]
"""What survives of the unsynced: nothing, everything, and four times anything."""

Kept = dict[str, set[bytes]]
Story = Callable[[FileStore, Kept, Kept], None]


def write_and_replace(store: FileStore, kept: Kept, possible: Kept) -> None:
    """Objects in several directories, some replaced; one that is being replaced is old or new, but there."""
    for key, data in [
        ("a", b"first of a"),
        ("b/c/d", b"deep"),
        ("a", b"second of a, longer"),
        ("b/e", b""),
        ("b/c/d", b"x"),
    ]:
        possible.setdefault(key, set()).add(data)
        if key in kept:
            kept[key] = {*kept[key], data}
        store.write(key, [data[:2], data[2:]])
        kept[key] = {data}


def create(store: FileStore, kept: Kept, possible: Kept) -> None:
    """Objects created, some in vain."""
    for key, data in [("log/1", b"one"), ("log/2", b"two"), ("log/1", b"another one"), ("log/3", b"three")]:
        possible.setdefault(key, {data})
        store.create(key, data)
        kept.setdefault(key, {data})


def moments(story: Callable[[Path, PowerCutDisk], None], tmp_path: Path) -> int:
    base = tmp_path / "whole"
    base.mkdir()
    disk = PowerCutDisk(base)
    story(base, disk)
    return disk.moments


@pytest.mark.parametrize("story", [write_and_replace, create])
def test_nothing_acknowledged_is_lost_and_no_partial_object_is_ever_visible(story: Story, tmp_path: Path) -> None:
    """The power goes at each moment; whatever of the unsynced survives, a reader finds whole objects only."""
    count = moments(lambda base, disk: story(FileStore(base / "runs" / "job", disk), {}, {}), tmp_path)
    assert count > 30
    for cut_at in range(count + 1):
        base = tmp_path / f"{cut_at}"
        base.mkdir()
        disk = PowerCutDisk(base, cut_at)
        kept: Kept = {}
        possible: Kept = {}
        lost_power = False
        try:
            story(FileStore(base / "runs" / "job", disk), kept, possible)
        except PowerCut:
            lost_power = True
        assert lost_power is (cut_at < count)
        for number, luck in enumerate(LUCKS):
            place = tmp_path / f"{cut_at}-{number}"
            disk.boot(place, luck)
            after = FileStore(place / "runs" / "job", PowerCutDisk(place))
            for key, data in kept.items():
                assert after.read(key) in data, f"cut at {cut_at}: {key}"
            for key in after.list(""):
                assert after.read(key) in possible[key], f"cut at {cut_at}: {key}"


def run(store: FileStore, committed: list[CommitEntry]) -> None:
    """Two attempts, five commits, retention after each."""
    for attempt in (1, 2):
        lineage = begin(store, attempt=attempt)
        lineage.claim()
        for _ in range(3 - attempt + 1):
            step = len(committed) + 1
            committed.append(save(store, lineage, step))
            prune(store, lineage.commits, keep=2)


def test_a_power_cut_during_a_save_or_a_prune_never_loses_an_acknowledged_commit(tmp_path: Path) -> None:
    """After the machine is back, a new attempt claims, finds the last acknowledged commit, and every byte of it."""
    count = moments(lambda base, disk: run(FileStore(base / "runs" / "job", disk), []), tmp_path)
    assert count > 150
    for cut_at in range(count + 1):
        base = tmp_path / f"{cut_at}"
        base.mkdir()
        disk = PowerCutDisk(base, cut_at)
        committed: list[CommitEntry] = []
        with contextlib.suppress(PowerCut):
            run(FileStore(base / "runs" / "job", disk), committed)
        for number, luck in enumerate(LUCKS):
            place = tmp_path / f"{cut_at}-{number}"
            disk.boot(place, luck)
            store = FileStore(place / "runs" / "job", PowerCutDisk(place))
            log = read_log(store)
            assert not [entry for entry in log if isinstance(entry, DamagedEntry)], f"cut at {cut_at}"
            lineage = begin(store, attempt=9)
            found = lineage.claim()
            assert [entry.step for entry in found] == list(range(1, len(found) + 1))
            assert len(found) >= len(committed), f"cut at {cut_at}: an acknowledged commit is gone"
            for entry in found[-2:]:
                verify(store, entry)
            assert save(store, lineage, len(found) + 1).seq == len(log) + 2
