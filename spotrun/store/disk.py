"""The operating system's calls that change a disk, as a seam: what a power cut can fall between."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from spotrun.store.digest import Part, views_of

__all__ = ["Disk"]

_WRITE_BYTES_MAX = 1 << 30  # Linux writes at most 2 GiB - 4 KiB at once
_COMPARE_BYTES = 1 << 20


class Disk:
    """The real disk. Every method raises `OSError`; what survives a power cut is said at each."""

    def write(self, path: Path, parts: Sequence[Part]) -> None:
        """Makes a new file and returns once its content would survive; its name would not, before `sync` of the parent.

        What is written is read back and compared. A failure may leave the file behind, in part.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            views = views_of(parts)
            for view in views:
                done = 0
                while done < len(view):
                    done += os.write(descriptor, view[done : done + _WRITE_BYTES_MAX])
            os.fsync(descriptor)
            _compare(descriptor, views)
        finally:
            os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name, if nothing has that name, else raises FileExistsError. Atomic among processes."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Moves a file over whatever has the target's name. Atomic; either the old or the new survives."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Takes a name away."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Makes a directory, silent if it is there; its name would survive after `sync` of its parent."""
        path.mkdir(exist_ok=True)

    def sync(self, directory: Path) -> None:
        """Returns once all names in a directory, as they are now, would survive."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _compare(descriptor: int, views: Sequence[memoryview]) -> None:
    offset = 0
    for view in views:
        for start in range(0, len(view), _COMPARE_BYTES):
            expected = view[start : start + _COMPARE_BYTES].tobytes()
            if os.pread(descriptor, len(expected), offset + start) != expected:
                raise OSError("what was read back differs from what was written")
        offset += len(view)
    if os.fstat(descriptor).st_size != offset:
        raise OSError("the file has another size than what was written")
