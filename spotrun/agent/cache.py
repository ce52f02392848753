"""Folders that are kept in the store from one attempt to the next: package caches, compiled kernels, tokenised data.

    cache/<name>/current.json     which archive is current: key, digest, size, what it holds
    cache/<name>/<sha256>.tar     the folder as it was

A cache is a help and never a condition: what cannot be restored is made anew, what cannot be saved is said. Nothing is
ever deleted, neither here nor there: a restore adds files that are missing and leaves the others; a save that changed
something writes a new archive and then names it as the current one, so that a reader sees one or the other, whole.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spotrun.agent.config import AgentConfig
from spotrun.errors import StoreError, StoreMissing
from spotrun.store.blob import BlobStore
from spotrun.units import format_bytes

__all__ = ["Cache", "cache_prefix", "caches_of"]

_READ_BYTES = 8 << 20
_BYTES_MAX = 50 << 30  # of one folder: more is data, and belongs among the inputs
_MARGIN_BYTES = 1 << 30  # of the disk, which must stay free while an archive is made


class _Current(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str = Field(pattern=r"^cache/[A-Za-z0-9._-]+/[0-9a-f]{64}\.tar$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)
    listing: str  # digest of the names, sizes and times of what is in it


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """A file or link of a folder."""

    name: str  # relative, `/` between its parts
    size: int
    changed_ns: int
    target: str | None  # of a link


class Cache:
    """One folder of `cache:`. Restore it once, then save it as often as there is reason to."""

    def __init__(self, name: str, folder: Path, *, store: BlobStore, scratch: Path, say: Callable[[str], None]) -> None:
        self._name = name
        self._folder = folder
        self._store = store
        self._scratch = scratch
        self._say = say
        self._prefix = cache_prefix(name)
        self._saved = ""  # listing of what is in the store

    def restore(self) -> None:
        """Adds what the store has and the folder has not. Never raises for want of a cache."""
        try:
            current = self._current()
            if current is None:
                self._say(f"cache {self._name}: nothing kept yet")
                return
            with tempfile.TemporaryFile(dir=self._scratch, prefix="cache-") as archive:
                self._fetch(current, archive)
                count = self._unpack(archive)
        except (StoreError, OSError, ValueError, tarfile.TarError) as err:
            self._say(f"cache {self._name}: not restored, the job goes on without it: {err}")
            return
        if _listing(_found(self._folder)) == current.listing:
            self._saved = current.listing
        self._say(f"cache {self._name}: {count} files restored, {format_bytes(current.size_bytes)}")

    def save(self) -> None:
        """Keeps the folder as it is now, if it has changed. Never raises for want of a cache."""
        try:
            found = _found(self._folder)
            listing = _listing(found)
            if not found or listing == self._saved:
                return
            size = sum(it.size for it in found)
            if size > _BYTES_MAX:
                self._say(
                    f"cache {self._name}: not kept, its {format_bytes(size)} are more than {format_bytes(_BYTES_MAX)}"
                )
                return
            status = os.statvfs(self._scratch)
            if status.f_bavail * status.f_frsize < size + _MARGIN_BYTES:
                self._say(f"cache {self._name}: not kept, the disk has no room for an archive of {format_bytes(size)}")
                return
            written = self._keep(found, listing)
        except (StoreError, OSError, tarfile.TarError) as err:
            self._say(f"cache {self._name}: not kept: {err}")
            return
        self._saved = listing
        self._say(f"cache {self._name}: {len(found)} files kept, {format_bytes(written)}")

    def _current(self) -> _Current | None:
        try:
            return _Current.model_validate_json(self._store.read(f"{self._prefix}/current.json"))
        except StoreMissing:
            return None
        except ValidationError as err:
            raise ValueError("its record is malformed") from err

    def _fetch(self, current: _Current, archive: IO[bytes]) -> None:
        digest = hashlib.sha256()
        for start in range(0, current.size_bytes, _READ_BYTES):
            part = self._store.read(current.key, start, min(start + _READ_BYTES, current.size_bytes))
            digest.update(part)
            archive.write(part)
        if digest.hexdigest() != current.sha256:
            raise ValueError(f"{current.key} is damaged: its digest differs")

    def _unpack(self, archive: IO[bytes]) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        root = self._folder.resolve()
        count = 0
        archive.seek(0)
        with tarfile.open(fileobj=archive, mode="r:") as members:
            for member in members:
                where = root / member.name
                inside = where.parent.resolve().is_relative_to(root) and ".." not in Path(member.name).parts
                if not inside or os.path.lexists(where) or not (member.isreg() or member.issym()):
                    continue
                where.parent.mkdir(parents=True, exist_ok=True)
                count += _put(members, member, where)
        return count

    def _keep(self, found: Sequence[_Found], listing: str) -> int:
        with tempfile.TemporaryFile(dir=self._scratch, prefix="cache-") as archive:
            with tarfile.open(fileobj=archive, mode="w:", format=tarfile.PAX_FORMAT) as members:
                for it in found:
                    _add(members, self._folder, it)
            archive.flush()
            with mmap.mmap(archive.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                digest = hashlib.sha256(view).hexdigest()
                size = view.nbytes
                key = f"{self._prefix}/{digest}.tar"
                self._store.write(key, [view])
        current = _Current(key=key, sha256=digest, size_bytes=size, listing=listing)
        self._store.write(f"{self._prefix}/current.json", [current.model_dump_json().encode()])
        return size


def caches_of(config: AgentConfig, *, store: BlobStore, say: Callable[[str], None]) -> list[Cache]:
    """The caches of a job. A home directory is the job's alone only on a machine that was rented for it: on a user's own
    computer what is below `~/` stays there by itself, and is left alone."""
    caches = []
    for folder in config.spec.cache:
        below = folder.removeprefix("~/")
        if below == folder:
            path = config.work_directory / folder
        elif config.spec.provider != "local":
            path = Path(config.inherited.get("HOME") or Path.home()) / below
        else:
            say(f"cache {folder}: it is in this computer's own home, where it stays anyway")
            continue
        caches.append(Cache(folder, path, store=store, scratch=config.scratch, say=say))
    return caches


def cache_prefix(name: str) -> str:
    """Where a folder's archives lie in the job's place: no two folders share it."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", name.removeprefix("~/")).strip("-.") or "folder"
    return f"cache/{readable[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _found(folder: Path) -> list[_Found]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114, PTH118  a hot loop
        for name in sorted([*names, *links]):
            path = Path(parent) / name
            try:
                status = path.lstat()
                target = os.fspath(path.readlink()) if path.is_symlink() else None
            except OSError:
                continue  # gone meanwhile
            if target is not None and not _stays(path, target, folder):
                continue
            if target is None and not path.is_file():
                continue  # a socket, a pipe
            size = 0 if target is not None else status.st_size
            relative = path.relative_to(folder).as_posix()
            found.append(_Found(name=relative, size=size, changed_ns=status.st_mtime_ns, target=target))
    return found


def _stays(path: Path, target: str, folder: Path) -> bool:
    if target.startswith("/"):
        return False
    return not os.path.normpath(path.relative_to(folder).parent / target).startswith("..")


def _listing(found: Sequence[_Found]) -> str:
    """The digest of what is there, by names, sizes and times in whole seconds, as an archive keeps them."""
    digest = hashlib.sha256()
    for it in found:
        changed = 0 if it.target is not None else it.changed_ns // 1_000_000_000
        digest.update(f"{it.name}\0{it.size}\0{changed}\0{it.target or ''}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _add(members: tarfile.TarFile, folder: Path, it: _Found) -> None:
    member = tarfile.TarInfo(it.name)
    member.mtime = it.changed_ns // 1_000_000_000
    if it.target is not None:
        member.type, member.linkname = tarfile.SYMTYPE, it.target
        members.addfile(member)
        return
    try:
        with (folder / it.name).open("rb") as file:
            status = os.fstat(file.fileno())
            member.size = status.st_size
            member.mode = 0o755 if status.st_mode & 0o100 else 0o644
            members.addfile(member, file)
    except FileNotFoundError:
        return  # gone since it was listed: caches tidy themselves up


def _put(members: tarfile.TarFile, member: tarfile.TarInfo, where: Path) -> int:
    if member.issym():
        climbs = os.path.normpath(Path(member.name).parent / member.linkname)
        if member.linkname.startswith("/") or climbs.startswith(".."):
            return 0
        where.symlink_to(member.linkname)
        return 1
    source = members.extractfile(member)
    assert source is not None, "a regular file has contents"
    with source, where.open("xb") as file:
        while data := source.read(_READ_BYTES):
            file.write(data)
    where.chmod(0o755 if member.mode & 0o100 else 0o644)
    os.utime(where, (member.mtime, member.mtime))
    return 1
