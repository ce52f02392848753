"""Code on the machine: an archive is believed in nothing."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from spotrun.agent.code import fetch_code, unpack
from spotrun.errors import SpecError, StoreError
from spotrun.job.machine import Bundle, GitCode, Package
from spotrun.store import MemoryStore

Member = Callable[[tarfile.TarFile], None]


def file(name: str, data: bytes = b"x", mode: int = 0o644) -> Member:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        archive.addfile(member, io.BytesIO(data))

    return add


def special(name: str, kind: bytes, target: str = "") -> Member:
    def add(archive: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)

    return add


def packed(*members: Member) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for add in members:
            add(archive)
    return memory.getvalue()


def unpacked(tmp_path: Path, *members: Member) -> Path:
    archive, target = tmp_path / "code.tar.gz", tmp_path / "deep" / "work"
    archive.write_bytes(packed(*members))
    target.mkdir(parents=True)
    unpack(archive, target)
    return target


def test_files_folders_and_links_come_as_they_were(tmp_path: Path) -> None:
    """Executable or not is all that is kept of a mode: no set-user-id, nothing that only others may write."""
    target = unpacked(
        tmp_path,
        special("empty", tarfile.DIRTYPE),
        file("a/run.sh", b"#!/bin/sh", 0o4777),
        file("a/b.py", b"b", 0o600),
        special("a/link", tarfile.SYMTYPE, "../a/b.py"),
    )
    assert (target / "empty").is_dir()
    assert (target / "a/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (target / "a/b.py").stat().st_mode & 0o7777 == 0o644
    assert (target / "a/link").read_bytes() == b"b"


@pytest.mark.parametrize(
    "members",
    [
        [file("../outside")],
        [file("a/../../outside")],
        [file("/outside")],
        [special("link", tarfile.SYMTYPE, "..")],
        [special("link", tarfile.SYMTYPE, "/etc")],
        [special("a/link", tarfile.SYMTYPE, "../../deep")],
        [special("in", tarfile.SYMTYPE, "a"), file("in/file")],
        [special("a", tarfile.SYMTYPE, "b"), file("a")],
        [special("a/b", tarfile.SYMTYPE, "."), special("a/b/c", tarfile.SYMTYPE, "../../..")],
        [special("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [special("pipe", tarfile.FIFOTYPE)],
        [special("device", tarfile.CHRTYPE)],
        [file("..\\outside")],
    ],
)
def test_what_would_not_stay_inside_is_refused(tmp_path: Path, members: list[Member]) -> None:
    """Climbing, absolute, through links, or no file at all."""
    with pytest.raises(StoreError, match="the code could not be unpacked"):
        unpacked(tmp_path, *members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.tar.gz", "deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["work"]


# Named, because an archive holds the second in which it was made, and all processes of a run must agree on its name.
@pytest.mark.parametrize(
    "data", [b"", b"no archive", packed(file("a", b"x" * 10_000))[:-40]], ids=["empty", "no archive", "cut off"]
)
def test_a_damaged_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    """Cut short, or another thing altogether."""
    (tmp_path / "code.tar.gz").write_bytes(data)
    with pytest.raises(StoreError, match="the code could not be unpacked"):
        unpack(tmp_path / "code.tar.gz", tmp_path)


def test_only_the_code_that_was_submitted_is_unpacked(tmp_path: Path) -> None:
    """By the digest that the journal has."""
    store, said = MemoryStore(), list[str]()
    data = packed(file("train.py", b"print(1)"))
    digest = hashlib.sha256(data).hexdigest()
    code = Package(key=f"code/{digest}.tar.gz", sha256=digest, size_bytes=len(data))
    store.write(code.key, [data])
    fetch_code(Bundle(code=code), tmp_path / "work", store=store, say=said.append)
    assert (tmp_path / "work/train.py").read_bytes() == b"print(1)"
    assert said == [f"code: 1 files from {code.key}"]
    store.write(code.key, [packed(file("train.py", b"print(2)"))])
    with pytest.raises(StoreError, match="is not the code that was submitted"):
        fetch_code(Bundle(code=code), tmp_path / "other", store=store, say=said.append)
    assert not (tmp_path / "other/train.py").exists()


def test_a_commit_is_checked_out_alone(tmp_path: Path) -> None:
    """Whatever the branches of the repository say now."""
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        done = subprocess.run(["git", *identity, *arguments], cwd=repository, check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    commits = []
    for number in range(2):
        (repository / "train.py").write_text(f"print({number})")
        git("add", "train.py")
        git("commit", "-m", str(number))
        commits.append(git("rev-parse", "HEAD"))
    bundle = Bundle(git=GitCode(url=repository.as_uri(), commit=commits[0]))
    fetch_code(bundle, tmp_path / "work", store=MemoryStore(), say=lambda _: None)
    assert (tmp_path / "work/train.py").read_text() == "print(0)"
    missing = Bundle(git=GitCode(url=repository.as_uri(), commit="ab" * 20))
    with pytest.raises(SpecError, match="cannot be had"):
        fetch_code(missing, tmp_path / "other", store=MemoryStore(), say=lambda _: None)
