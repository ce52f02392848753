"""Remote files come to the machine: many at a time, large ones in pieces, and after a failure only what is missing."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Download"]

_PIECE_BYTES = 32 << 20  # large enough for a request's cost not to matter, small enough to be asked for again
_THREADS = 16  # what one connection to an object store gives is a tenth of what a machine takes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    source: str
    target: Path
    start: int
    end: int | None  # None: the whole file, of a source that does not tell sizes


class Download:
    """One file or folder of a file system of fsspec's. `run` it until it returns; what it has, it does not fetch again.

    Attributes:
        bytes_done, bytes_total: how far it is.
    """

    def __init__(self, system: Any, source: str, target: Path, *, name: str) -> None:
        self._system = system
        self._source = source.rstrip("/")
        self._target = target
        self._name = name
        self._pieces: list[_Piece] | None = None
        self._is_folder = False
        self._done: set[_Piece] = set()
        self._left: Counter[Path] = Counter()  # pieces of each file that are missing
        self._lock = threading.Lock()
        self.bytes_done = 0
        self.bytes_total = 0

    def run(self, *, moved: Callable[[], None]) -> Path:
        """Fetches what is missing; gives the file or folder. `moved` is called after every piece, from any thread.

        Raises:
            FileNotFoundError: there is nothing at the source.
            ValueError: a name would lead out of the folder.
            Exception: whatever the file system raises; run again to go on.
        """
        if self._pieces is None:
            self._pieces = list(self._plan())
        missing = [piece for piece in self._pieces if piece not in self._done]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="input") as pool:
            futures = [pool.submit(self._fetch, piece, moved) for piece in missing]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
        return self._target if self._is_folder else self._target / self._file_name

    @property
    def _file_name(self) -> str:
        return self._source.rsplit("/", 1)[-1] or self._name

    def _plan(self) -> Iterator[_Piece]:
        self._is_folder = bool(self._system.isdir(self._source))
        if not self._is_folder and not self._system.exists(self._source):
            raise FileNotFoundError(self._source)
        self._target.mkdir(parents=True, exist_ok=True)
        self._left.clear()
        self.bytes_total = 0
        for source, target, size in self._files():
            target.parent.mkdir(parents=True, exist_ok=True)
            if size is not None:
                self.bytes_total += size
            ends = [None] if size is None else [*range(_PIECE_BYTES, size, _PIECE_BYTES), size]
            start = 0
            for end in ends:
                self._left[target] += 1
                yield _Piece(source=source, target=target, start=start, end=end)
                start = end or 0

    def _files(self) -> Iterator[tuple[str, Path, int | None]]:
        if not self._is_folder:
            yield self._source, self._target / self._file_name, self._system.info(self._source).get("size")
            return
        base = str(self._system._strip_protocol(self._source)).rstrip("/") + "/"
        for path, info in sorted(self._system.find(self._source, detail=True).items()):
            name = path[len(base) :] if path.startswith(base) else ""
            if not name or name.endswith("/"):
                continue  # the marker of an empty folder
            if ".." in name.split("/") or name.startswith("/"):
                raise ValueError(f"{name!r} would lead out of the input's folder")
            yield path, self._target / name, info.get("size")

    def _fetch(self, piece: _Piece, moved: Callable[[], None]) -> None:
        part = piece.target.with_name(piece.target.name + ".spotrun-part")
        if piece.end is None:
            self._system.get_file(piece.source, str(part))
            size = part.stat().st_size
        else:
            size = piece.end - piece.start
            data = self._system.cat_file(piece.source, start=piece.start, end=piece.end) if size else b""
            if len(data) != size:
                raise OSError(
                    f"{piece.source} gave {len(data)} bytes of [{piece.start}, {piece.end}): it was replaced?"
                )
            file = os.open(part, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                _write_at(file, memoryview(data), piece.start)
            finally:
                os.close(file)
        with self._lock:
            self._done.add(piece)
            self.bytes_done += size
            self._left[piece.target] -= 1
            if not self._left[piece.target]:
                part.replace(piece.target)  # under its name a file is whole
        moved()


def _write_at(file: int, data: memoryview, place: int) -> None:
    """Writes all of it. A disk that is nearly full takes a part and says how much; only the next write is refused."""
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written
