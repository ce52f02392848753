"""Files as a store: failing disks, leftovers, places that cannot be used."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from store_disks import FailingDisk
from store_run import begin, save

from spotrun.errors import StoreDenied, StoreError, StoreFull, StoreMissing, StoreUnavailable
from spotrun.store import CommitEntry, FileStore, prune, read_log, verify
from spotrun.store.disk import Disk
from spotrun.store.key import TEMPORARY

KILLED = """
import os, signal, sys
from spotrun.store import FileStore
from spotrun.store.disk import Disk

class Killing(Disk):
    def rename(self, source, target):
        os.kill(os.getpid(), signal.SIGKILL)

FileStore(sys.argv[1], Killing()).write("k", [b"data"])
"""


def leftovers(root: Path) -> list[str]:
    return sorted(path.name for path in (root / TEMPORARY).iterdir())


ASKS: dict[str, Callable[[FileStore], object]] = {
    "new/place/key": lambda store: store.write("new/place/key", [b"new ", b"data"]),
    "kept": lambda store: store.write("kept", [b"new data"]),
    "log/1": lambda store: store.create("log/1", b"new data"),
    "gone": lambda store: store.delete("gone"),
}
ERRORS = [(errno.ENOSPC, StoreFull), (errno.EIO, StoreError), (errno.ESTALE, StoreUnavailable)]


@pytest.mark.parametrize(("error", "kind"), ERRORS)
@pytest.mark.parametrize("key", ASKS)
def test_a_disk_that_fails_at_any_operation_leaves_earlier_objects_intact(
    tmp_path: Path, error: int, kind: type[StoreError], key: str
) -> None:
    """Each operation fails in turn: the error says what happened, nothing else changed, and the next try works."""
    fail_at, failures, whole = 0, 0, False
    while not whole:
        root = tmp_path / f"{fail_at}"
        for old in ("kept", "gone"):
            FileStore(root).write(old, [b"old data"])
        disk = FailingDisk()
        store = FileStore(root, disk)
        disk.error, disk.fail_at = error, disk.operations + fail_at
        failure: StoreError | None = None
        try:
            ASKS[key](store)
        except StoreError as err:
            failure = err
        whole, disk.fail_at = disk.operations <= disk.fail_at, None  # whole: the failure never came
        after = FileStore(root)
        assert {after.read(found) for found in after.list("")} <= {b"old data", b"new data"}
        assert after.read("kept") in ({b"old data", b"new data"} if key == "kept" else {b"old data"})
        if failure is not None:
            assert type(failure) is kind
            assert os.strerror(error) in str(failure)
            assert ("Make room" in str(failure)) is (error == errno.ENOSPC)
            failures += 1
        ASKS[key](store)
        assert (store.read(key) == b"new data") if key != "gone" else (store.list("gone") == [])
        fail_at += 1
    assert failures >= (2 if key == "gone" else 3)


def test_a_disk_that_fails_at_any_operation_of_a_save_costs_that_save_at_most(tmp_path: Path) -> None:
    """The writer sees an error, goes on training, and its next save succeeds; no acknowledged commit is harmed."""
    fail_at, failures = 0, 0
    while True:
        disk = FailingDisk(fail_at, errno.ENOSPC)
        committed: list[CommitEntry] = []
        problems: list[StoreError] = []
        store = None
        for _ in range(2):
            try:
                store = store or FileStore(tmp_path / f"{fail_at}", disk)
            except StoreFull as err:
                problems.append(err)
        assert store is not None
        lineage = begin(store)
        for step in range(1, 5):
            try:
                lineage.claim()
                committed.append(save(store, lineage, step))
                prune(store, lineage.commits, keep=2)
            except StoreFull as err:
                problems.append(err)
        assert len(problems) <= 1
        disk.fail_at = None
        committed.append(save(store, lineage, 5))
        steps = [entry.step for entry in read_log(store) if isinstance(entry, CommitEntry)]
        assert steps == sorted(set(steps))
        assert {entry.step for entry in committed} <= set(steps)
        for entry in lineage.commits[-2:]:
            verify(store, entry)
        failures += len(problems)
        if not problems and fail_at > disk.operations:
            break
        fail_at += 1
    assert failures > 60


def test_a_failed_create_that_landed_is_acknowledged_only_once_it_is_durable(tmp_path: Path) -> None:
    """The name appears, then the fsync of its directory fails. The next try finds it taken, and fsyncs before saying so."""

    class Recorder(FailingDisk):
        def __init__(self) -> None:
            super().__init__()
            self.synced: list[Path] = []

        def sync(self, directory: Path) -> None:
            super().sync(directory)
            self.synced.append(directory)

    disk = Recorder()
    store = FileStore(tmp_path, disk)
    store.create("log/0", b"x")
    disk.error, disk.fail_at = errno.EIO, disk.operations + 2  # write, link, sync
    with pytest.raises(StoreError):
        store.create("log/1", b"mine")
    assert store.read("log/1") == b"mine"
    disk.synced.clear()
    assert not store.create("log/1", b"mine")
    assert disk.synced == [tmp_path / "log"]


def test_temporary_files_of_dead_processes_are_cleaned_when_the_store_is_opened(tmp_path: Path) -> None:
    """A killed writer leaves half a file; it costs space until the next process comes. A living writer's stays."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert ended.returncode == -9
    assert len(leftovers(tmp_path)) == 1
    alive = tmp_path / TEMPORARY / f"{os.uname().nodename}.{os.getppid()}.beef"
    elsewhere = tmp_path / TEMPORARY / "elsewhere.123.beef"
    old = tmp_path / TEMPORARY / "elsewhere.124.beef"
    for path in (alive, elsewhere, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store = FileStore(tmp_path)
    assert leftovers(tmp_path) == sorted([alive.name, elsewhere.name])
    assert store.list("") == []


def test_what_the_disk_does_not_give_back_as_written_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read back before it gets its name."""
    store = FileStore(tmp_path)
    store.write("k", [b"good"])
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: b"x" * size)
    with pytest.raises(StoreError, match="read back"):
        store.write("k", [b"bad"])
    assert store.read("k") == b"good"
    assert leftovers(tmp_path) == []


def test_a_file_system_without_hard_links_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Exclusive creation is what keeps two attempts apart."""

    class NoLinks(Disk):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

    store = FileStore(tmp_path, NoLinks())
    with pytest.raises(StoreError, match="hard links"):
        store.create("log/1", b"x")
    assert store.list("") == []


def test_a_place_that_cannot_be_a_directory_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """A file in the way, or no permission."""
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreError) as caught:
            FileStore(place)
        assert str(place) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_read_only_place_is_denied(tmp_path: Path) -> None:
    """The disk says so at the first operation."""
    disk = FailingDisk(0, errno.EROFS)
    with pytest.raises(StoreDenied, match="Read-only"):
        FileStore(tmp_path / "new", disk)


def test_a_key_that_is_a_directory_is_no_object(tmp_path: Path) -> None:
    """And an object is no directory."""
    store = FileStore(tmp_path)
    store.write("a/b", [b"x"])
    with pytest.raises(StoreMissing):
        store.read("a")
    with pytest.raises(StoreError):
        store.write("a", [b"x"])
    with pytest.raises(StoreError):
        store.write("a/b/c", [b"x"])
    assert store.list("") == ["a/b"]
