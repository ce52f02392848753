"""Which files the command is writing, as the kernel tells it. Linux only; elsewhere nothing is known."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["open_for_writing"]


def open_for_writing(root: Path, processes: Iterable[int], *, proc: Path = Path("/proc")) -> frozenset[str]:
    """Paths below `root` that one of these processes has open for writing, or mapped for writing to the file.

    A process that ends meanwhile, or may not be looked at, tells nothing.
    """
    prefix = f"{root}/"
    found: set[str] = set()
    for process in processes:
        place = proc / str(process)
        for path in (*_descriptors(place), *_mappings(place)):
            if path.startswith(prefix):
                found.add(path[len(prefix) :])
    return frozenset(found)


def _descriptors(place: Path) -> Iterator[str]:
    try:
        descriptors = list((place / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            path = str(descriptor.readlink())
            if path.startswith("/") and _writes((place / "fdinfo" / descriptor.name).read_text(encoding="ascii")):
                yield path
        except OSError:
            continue


def _writes(fdinfo: str) -> bool:
    for line in fdinfo.splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _mappings(place: Path) -> Iterator[str]:
    try:
        lines = (place / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:  # address, permissions, offset, device, inode, path
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and parts[1].startswith("rw") and parts[1].endswith("s"):
            yield parts[5]
