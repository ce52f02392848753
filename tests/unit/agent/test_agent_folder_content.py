"""What of a folder reaches the store, and how it comes back."""

from __future__ import annotations

import json
import os
import random
import stat
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agent_fakes import SteppingClock, make_config

from spotrun.agent.folder.custody import Commitment, Custody
from spotrun.agent.folder.listing import FILES_MAX, Listing, scan
from spotrun.agent.folder.record import Record
from spotrun.agent.folder.restore import Restoration
from spotrun.agent.folder.rule import Rules
from spotrun.agent.folder.upload import Abandoned, Changed, Uploader
from spotrun.agent.folder.writing import open_for_writing
from spotrun.errors import (
    CheckpointCorrupt,
    CheckpointError,
    Fenced,
    SpecError,
    SpotrunError,
    StoreUnavailable,
)
from spotrun.job.spec import Folder
from spotrun.store import Lineage, Manifest, MemoryStore, verify
from spotrun.store.manifest import BlobRef

RULES = Rules.of(Folder(path="out", ignore=("cache",)))


class CountingStore(MemoryStore):
    """Counts the bytes of blobs that are written; calls `before` ahead of each."""

    def __init__(self) -> None:
        super().__init__()
        self.blob_bytes = 0
        self.before: Any = lambda: None

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        if key.startswith("blobs/"):
            self.before()
            self.blob_bytes += sum(len(part) for part in parts)
        super().write(key, parts)


class Keeping:
    """One attempt's hold on a folder, without the thread that watches it."""

    def __init__(self, root: Path, store: MemoryStore, attempt: int = 3) -> None:
        self.out = root / "out"
        self.out.mkdir(parents=True, exist_ok=True)
        self.store = store
        self.said: list[str] = []
        spec = {"checkpoint": {"uri": "s3://b/runs", "folder": "out", "keep": {"last": 2}}}
        self.config = make_config(root / "scratch", **spec)
        object.__setattr__(self.config, "attempt", attempt)
        self.custody = Custody(self.config, store, clock=SteppingClock(1.0), say=self.said.append)
        self.custody.claim()
        self.uploader = Uploader(store, self.out, RULES, attempt=attempt)

    def scan(self) -> Listing:
        return scan(self.out, RULES)

    def commit(self, step: int = 1) -> int:
        """Commits the folder as it is; the bytes that were new."""
        stored = self.uploader.store(self.scan(), urgent=True)
        self.custody.commit(stored, step=step, captured_at=SteppingClock().now(), on_notice=False)
        self.uploader.committed(stored)
        return stored.new_bytes

    def restore(self, target: Path) -> Restoration:
        target.mkdir(parents=True, exist_ok=True)
        restoration = Restoration(self.store, target, RULES, aside=target.parent / "aside", progress=lambda count: None)
        found = self.custody.newest(lambda found: restoration.fetch(found.manifest, found.record))
        assert found is not None
        restoration.place(found.record)
        self.found: Commitment = found
        return restoration


def contents(folder: Path) -> dict[str, object]:
    """Everything that a script could see: kinds, bytes, modes, times, targets."""
    told: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        status = path.lstat()
        if path.is_symlink():
            told[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            told[name] = ("directory", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        else:
            told[name] = (path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return told


def furnish(out: Path, seed: int = 1) -> None:
    dice = random.Random(seed)
    (out / "checkpoint-500" / "deep").mkdir(parents=True)
    (out / "empty").mkdir(mode=0o700)
    (out / "checkpoint-500" / "big.bin").write_bytes(dice.randbytes(5 << 20))
    for number in range(30):
        (out / "checkpoint-500" / "deep" / f"{number}.json").write_bytes(dice.randbytes(number * 100))
    (out / "run.sh").write_text("#!/bin/sh\n")
    (out / "run.sh").chmod(0o755)
    (out / "latest").symlink_to("checkpoint-500")
    (out / "absolute").symlink_to(out / "checkpoint-500" / "big.bin")
    for number, path in enumerate(sorted(out.rglob("*"))):
        os.utime(path, ns=(0, 10**18 + number), follow_symlinks=False)


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    """Bytes, modes, times, empty directories, links; a link by its absolute path becomes one that works anywhere."""
    keeping = Keeping(tmp_path, MemoryStore())
    furnish(keeping.out)
    expected = contents(keeping.out) | {"absolute": ("link", "checkpoint-500/big.bin")}
    files = [path for path in keeping.out.rglob("*") if path.is_file() and not path.is_symlink()]
    assert keeping.commit() == sum(path.stat().st_size for path in files)
    restoration = keeping.restore(tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == expected
    assert (restoration.kept, restoration.moved) == (0, [])
    assert verify(keeping.store, keeping.found.entry).tensors == {}


def test_what_was_saved_under_a_notice_comes_back(tmp_path: Path) -> None:
    """Such a commit also tells when the machine was to end; it is a folder like any other."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "step-7").write_text("7")
    stored = keeping.uploader.store(keeping.scan(), urgent=True)
    now = SteppingClock().now()
    keeping.custody.commit(stored, step=7, captured_at=now, on_notice=True, deadline=now + timedelta(minutes=2))
    keeping.restore(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "step-7").read_text() == "7"


def test_files_take_their_names_oldest_first(tmp_path: Path) -> None:
    """Scripts also look for the newest by the time of the name, which cannot be set."""
    keeping = Keeping(tmp_path, MemoryStore())
    names = ["c", "a", "b"]
    for number, name in enumerate(names):
        (keeping.out / name).write_text(name)
        os.utime(keeping.out / name, ns=(0, 10**18 + number))
    keeping.commit()
    keeping.restore(tmp_path / "elsewhere")
    assert sorted(names, key=lambda name: (tmp_path / "elsewhere" / name).stat().st_ctime_ns) == names


def test_what_the_last_commit_has_is_not_stored_again(tmp_path: Path) -> None:
    """One file more costs that file; a large file with one changed byte costs one piece of it."""
    store = CountingStore()
    keeping = Keeping(tmp_path, store)
    dice = random.Random(2)
    large = bytearray(dice.randbytes(70 << 20))
    (keeping.out / "large.bin").write_bytes(large)
    (keeping.out / "small.json").write_text("{}")
    assert keeping.commit(1) == (70 << 20) + 2
    assert keeping.commit(2) == 0
    (keeping.out / "more.bin").write_bytes(dice.randbytes(2 << 20))
    assert keeping.commit(3) == 2 << 20
    large[-1] ^= 1
    (keeping.out / "large.bin").write_bytes(large)
    assert keeping.commit(4) == 6 << 20
    (keeping.out / "copy.bin").write_bytes(large)
    assert keeping.commit(5) == 0
    assert store.blob_bytes == (70 << 20) + 2 + (2 << 20) + (6 << 20)
    keeping.restore(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "copy.bin").read_bytes() == large


def test_what_a_generation_that_came_to_nothing_stored_is_used_by_the_next(tmp_path: Path) -> None:
    """Else a large folder in an unlucky rhythm would be uploaded again and again."""
    store = CountingStore()
    keeping = Keeping(tmp_path, store)
    (keeping.out / "a.bin").write_bytes(b"a" * (3 << 20))
    (keeping.out / "z.bin").write_bytes(b"z" * (3 << 20))
    seen = keeping.scan()
    (keeping.out / "z.bin").write_bytes(b"y" * (3 << 20))
    with pytest.raises(Changed):
        keeping.uploader.store(seen, urgent=True)
    before = store.blob_bytes
    keeping.commit()
    assert store.blob_bytes - before == 3 << 20


@pytest.mark.parametrize("how", ["rewritten", "replaced", "cut", "removed", "touched", "a directory now", "a pipe now"])
def test_a_file_that_is_not_what_was_listed_makes_the_generation_void(tmp_path: Path, how: str) -> None:
    """Whatever happened to it between the look and its reading."""
    keeping = Keeping(tmp_path, MemoryStore())
    path = keeping.out / "a.pt"
    path.write_bytes(b"one")
    seen = keeping.scan()
    if how == "rewritten":
        path.write_bytes(b"two")
    elif how == "replaced":
        (keeping.out / "b").write_bytes(b"two")
        (keeping.out / "b").replace(path)
    elif how == "cut":
        os.truncate(path, 1)
    elif how == "touched":
        os.utime(path)
    else:
        path.unlink()
        if how == "a directory now":
            path.mkdir()
        elif how == "a pipe now":
            os.mkfifo(path)
    with pytest.raises(Changed, match=r"a\.pt"):
        keeping.uploader.store(seen, urgent=True)


def test_a_file_that_changes_while_it_is_read_makes_the_generation_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the old and half of the new is nobody's checkpoint."""
    keeping = Keeping(tmp_path, MemoryStore())
    path = keeping.out / "a.pt"
    path.write_bytes(b"o" * 1000)
    seen = keeping.scan()
    read = os.preadv

    def slow(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        got = read(descriptor, [buffers[0][:500]], offset)
        path.write_bytes(b"n" * 1000)
        return got

    monkeypatch.setattr(os, "preadv", slow)
    with pytest.raises(Changed):
        keeping.uploader.store(seen, urgent=True)


def test_a_growing_file_is_taken_as_it_was_at_the_look(tmp_path: Path) -> None:
    """Its first bytes; but not if it was written anew meanwhile."""
    keeping = Keeping(tmp_path, MemoryStore())
    path = keeping.out / "train.log"
    path.write_text("one\n")
    seen = keeping.scan()
    with path.open("a") as file:
        file.write("two\n")
    stored = keeping.uploader.store(seen, urgent=True)
    assert [(file.path, file.size) for file in stored.record.files] == [("train.log", 4)]
    assert keeping.store.read(stored.blobs[0].key) == b"one\n"
    path.write_text("x\n")
    with pytest.raises(Changed):
        Uploader(keeping.store, keeping.out, RULES, attempt=3).store(seen, urgent=True)


def test_an_abandoned_upload_ends(tmp_path: Path) -> None:
    """When the lease has run out."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "a").write_text("a")
    keeping.uploader.abandon()
    with pytest.raises(Abandoned):
        keeping.uploader.store(keeping.scan(), urgent=True)


def test_what_is_no_file_is_left_out_and_named(tmp_path: Path) -> None:
    """Pipes, sockets, links that lead away, names that are not UTF-8; what is ignored is not even looked at."""
    keeping = Keeping(tmp_path, MemoryStore())
    out = keeping.out
    os.mkfifo(out / "pipe")
    (out / "away").symlink_to("/etc/passwd")
    (out / "up").symlink_to("../scratch")
    (out / "cache" / "deep").mkdir(parents=True)
    (out / "cache" / "deep" / "file").touch()
    Path(os.fsdecode(os.fsencode(out) + b"/\xff")).touch()
    (out / "good").symlink_to("not-there-yet")
    seen = keeping.scan()
    assert set(seen.left_out) == {"pipe", "away", "up", "?"}
    assert "outside of the folder" in seen.left_out["away"]
    assert (set(seen.files), set(seen.links), set(seen.directories)) == (set(), {"good"}, set())


def test_a_folder_with_very_many_files_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set in the wrong place must not be listed for ever."""
    assert FILES_MAX < 100_000
    monkeypatch.setattr("spotrun.agent.folder.listing.FILES_MAX", 10)
    for number in range(12):
        (tmp_path / str(number)).touch()
    assert scan(tmp_path, RULES).excess


def test_a_restore_moves_aside_what_the_commit_does_not_have(tmp_path: Path) -> None:
    """Half a checkpoint of a lost attempt, an unfinished file, a directory where a file was. What is ignored stays."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "checkpoint-1").mkdir()
    (keeping.out / "checkpoint-1" / "a").write_text("a")
    (keeping.out / "file").write_text("file")
    keeping.commit()
    expected = contents(keeping.out)
    out = keeping.out
    (out / "checkpoint-2").mkdir()
    (out / "checkpoint-2" / "half").write_text("half")
    (out / "checkpoint-1" / "b.tmp").write_text("b")
    (out / "file").unlink()
    (out / "file").mkdir()
    (out / "file" / "x").touch()
    (out / "cache").mkdir()
    (out / "cache" / "kept").write_text("kept")
    (out / "checkpoint-1" / "a").unlink()
    (out / "checkpoint-1" / "a").symlink_to("/etc/hostname")
    restoration = keeping.restore(out)
    assert {path for path in contents(out) if not path.startswith("cache")} == set(expected)
    assert (out / "checkpoint-1" / "a").read_text() == "a"
    assert (out / "cache" / "kept").read_text() == "kept"
    assert sorted(restoration.moved) == ["checkpoint-1/a", "checkpoint-1/b.tmp", "checkpoint-2", "file"]
    assert (tmp_path / "aside" / "checkpoint-2" / "half").read_text() == "half"


def test_a_restore_keeps_what_is_there_and_equal(tmp_path: Path) -> None:
    """Same machine, same disk: a large file with the right bytes is neither fetched nor written; one wrong byte is."""
    keeping = Keeping(tmp_path, MemoryStore())
    furnish(keeping.out)
    keeping.commit()
    expected = contents(keeping.out) | {"absolute": ("link", "checkpoint-500/big.bin")}
    big = keeping.out / "checkpoint-500" / "big.bin"
    inode = big.stat().st_ino
    os.utime(big)
    assert keeping.restore(keeping.out).kept == 2  # that one, and the empty file
    assert big.stat().st_ino == inode
    assert contents(keeping.out) == expected
    with big.open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"!")
    assert keeping.restore(keeping.out).kept == 1
    assert contents(keeping.out) == expected


def test_a_damaged_commit_is_told_and_the_one_before_it_restored_whole(tmp_path: Path) -> None:
    """Nothing of the damaged one reaches the folder."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "a").write_bytes(b"1" * (2 << 20))
    (keeping.out / "b").write_bytes(b"1" * (2 << 20) + b"b")
    keeping.commit(1)
    expected = contents(keeping.out)
    (keeping.out / "a").write_bytes(b"2" * (2 << 20))
    (keeping.out / "b").write_bytes(b"2" * (2 << 20) + b"b")
    stored = keeping.uploader.store(keeping.scan(), urgent=True)
    keeping.custody.commit(stored, step=2, captured_at=SteppingClock().now(), on_notice=False)
    spoiled = stored.blobs[-1].key
    keeping.store.write(spoiled, [b"?" + keeping.store.read(spoiled)[1:]])
    keeping.restore(tmp_path / "elsewhere")
    assert keeping.found.entry.step == 1
    assert contents(tmp_path / "elsewhere") == expected
    assert any("differ from its digest" in line for line in keeping.said)


def test_damage_anywhere_brings_back_a_whole_generation_or_none(tmp_path: Path) -> None:
    """Object by object: its first byte, its middle, its last; and cut in half, and gone."""
    keeping = Keeping(tmp_path, MemoryStore())
    generations = {}
    for number in (1, 2):
        for name, size in (("big", (2 << 20) + 7), ("small", 100), ("smaller", 3)):
            (keeping.out / name).write_bytes(random.Random(number + size).randbytes(size))
        keeping.commit(number)
        generations[number] = contents(keeping.out)
    whole = {key: keeping.store.read(key) for key in keeping.store.list("")}
    ends = []
    for key, data in whole.items():
        flips = [data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in {0, len(data) // 2, len(data) - 1}]
        for number, damage in enumerate((*flips, data[: len(data) // 2], None)):
            store = MemoryStore()
            for other, content in {**whole, key: damage}.items():
                if content is not None:
                    store.write(other, [content])
            target = tmp_path / "targets" / f"{len(ends)}-{number}"
            try:
                next_one = Keeping(tmp_path / "next", store, attempt=9)
                next_one.restore(target)
            except SpotrunError:
                ends.append(0)
                continue
            ends.append(next_one.found.entry.step)
            assert contents(target) == generations[next_one.found.entry.step], key
    assert set(ends) >= {1, 2}
    assert len(ends) > 30


def test_a_run_of_which_nothing_can_be_read_does_not_start_from_nothing(tmp_path: Path) -> None:
    """That is for people to decide."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "a").write_text("a")
    keeping.commit()
    for key in keeping.store.list("blobs/"):
        keeping.store.write(key, [b"b"])
    with pytest.raises(CheckpointError, match="none of the 1 commits"):
        keeping.restore(tmp_path / "elsewhere")
    assert contents(tmp_path / "elsewhere") == {}


def test_an_older_attempt_is_fenced(tmp_path: Path) -> None:
    """And so is a script that attaches within the same attempt: the agent writes under a name of its own."""
    store = MemoryStore()
    keeping = Keeping(tmp_path / "old", store, attempt=1)
    attached = Lineage(store, attempt=1, writer="i-123", clock=SteppingClock())
    with pytest.raises(Fenced):
        attached.claim()
    Keeping(tmp_path / "new", store, attempt=2)
    (keeping.out / "a").write_text("a")
    with pytest.raises(Fenced):
        keeping.commit()


def test_what_is_no_longer_kept_is_removed_from_the_store(tmp_path: Path) -> None:
    """A file that was removed from the folder stays in the commits before, for as long as those are kept."""
    keeping = Keeping(tmp_path, MemoryStore())
    for step in range(1, 5):
        (keeping.out / "state").write_text(str(step))
        if step == 2:
            (keeping.out / "extra").write_bytes(b"x" * (1 << 20))
        if step == 3:
            (keeping.out / "extra").unlink()
        keeping.commit(step)
        keeping.custody.prune()
        blobs = [keeping.store.read(key) for key in keeping.store.list("blobs/")]
        assert (b"x" * (1 << 20) in blobs) is (step in (2, 3))
    assert len(keeping.store.list("manifests/")) == 2


BLOBS = (BlobRef(key=f"blobs/000001/{'0' * 64}-00000000", size=10, digest="0" * 64),)
HUGE = (BlobRef(key=f"blobs/000001/{'0' * 64}-00000000", size=10**13, digest="0" * 64),)


def good(path: str = "a", **changes: object) -> dict[str, object]:
    return {"path": path, "mode": 0o644, "size": 10, "mtime_ns": 0, "pieces": ((0, 0, 10),), **changes}


@pytest.mark.parametrize(
    ("state", "blobs", "fault"),
    [
        ({"files": (good("../a"),)}, BLOBS, "no path below"),
        ({"files": (good("/etc/passwd"),)}, BLOBS, "no path below"),
        ({"files": (good("a//b"),)}, BLOBS, "no path below"),
        ({"files": (good("a/./b"),)}, BLOBS, "no path below"),
        ({"files": (good(".spotrun-tmp/a"),)}, BLOBS, "no path below"),
        ({"files": (good("a\0b"),)}, BLOBS, "no path below"),
        ({"files": (good("x" * 300),)}, BLOBS, "no path below"),
        ({"files": (good(), good())}, BLOBS, "there twice"),
        ({"files": (good("a"), good("a/b"))}, BLOBS, "no directory"),
        ({"files": (good("l/b"),), "links": ({"path": "l", "target": "d"},)}, BLOBS, "no directory"),
        ({"links": ({"path": "l", "target": "../../etc"},)}, (), "outside of the folder"),
        ({"links": ({"path": "l", "target": "/etc"},)}, (), "outside of the folder"),
        ({"files": (good(pieces=((1, 0, 10),)),)}, BLOBS, "there are 1"),
        ({"files": (good(pieces=((0, 0, 11),)),)}, BLOBS, "of a blob of 10"),
        ({"files": (good(pieces=((0, 5, 5),)),)}, BLOBS, "of a blob of 10"),
        ({"files": (good(size=9),)}, BLOBS, "its pieces have 10"),
        ({"files": (good(size=10**13, pieces=((0, 0, 10**13),)),)}, HUGE, "are the most"),
    ],
)
def test_a_record_that_leads_astray_is_refused(
    state: dict[str, object], blobs: tuple[BlobRef, ...], fault: str
) -> None:
    """Whoever can write to the bucket could have written it; nothing of it touches the disk."""
    told = Record.model_validate(state).fault(blobs)
    assert told is not None
    assert fault in told


@pytest.mark.parametrize(
    "state", [{"format": 2}, {"files": [good(mode=0o4755)]}, {"files": [good(size=10**15)]}, {"more": 1}, []]
)
def test_a_manifest_that_is_no_folder_counts_as_damaged(tmp_path: Path, state: object) -> None:
    """An unknown format, set-user-id, absurd sizes, unknown members."""
    keeping = Keeping(tmp_path, MemoryStore())
    foreign(keeping, json.loads(json.dumps({"folder": state})))
    with pytest.raises(CheckpointError, match="none of the 1 commits"):
        keeping.restore(tmp_path / "elsewhere")


def test_a_commit_of_an_attached_training_is_told_apart(tmp_path: Path) -> None:
    """It is whole, but there is no folder in it."""
    keeping = Keeping(tmp_path, MemoryStore())
    foreign(keeping, {"models": {}})
    with pytest.raises(CheckpointError, match=r"saved through spotrun\.attach"):
        keeping.restore(tmp_path / "elsewhere")


def foreign(keeping: Keeping, state: object) -> None:
    lineage = keeping.custody._lineage
    manifest = Manifest(
        job="job-1",
        attempt=3,
        writer=lineage.writer,
        step=1,
        captured_at=SteppingClock().now(),
        state=state,
    )
    lineage.commit(manifest)


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With both sizes in the sentence."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "a").write_bytes(b"a" * 1000)
    keeping.commit()
    usage = type("Usage", (), {"free": 999})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(SpecError, match=r"would take 1\.0 kB, but its disk has 999 B left"):
        keeping.restore(tmp_path / "elsewhere")


def test_an_outage_of_the_store_ends_a_generation_and_costs_nothing_twice(tmp_path: Path) -> None:
    """What was stored before it stays known."""
    store = CountingStore()
    keeping = Keeping(tmp_path, store)
    for number in range(9):
        (keeping.out / f"{number}.bin").write_bytes(bytes([number]) * (1 << 20))
    left = [4]

    def fail() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreUnavailable("away")

    store.before = fail
    with pytest.raises(StoreUnavailable):
        keeping.uploader.store(keeping.scan(), urgent=True)
    store.before = lambda: None
    keeping.commit()
    assert store.blob_bytes == 9 << 20


def test_open_files_are_seen_through_proc(tmp_path: Path) -> None:
    """For writing, by this very process; for reading does not count, nor a file elsewhere."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "read").touch()
    with (out / "written").open("w"), (out / "read").open(), (tmp_path / "elsewhere").open("w"):
        assert open_for_writing(out, [os.getpid(), 2**30]) == {"written"}
    assert open_for_writing(out, [os.getpid()]) == frozenset()


def test_mapped_files_are_seen_through_proc(tmp_path: Path) -> None:
    """numpy.memmap closes the file and keeps the mapping."""
    array = np.memmap(tmp_path / "mapped", dtype=np.uint8, mode="w+", shape=(4096,))
    assert open_for_writing(tmp_path, [os.getpid()]) == {"mapped"}
    del array


def test_a_missing_blob_is_damage(tmp_path: Path) -> None:
    """As a lifecycle rule of a bucket would make it."""
    keeping = Keeping(tmp_path, MemoryStore())
    (keeping.out / "a").write_text("a")
    stored = keeping.uploader.store(keeping.scan(), urgent=True)
    keeping.store.delete(stored.blobs[0].key)
    with pytest.raises(CheckpointCorrupt, match="cannot be committed"):
        keeping.custody.commit(stored, step=1, captured_at=SteppingClock().now(), on_notice=False)
