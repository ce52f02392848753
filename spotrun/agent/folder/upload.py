"""From a generation to blobs: read in pieces, compared with the listing, stored once.

A file counts as read only if it is, before and after its reading, what the listing said. So the blobs hold what was there
at the instant of the listing, all of it, or there are none that anybody names. Memory is bounded by a few pieces.
"""

from __future__ import annotations

import os
import threading
from collections import ChainMap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from spotrun.agent.folder.listing import File, Listing, Signature, signature_of
from spotrun.agent.folder.record import FolderFile, FolderLink, FolderPart, Record
from spotrun.agent.folder.rule import Rules
from spotrun.errors import SpotrunError
from spotrun.store import BlobRef, BlobStore, write_blob

__all__ = ["Abandoned", "Changed", "Stored", "Uploader"]

_PIECE_BYTES = 32 << 20
_SMALL_BYTES = 1 << 20  # below, files share a blob: a request for each would take longer than its bytes
_SHARED_BYTES = 8 << 20
_THREADS = 3  # with a piece each
_NICENESS = 10  # the training's processes go first


class Changed(SpotrunError):
    """A file is not what the listing said: this generation is void, the next look finds another."""

    def __init__(self, path: str, why: str = "changed while it was read") -> None:
        self.path = path
        super().__init__(f"{path} {why}")


class Abandoned(SpotrunError):
    """Somebody asked the upload to end."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Bytes [start, end) of a file as the listing has it."""

    file: File
    start: int
    end: int
    growing: bool

    @property
    def name(self) -> tuple[str, Signature, int, int]:
        """What is the same for slices with the same bytes."""
        return self.file.path, self.file.signature, self.start, self.end


_Name = tuple[tuple[str, Signature, int, int], ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A generation whose every byte is in the store, but for its commit."""

    record: Record
    blobs: tuple[BlobRef, ...]
    names: dict[_Name, BlobRef]
    new_bytes: int


class Uploader:
    """Stores generations of one folder, and what it has stored only once. For one thread; uses a few of its own.

    Args:
        known: blobs of the commit that the folder was restored from, if the next commit follows it.
    """

    def __init__(
        self, store: BlobStore, root: Path, rules: Rules, *, attempt: int, known: dict[str, BlobRef] | None = None
    ) -> None:
        self._store = store
        self._root = root
        self._rules = rules
        self._attempt = attempt
        self._committed = dict(known or {})  # by digest
        self._names: dict[_Name, BlobRef] = {}  # of what is known, for files that need not even be read again
        self._written: dict[str, BlobRef] = {}  # since the last commit, by generations that came to nothing
        self._abandoned = threading.Event()
        self.sent_bytes = 0  # of blobs stored so far

    @property
    def is_abandoned(self) -> bool:
        """Whether nothing more is stored."""
        return self._abandoned.is_set()

    def abandon(self) -> None:
        """Has `store` end soon, for good."""
        self._abandoned.set()

    def store(self, listing: Listing, *, urgent: bool) -> Stored:
        """Stores what a listing names.

        Args:
            urgent: not at a lower priority than the training.

        Raises:
            Changed: the folder has changed since.
            Abandoned: `abandon` was called.
            StoreError, CheckpointCorrupt: the store failed; what was stored is not stored again.
        """
        groups = list(self._groups(listing))
        before = self.sent_bytes
        refs: list[BlobRef] = []
        # Not `map`, whose end would wait for all: what is not begun when one fails is not begun at all.
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="folder", initializer=None if urgent else _step_back)
        try:
            refs.extend(future.result() for future in [pool.submit(self._store_group, group) for group in groups])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        record = _record(listing, groups)
        names = {_name(group): ref for group, ref in zip(groups, refs, strict=True)}
        return Stored(record, tuple(refs), names, self.sent_bytes - before)

    def committed(self, stored: Stored) -> None:
        """The generation is the newest commit: its blobs need not be stored again."""
        self._committed = {blob.digest: blob for blob in stored.blobs}
        self._names = stored.names
        self._written = {}

    def doubtful(self, *, all_of_it: bool = False) -> None:
        """Whether the last commit took place is unknown: only what this attempt wrote itself is still relied on, or
        nothing, if it turned out that `all_of_it` may be gone."""
        self._committed = {}
        if all_of_it:
            self._written = {}
        ours = {ref.key for ref in self._written.values()}
        self._names = {name: ref for name, ref in self._names.items() if ref.key in ours}

    def _groups(self, listing: Listing) -> Iterator[list[_Slice]]:
        """What goes into one blob each; growing files apart, because they alone change every time."""
        for growing in (False, True):
            shared: list[_Slice] = []
            for path in sorted(listing.files):
                file = listing.files[path]
                if self._rules.growing.fits(path) is not growing:
                    continue
                if file.size >= _SMALL_BYTES:
                    for start in range(0, file.size, _PIECE_BYTES):
                        yield [_Slice(file, start, min(start + _PIECE_BYTES, file.size), growing)]
                elif file.size:
                    if sum(each.end for each in shared) + file.size > _SHARED_BYTES:
                        yield shared
                        shared = []
                    shared.append(_Slice(file, 0, file.size, growing))
            if shared:
                yield shared

    def _store_group(self, group: Sequence[_Slice]) -> BlobRef:
        if self._abandoned.is_set():
            raise Abandoned("the upload was abandoned")
        known = self._names.get(_name(group))
        if known is not None:
            return known
        memory = memoryview(bytearray(sum(each.end - each.start for each in group)))
        filled = 0
        for each in group:
            length = each.end - each.start
            self._read(each, memory[filled : filled + length])
            filled += length
        ref = write_blob(self._store, self._attempt, [memory], known=ChainMap(self._committed, self._written))
        if ref.digest not in self._committed and ref.digest not in self._written:
            self._written[ref.digest] = ref
            self.sent_bytes += ref.size
        self._names[_name(group)] = ref
        return ref

    def _read(self, each: _Slice, memory: memoryview) -> None:
        try:
            descriptor = os.open(
                self._root / each.file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError as err:
            raise Changed(each.file.path, f"could not be read: {err.strerror}") from err
        try:
            self._compare(each, descriptor)
            _fill(each, descriptor, memory)
            if self._compare(each, descriptor):
                again = memoryview(bytearray(len(memory)))  # it grew meanwhile: were these bytes left alone?
                _fill(each, descriptor, again)
                if again != memory:
                    raise Changed(each.file.path)
        except OSError as err:
            raise Changed(each.file.path, f"could not be read: {err.strerror}") from err
        finally:
            os.close(descriptor)

    def _compare(self, each: _Slice, descriptor: int) -> bool:
        """Whether a growing file has grown; any other must be as it was listed."""
        now = signature_of(os.fstat(descriptor))
        if now == each.file.signature:
            return False
        if each.growing and now[3] == each.file.signature[3] and now[0] >= each.file.size:
            return True
        raise Changed(each.file.path)


def _fill(each: _Slice, descriptor: int, memory: memoryview) -> None:
    done = 0
    while done < len(memory):
        got = os.preadv(descriptor, [memory[done:]], each.start + done)
        if not got:
            raise Changed(each.file.path)
        done += got


def _name(group: Sequence[_Slice]) -> _Name:
    return tuple(each.name for each in group)


def _record(listing: Listing, groups: Sequence[Sequence[_Slice]]) -> Record:
    pieces: dict[str, list[tuple[int, int, int]]] = {path: [] for path in listing.files}
    for number, group in enumerate(groups):
        at = 0
        for each in group:
            length = each.end - each.start
            pieces[each.file.path].append((number, at, at + length))
            at += length
    return Record(
        files=tuple(
            FolderFile(
                path=path,
                mode=file.mode & 0o777,
                size=file.size,
                mtime_ns=file.mtime_ns,
                pieces=tuple(pieces[path]),
            )
            for path, file in sorted(listing.files.items())
        ),
        directories=tuple(
            FolderPart(path=it.path, mode=it.mode & 0o777, mtime_ns=it.mtime_ns)
            for _, it in sorted(listing.directories.items())
        ),
        links=tuple(FolderLink(path=it.path, target=it.target) for _, it in sorted(listing.links.items())),
    )


def _step_back() -> None:
    """Lets this thread's processor time be taken by the training: on Linux, niceness is a thread's own."""
    if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
