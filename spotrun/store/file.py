"""Objects as files below one directory, durable against kill and power cut.

A write goes to a file of its own under `.spotrun-tmp`, is fsynced and read back, then takes its name in one step
(`rename` to replace, `link` to create), then the directory is fsynced. So a name appears only on complete content, and
when a method returns, the name would survive a power cut too. That holds for the directories above as well: before a
process first trusts one, it fsyncs the parent, even if another process made it and may not have come to that yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from spotrun.errors import StoreDenied, StoreError, StoreFull, StoreMissing, StoreUnavailable
from spotrun.store.digest import Part, views_of
from spotrun.store.disk import Disk
from spotrun.store.key import TEMPORARY, checked

__all__ = ["FileStore"]

_STALE_S = 86_400.0  # a day: no write takes that long, so its temporary file was left behind
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.ENFILE, errno.EMFILE}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}


class FileStore:
    """A `BlobStore` in a directory, which is made if it is not there.

    Args:
        root: the directory.
        disk: makes the changes.
        looking: nothing is made, and no right to write is asked for, before the first write.

    Raises:
        StoreDenied: the directory cannot be made or written.
        StoreError: it is no directory, or the disk failed.
    """

    exclusive = True
    engine = "files, synced to the disk"

    def __init__(self, root: str | Path, disk: Disk | None = None, *, looking: bool = False) -> None:
        self.root = Path(root).absolute()
        self._disk = disk or Disk()
        self._temporary = self.root / TEMPORARY
        self._trusted: set[Path] = set()
        self._lock = threading.Lock()
        self._made = False
        if not looking:
            self._make()

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        path = self._path(key)
        with self._translated(f"cannot read {path}", missing=key):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - from a descriptor
                size = os.fstat(descriptor).st_size
                left = (size if end is None else min(end, size)) - start
                file.seek(start)
                return _read_exactly(file.read, max(left, 0))

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        path = self._path(key)
        with self._translated(f"cannot read {path}", missing=key):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                filled = 0
                for memory in views_of(memories):
                    done = 0
                    while done < len(memory) and (got := os.preadv(descriptor, [memory[done:]], start + filled)):
                        done, filled = done + got, filled + got  # one call gives at most 2 GiB
                return filled
            finally:
                os.close(descriptor)

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`."""
        path = self._path(key)
        self._make()
        with self._translated(f"cannot write {path}"), self._finished(parts) as file:
            self._trust(path.parent)
            self._disk.rename(file, path)
            self._disk.sync(path.parent)

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`."""
        path = self._path(key)
        self._make()
        with self._translated(f"cannot create {path}"), self._finished([data]) as file:
            self._trust(path.parent)
            try:
                self._disk.link(file, path)
            except FileExistsError:
                self._disk.sync(path.parent)  # it may be ours, from a try that failed before it came to this
                return False
            except OSError as err:
                if err.errno in _NO_LINKS:
                    raise StoreError(
                        f"{self.root} is on a file system without hard links ({err.strerror}), so nothing would keep two "
                        "attempts from writing to one run; choose a place on a local disk or on NFS"
                    ) from err
                raise
            self._disk.sync(path.parent)
            return True

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        folder = prefix.rpartition("/")[0]
        top = self._path(folder) if folder else self.root
        with self._translated(f"cannot list {top}"):
            return sorted(key for key in self._walk(top) if key.startswith(prefix))

    def modified(self, prefix: str) -> dict[str, datetime]:
        """See `spotrun.store.collection.Dated.modified`."""
        times: dict[str, datetime] = {}
        for key in self.list(prefix):
            with contextlib.suppress(OSError):  # removed since the listing
                times[key] = datetime.fromtimestamp(self._path(key).stat().st_mtime, timezone.utc)
        return times

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        path = self._path(key)
        with self._translated(f"cannot delete {path}"):
            try:
                self._disk.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            self._disk.sync(path.parent)

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    @contextlib.contextmanager
    def _finished(self, parts: Sequence[Part]) -> Iterator[Path]:
        """A temporary file with this content, durable; its temporary name is gone afterwards, whatever happens."""
        path = self._temporary / f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(8)}"
        try:
            self._disk.write(path, parts)
            yield path
        finally:
            with contextlib.suppress(OSError):  # a leftover costs space only, and the next process cleans it up
                if path.exists():
                    self._disk.unlink(path)

    def _make(self) -> None:
        if self._made:
            return
        with self._translated(f"cannot use {self.root} as a store"):
            self._make_root()
            self._trust(self._temporary)
            self._clean()
        self._made = True

    def _make_root(self) -> None:
        missing = [place for place in (self.root, *self.root.parents) if not place.exists()]
        for place in reversed(missing):
            self._disk.mkdir(place)
            self._disk.sync(place.parent)
        if not missing:
            with contextlib.suppress(PermissionError):  # the parent is another's; then it has long been there
                self._disk.sync(self.root.parent)
        if not self.root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is not a directory")
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written by this user")
        self._trusted.add(self.root)

    def _trust(self, directory: Path) -> None:
        """Makes a directory below the root if need be, and makes sure that it would survive."""
        if directory in self._trusted:
            return
        self._trust(directory.parent)
        self._disk.mkdir(directory)
        self._disk.sync(directory.parent)
        with self._lock:
            self._trusted.add(directory)

    def _clean(self) -> None:
        """Removes temporary files of processes of this machine that are gone, and all that are a day old."""
        files = [path for path in self._temporary.iterdir() if path.is_file()]
        if not files:
            return
        now = self._now()
        for path in files:
            with contextlib.suppress(OSError):  # another process cleans, too, or it is another user's
                if _is_orphan(path.name) or now - path.stat().st_mtime > _STALE_S:
                    self._disk.unlink(path)

    def _now(self) -> float:
        """The present in the file system's own time, which may differ from this machine's."""
        self._temporary.touch()
        return self._temporary.stat().st_mtime

    def _walk(self, top: Path) -> Iterator[str]:
        def fail(err: OSError) -> None:
            if not isinstance(err, (FileNotFoundError, NotADirectoryError)):
                raise err

        for folder, subfolders, names in os.walk(top, onerror=fail):
            if TEMPORARY in subfolders:
                subfolders.remove(TEMPORARY)
            place = Path(folder).relative_to(self.root).as_posix()
            yield from (name if place == "." else f"{place}/{name}" for name in names)

    @contextlib.contextmanager
    def _translated(self, what: str, *, missing: str | None = None) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as err:
            if missing is not None:
                raise StoreMissing(missing) from err
            raise StoreError(f"{what}: {err.strerror or err}") from err
        except OSError as err:
            why = f"{what}: {err.strerror or err}"
            if err.errno in _FULL:
                raise StoreFull(f"{why}. Make room; what was stored before is intact") from err
            if err.errno in _DENIED:
                raise StoreDenied(why) from err
            raise (StoreUnavailable if err.errno in _PASSING else StoreError)(why) from err


def _read_exactly(read: Callable[[int], bytes | None], size: int) -> bytes:
    first = read(size) or b""
    if len(first) == size:
        return first
    pieces, have = [first], len(first)
    while have < size and (piece := read(size - have)):  # one read gives at most 2 GiB
        pieces.append(piece)
        have += len(piece)
    return b"".join(pieces)


def _is_orphan(name: str) -> bool:
    """Whether a temporary file's name says that it was written by a process of this machine that is gone."""
    host, _, rest = name.rpartition(".")[0].rpartition(".")
    if host != socket.gethostname() or not rest.isdecimal() or int(rest) == os.getpid():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
