"""Caches: kept when they change, restored where they are missing, never a condition, never deleted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from agent_fakes import FailingStore, make_config

from spotrun.agent.cache import Cache, cache_prefix, caches_of
from spotrun.job.machine import Bundle
from spotrun.store import MemoryStore


class Said(list[str]):
    """Collects sentences."""


def cache(folder: Path, store: MemoryStore, said: Said) -> Cache:
    scratch = folder.parent / f"{folder.name}-scratch"
    scratch.mkdir(exist_ok=True)
    return Cache("~/.cache/pip", folder, store=store, scratch=scratch, say=said.append)


def fill(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/wheel").write_bytes(b"wheel" * 1000)
    (folder / "tool").write_text("#!/bin/sh\n")
    (folder / "tool").chmod(0o700)
    (folder / "link").symlink_to("deep/wheel")
    (folder / "out").symlink_to("/etc")
    (folder / "empty").mkdir()


def test_what_was_kept_is_restored_on_another_machine(tmp_path: Path) -> None:
    """Files, links that stay inside, and whether they can be run; times too, which tools compare."""
    store, said = MemoryStore(), Said()
    fill(tmp_path / "one")
    os.utime(tmp_path / "one/tool", (1_700_000_000, 1_700_000_000))
    cache(tmp_path / "one", store, said).save()
    cache(tmp_path / "two", store, said).restore()
    assert (tmp_path / "two/link").read_bytes() == b"wheel" * 1000
    assert (tmp_path / "two/link").is_symlink()
    assert os.access(tmp_path / "two/tool", os.X_OK)
    assert (tmp_path / "two/tool").stat().st_mtime == 1_700_000_000
    assert not (tmp_path / "two/out").is_symlink()
    assert said == ["cache ~/.cache/pip: 3 files kept, 10.2 kB", "cache ~/.cache/pip: 3 files restored, 10.2 kB"]


def test_a_folder_that_has_not_changed_is_not_kept_again(tmp_path: Path) -> None:
    """Neither after a save nor after a restore; a change is, beside what was there."""
    store, said = FailingStore(), Said()
    fill(tmp_path / "one")
    first = cache(tmp_path / "one", store, said)
    first.save()
    first.save()
    second = cache(tmp_path / "two", store, said)
    second.restore()
    second.save()
    assert len(store.written) == 2
    (tmp_path / "two/new").write_text("1")
    second.save()
    archives = [key for key in store.list("cache/") if key.endswith(".tar")]
    assert len(archives) == 2
    assert len(store.written) == 4


def test_a_restore_leaves_what_is_there_alone(tmp_path: Path) -> None:
    """The image, or the user, may have put something newer there."""
    store, said = MemoryStore(), Said()
    fill(tmp_path / "one")
    cache(tmp_path / "one", store, said).save()
    (tmp_path / "two").mkdir()
    (tmp_path / "two/tool").write_text("mine")
    cache(tmp_path / "two", store, said).restore()
    assert (tmp_path / "two/tool").read_text() == "mine"
    assert (tmp_path / "two/deep/wheel").exists()


def test_a_store_that_fails_is_told_and_nothing_else(tmp_path: Path) -> None:
    """The archive comes before its name: what is current stays whole."""
    store, said = FailingStore(), Said()
    fill(tmp_path / "one")
    kept = cache(tmp_path / "one", store, said)
    kept.save()
    before = store.read(f"{cache_prefix('~/.cache/pip')}/current.json")
    (tmp_path / "one/new").write_text("1")
    store.failures, store.where = 1, ".tar"
    kept.save()
    assert said[-1] == "cache ~/.cache/pip: not kept: the network is away"
    assert store.read(f"{cache_prefix('~/.cache/pip')}/current.json") == before
    kept.save()
    assert said[-1].startswith("cache ~/.cache/pip: 4 files kept")


def test_an_archive_that_climbs_puts_nothing_outside(tmp_path: Path) -> None:
    """Whoever can write the bucket must not be able to write the machine."""
    store, said = MemoryStore(), Said()
    fill(tmp_path / "one")
    cache(tmp_path / "one", store, said).save()
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:") as archive:
        for name, kind, target in (
            ("../escaped", tarfile.REGTYPE, ""),
            ("/tmp/escaped", tarfile.REGTYPE, ""),
            ("up", tarfile.SYMTYPE, ".."),
            ("up/escaped", tarfile.REGTYPE, ""),
            ("etc", tarfile.SYMTYPE, "/etc"),
            ("hard", tarfile.LNKTYPE, "/etc/passwd"),
            ("fine", tarfile.REGTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member, io.BytesIO())
    data = memory.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    prefix = cache_prefix("~/.cache/pip")
    record = {"key": f"{prefix}/{digest}.tar", "sha256": digest, "size_bytes": len(data), "listing": ""}
    store.write(record["key"], [data])
    store.write(f"{prefix}/current.json", [json.dumps(record).encode()])
    (tmp_path / "inner").mkdir()
    cache(tmp_path / "inner" / "two", store, said).restore()
    assert sorted(it.name for it in (tmp_path / "inner/two").iterdir()) == ["fine", "up"]
    assert (tmp_path / "inner/two/up").is_dir()
    assert sorted(it.name for it in (tmp_path / "inner").iterdir()) == ["two", "two-scratch"]


@pytest.mark.parametrize("name", ["~/.cache/pip", ".cache/pip", "cache/pip", "../x", "päckchen", "a b/c"])
def test_every_folder_has_a_place_of_its_own(name: str) -> None:
    """Readable, and different even where the readable part is alike."""
    others = {"~/.cache/pip", ".cache/pip", "cache/pip", "cache-pip", "../x", "x", "a-b-c"} - {name}
    assert cache_prefix(name) not in {cache_prefix(other) for other in others}
    assert cache_prefix(name).isascii()
    assert ".." not in cache_prefix(name)


def test_on_a_users_own_computer_the_home_stays_as_it_is(tmp_path: Path) -> None:
    """What is in it stays there anyway; a folder of the working directory is kept as elsewhere."""
    said = Said()
    config = make_config(tmp_path, cache=["~/.cache/pip", "out/cache"])
    assert len(caches_of(config, store=MemoryStore(), say=said.append)) == 1
    assert said == ["cache ~/.cache/pip: it is in this computer's own home, where it stays anyway"]
    assert config.bundle == Bundle()
