"""From a commit to the folder: fetched and checked wholly, then put in place.

Before the first name in the folder changes, every byte is on this disk and found right. So what is damaged costs nothing
but the time to notice it, and an older commit can be tried; and an agent killed in between leaves either what was there or
a part of both, with which no command is ever started: the next attempt begins again from the commit.

Files take their names in the order of their times, oldest first, and get those times: scripts look for 'the newest file'.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from spotrun.agent.folder.record import FolderFile, Record
from spotrun.agent.folder.rule import Rules
from spotrun.errors import SpecError, SpotrunError
from spotrun.store import BlobRef, BlobStore, Manifest, read_blob
from spotrun.store.key import TEMPORARY
from spotrun.units import format_bytes

__all__ = ["Restoration"]

_THREADS = 4  # each with a piece in memory
_READ_BYTES = 1 << 20


class Restoration:
    """Makes a folder what a commit says: `fetch`, then `place`.

    Args:
        root: the folder, which exists, free of links.
        aside: where to what is in the folder and not in the commit is moved.
        progress: called with the number of bytes that have just been found right.
    """

    def __init__(
        self, store: BlobStore, root: Path, rules: Rules, *, aside: Path, progress: Callable[[int], None]
    ) -> None:
        self._store = store
        self._root = root
        self._rules = rules
        self._aside = aside
        self._progress = progress
        self._drafts = root / TEMPORARY
        self.kept = 0  # files that were there already
        self.found_right: dict[str, BlobRef] = {}  # blobs that were fetched, by digest
        self.moved: list[str] = []  # what was moved aside

    def fetch(self, manifest: Manifest, record: Record) -> None:
        """Brings every byte to this disk, beside the folder's files, and finds it right. May be called again with
        another commit.

        Raises:
            CheckpointCorrupt: a blob is damaged or missing.
            SpecError: the disk has no room for it, or may not be written.
            StoreError: the store failed.
        """
        try:
            self._clear()
            self.found_right = {}
            self._drafts.mkdir(mode=0o700)
            present = self._present(manifest.blobs, record)
            self.kept = len(present)
            wanted = {number: file for number, file in enumerate(record.files) if file.path not in present}
            self._refuse_what_does_not_fit(sum(file.size for file in wanted.values()))
            for number in wanted:
                self._draft(number).touch(mode=0o600)
            self._in_parallel(manifest, wanted)
            for number, file in wanted.items():
                self._finish(self._draft(number), file)
        except OSError as err:
            self._clear()
            raise SpecError(f"the folder {self._root} cannot be restored on this machine: {err.strerror}") from err
        except SpotrunError:
            self._clear()
            raise

    def place(self, record: Record) -> None:
        """Moves aside what the commit does not have, and puts what was fetched in place.

        Raises:
            SpecError: the disk refused it.
        """
        try:
            self._move_aside(record)
            for directory in sorted(record.directories, key=lambda it: it.path):
                place = self._root / directory.path
                place.mkdir(exist_ok=True)
                place.chmod(stat.S_IMODE(place.stat().st_mode) | 0o700)
            numbered = sorted(enumerate(record.files), key=lambda it: (it[1].mtime_ns, it[1].path))
            for number, file in numbered:
                place, draft = self._root / file.path, self._draft(number)
                if draft.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    draft.replace(place)
                else:
                    _dress(place, file)
            for link in record.links:
                self._link(link.path, link.target)
            self._clear()
            for directory in sorted(record.directories, key=lambda it: it.path, reverse=True):
                place = self._root / directory.path
                _sync(place)
                place.chmod(directory.mode)
                os.utime(place, ns=(directory.mtime_ns, directory.mtime_ns))
            _sync(self._root)
        except OSError as err:
            raise SpecError(f"the folder {self._root} cannot be restored on this machine: {err.strerror}") from err

    def _present(self, blobs: tuple[BlobRef, ...], record: Record) -> set[str]:
        """Files that lie there already with the same bytes: the machine is the one before, or a disk was kept. Small ones
        share blobs, so nobody knows their digests; they are fetched, which costs little."""

        def same(file: FolderFile) -> bool:
            whole = all(start == 0 and end == blobs[blob].size for blob, start, end in file.pieces)
            return whole and _holds(self._root / file.path, file, blobs)

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="folder") as pool:
            found = pool.map(lambda file: (file.path, same(file)), record.files)
            return {path for path, is_same in found if is_same}

    def _refuse_what_does_not_fit(self, size: int) -> None:
        free = shutil.disk_usage(self._root).free
        if size > free:
            raise SpecError(
                f"the folder {self._root} would take {format_bytes(size)}, but its disk has {format_bytes(free)} left: "
                "make room, or take a machine with a larger disk"
            )

    def _in_parallel(self, manifest: Manifest, wanted: dict[int, FolderFile]) -> None:
        places: dict[int, list[tuple[int, int, int, int]]] = {}  # blob -> draft, offset in it, bytes [start, end)
        for number, file in wanted.items():
            offset = 0
            for blob, start, end in file.pieces:
                places.setdefault(blob, []).append((number, offset, start, end))
                offset += end - start

        def fetch(blob: int) -> None:
            ref = manifest.blobs[blob]
            content = memoryview(read_blob(self._store, ref))
            self.found_right[ref.digest] = ref
            for number, offset, start, end in places[blob]:
                _write_at(self._draft(number), offset, content[start:end])
                self._progress(end - start)

        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="folder")
        try:
            for future in [pool.submit(fetch, blob) for blob in places]:
                future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, draft: Path, file: FolderFile) -> None:
        _sync(draft)  # first: it may become a file that nobody may open
        _dress(draft, file)

    def _move_aside(self, record: Record) -> None:
        kinds = {file.path: stat.S_IFREG for file in record.files}
        kinds |= {it.path: stat.S_IFDIR for it in record.directories} | {it.path: stat.S_IFLNK for it in record.links}
        for file in record.files:
            for parent in Path(file.path).parents[:-1]:
                kinds.setdefault(parent.as_posix(), stat.S_IFDIR)
        for path in self._strangers(kinds):
            target = self._aside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self._root / path, target)
            self.moved.append(path)

    def _strangers(self, kinds: dict[str, int]) -> Iterator[str]:
        """What is not in the commit, or is of another kind; of a whole directory only its own name."""
        todo = [""]
        while todo:
            below = todo.pop()
            for entry in list(os.scandir(self._root / below)):
                path = f"{below}/{entry.name}" if below else entry.name
                if self._rules.ignored.fits(path):
                    continue
                kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
                if kinds.get(path) == kind:
                    if kind == stat.S_IFDIR:
                        todo.append(path)
                elif kind == stat.S_IFDIR and self._shelters(path):
                    todo.append(path)
                else:
                    yield path

    def _shelters(self, directory: str) -> bool:
        """Whether something below is ignored, which then stays where it is, and its directories with it."""
        for parent, directories, names in os.walk(self._root / directory):
            place = Path(parent).relative_to(self._root).as_posix()
            if any(self._rules.ignored.fits(f"{place}/{name}") for name in (*directories, *names)):
                return True
        return False

    def _link(self, path: str, target: str) -> None:
        place = self._root / path
        if place.is_symlink() and str(place.readlink()) == target:
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = self._drafts / "link"
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(place)

    def _draft(self, number: int) -> Path:
        return self._drafts / f"{number:08d}"

    def _clear(self) -> None:
        if self._drafts.is_symlink():
            self._drafts.unlink()
        if self._drafts.exists():
            shutil.rmtree(self._drafts)


def _holds(path: Path, file: FolderFile, blobs: tuple[BlobRef, ...]) -> bool:
    if path.parent.resolve() != path.parent:
        return False  # reached through a link, which will not stay
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size or status.st_nlink != 1:
            return False
        return all(_digest_of(descriptor, blobs[blob].size) == blobs[blob].digest for blob, _, _ in file.pieces)
    finally:
        os.close(descriptor)


def _digest_of(descriptor: int, size: int) -> str:
    """The digest of the next `size` bytes."""
    digest = blake3(max_threads=1)
    while size and (data := os.read(descriptor, min(size, _READ_BYTES))):
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def _write_at(path: Path, offset: int, content: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        done = 0
        while done < len(content):
            done += os.pwrite(descriptor, content[done:], offset + done)
    finally:
        os.close(descriptor)


def _dress(path: Path, file: FolderFile) -> None:
    path.chmod(file.mode)
    os.utime(path, ns=(file.mtime_ns, file.mtime_ns))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
