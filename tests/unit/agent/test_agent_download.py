"""Inputs come in pieces, many at a time, and after a failure only what is missing."""

from __future__ import annotations

import os
import resource
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spotrun.agent import download as module
from spotrun.agent.download import Download

PIECE = 1000


class Bucket:
    """As much of a file system of fsspec's as a download needs; fails the first try of the pieces it is told to."""

    def __init__(self, files: dict[str, bytes], *, failing: tuple[tuple[str, int], ...] = ()) -> None:
        self.files = files
        self.failing = set(failing)
        self.asked: Counter[tuple[str, int]] = Counter()
        self.lock = threading.Lock()

    def _strip_protocol(self, path: str) -> str:
        return path

    def isdir(self, path: str) -> bool:
        return any(name.startswith(f"{path.rstrip('/')}/") for name in self.files)

    def exists(self, path: str) -> bool:
        return path in self.files or self.isdir(path)

    def info(self, path: str) -> dict[str, Any]:
        return {"name": path, "size": len(self.files[path])}

    def find(self, path: str, *, detail: bool) -> dict[str, Any]:
        return {name: self.info(name) for name in self.files if name.startswith(f"{path}/")}

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        with self.lock:
            self.asked[path, start] += 1
            if (path, start) in self.failing:
                self.failing.remove((path, start))
                raise TimeoutError("slow down")
        return self.files[path][start:end]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file of a few kilobytes is a large one."""
    monkeypatch.setattr(module, "_PIECE_BYTES", PIECE)


def files() -> dict[str, bytes]:
    return {
        "b/data/large": bytes(range(256)) * 20,
        "b/data/deep/exact": b"x" * (2 * PIECE),
        "b/data/small": b"y",
        "b/data/empty": b"",
        "b/data/marker/": b"",
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_a_folder_comes_whole_and_tells_how_far_it_is(tmp_path: Path) -> None:
    """Each piece is asked for once; empty files come too, markers of folders do not."""
    bucket, told = Bucket(files()), list[int]()
    download = Download(bucket, "b/data/", tmp_path / "in", name="train")
    assert download.run(moved=lambda: told.append(download.bytes_done)) == tmp_path / "in"
    wanted = {name.removeprefix("b/data/"): data for name, data in files().items() if not name.endswith("/")}
    assert contents(tmp_path / "in") == wanted
    assert set(bucket.asked.values()) == {1}
    assert max(told) == download.bytes_done == download.bytes_total == sum(map(len, wanted.values()))


def test_after_a_failure_only_what_is_missing_is_asked_for(tmp_path: Path) -> None:
    """Under its name a file is whole, at every moment."""
    bucket = Bucket(files(), failing=(("b/data/large", 2000),))
    download = Download(bucket, "b/data", tmp_path / "in", name="train")
    with pytest.raises(TimeoutError):
        download.run(moved=lambda: None)
    assert not (tmp_path / "in/large").exists()
    come = {piece for piece, count in bucket.asked.items() if count} - {("b/data/large", 2000)}
    download.run(moved=lambda: None)
    assert (tmp_path / "in/large").read_bytes() == files()["b/data/large"]
    assert bucket.asked["b/data/large", 2000] == 2
    assert all(bucket.asked[piece] == 1 for piece in come)
    assert [name for name in contents(tmp_path / "in") if "part" in name] == []


def test_an_object_that_shrank_meanwhile_is_noticed(tmp_path: Path) -> None:
    """Half of one version and half of another would be neither."""
    bucket = Bucket(files())
    bucket.info = lambda path: {"name": path, "size": 6000}  # type: ignore[method-assign]
    with pytest.raises(OSError, match="it was replaced"):
        Download(bucket, "b/data/large", tmp_path / "in", name="train").run(moved=lambda: None)


def test_a_name_that_climbs_is_refused(tmp_path: Path) -> None:
    """Object stores allow any name; this machine does not."""
    bucket = Bucket({"b/data/../../x": b"x", "b/data/y": b"y"})
    with pytest.raises(ValueError, match="out of the input's folder"):
        Download(bucket, "b/data", tmp_path / "in", name="train").run(moved=lambda: None)
    assert contents(tmp_path) == {}


def test_one_file_keeps_its_name(tmp_path: Path) -> None:
    """Readers go by suffixes."""
    bucket = Bucket({"b/data/train.bin": b"x" * 2500})
    path = Download(bucket, "b/data/train.bin", tmp_path / "in", name="train").run(moved=lambda: None)
    assert path == tmp_path / "in/train.bin"
    assert path.read_bytes() == b"x" * 2500


def test_nothing_there_is_told_as_that(tmp_path: Path) -> None:
    """Not as a failure that may pass."""
    with pytest.raises(FileNotFoundError):
        Download(Bucket({}), "b/data", tmp_path / "in", name="train").run(moved=lambda: None)


def test_a_disk_that_takes_a_part_of_a_piece_never_leaves_a_short_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nearly full disk writes what fits and says so; the rest is written, or refused, but not forgotten."""
    whole = os.pwrite
    monkeypatch.setattr(module.os, "pwrite", lambda file, data, place: whole(file, bytes(data[:300]), place))
    bucket = Bucket(files())
    Download(bucket, "b/data", tmp_path / "in", name="train").run(moved=lambda: None)
    assert (tmp_path / "in" / "large").read_bytes() == bucket.files["b/data/large"]


def test_a_full_disk_is_told_and_no_file_is_there(tmp_path: Path) -> None:
    """The kernel refuses what would make the file larger than it may be here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE + PIECE // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            Download(Bucket(files()), "b/data", tmp_path / "in", name="train").run(moved=lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "in" / "large").exists()
