"""Disks that fail: one that loses power between any two operations, and one on which any operation fails."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spotrun.store.digest import Part
from spotrun.store.disk import Disk


class PowerCut(Exception):  # not an OSError: nothing may catch it
    """The machine is off."""


@dataclass(eq=False)
class Inode:
    """A file's content, or a directory (None)."""

    content: bytes | None
    synced: bool


class PowerCutDisk(Disk):
    """A disk that does everything on the real file system below `base`, and knows what a power cut would leave of it.

    A file's content survives once it was fsynced, a name once its directory was; anything else may or may not, each on
    its own. The power goes at moment number `cut_at`; every operation has one before it, a write three more inside.
    """

    def __init__(self, base: Path, cut_at: int | None = None) -> None:
        self.base = base
        self.cut_at = cut_at
        self.moments = 0
        self.off = False
        self._live: dict[Path, Inode] = {}
        self._durable: dict[Path, Inode] = {}

    def write(self, path: Path, parts: Sequence[Part]) -> None:
        self._moment()
        content = b"".join(parts)
        self._live[path] = inode = Inode(b"", synced=False)
        with path.open("xb", buffering=0) as file:
            self._moment()
            inode.content = content[: len(content) // 2]
            file.write(inode.content)
            self._moment()
            file.write(content[len(content) // 2 :])
            inode.content = content
            self._moment()
            inode.synced = True

    def link(self, source: Path, target: Path) -> None:
        self._moment()
        super().link(source, target)
        self._live[target] = self._live[source]

    def rename(self, source: Path, target: Path) -> None:
        self._moment()
        super().rename(source, target)
        self._live[target] = self._live.pop(source)

    def unlink(self, path: Path) -> None:
        self._moment()
        super().unlink(path)
        self._live.pop(path, None)  # may have been there before

    def mkdir(self, path: Path) -> None:
        self._moment()
        super().mkdir(path)
        self._live.setdefault(path, Inode(None, synced=True))

    def sync(self, directory: Path) -> None:
        self._moment()
        for path in {*self._live, *self._durable}:
            if path.parent != directory:
                continue
            if path in self._live:
                self._durable[path] = self._live[path]
            else:
                del self._durable[path]

    def boot(self, place: Path, luck: random.Random | float) -> None:
        """Makes `place` what `base` is found to be after the cut.

        Args:
            luck: the share of unsynced changes that survive: 0 for none, 1 for all, or dice.
        """
        place.mkdir()
        for path in sorted({*self._live, *self._durable}):
            survives = luck.random() < 0.5 if isinstance(luck, random.Random) else luck > 0
            inode = (self._live if survives else self._durable).get(path)
            target = place / path.relative_to(self.base)
            if inode is None or not target.parent.exists():
                continue
            if inode.content is None:
                target.mkdir()
                continue
            content = inode.content
            if not inode.synced and luck != 1.0:
                content = content[: len(content) // 3] + b"\0" * (len(content) // 3)
            target.write_bytes(content)

    def _moment(self) -> None:
        if self.off or self.moments == self.cut_at:
            self.off = True
            raise PowerCut
        self.moments += 1


class FailingDisk(Disk):
    """A real disk whose operation number `fail_at` fails, once, with this error; a write fails in the middle."""

    def __init__(self, fail_at: int | None = None, error: int = 0) -> None:
        self.fail_at = fail_at
        self.error = error
        self.operations = 0

    def write(self, path: Path, parts: Sequence[Part]) -> None:
        try:
            self._operation()
        except OSError:
            path.write_bytes(b"".join(parts)[:3])
            raise
        super().write(path, parts)

    def link(self, source: Path, target: Path) -> None:
        self._operation()
        super().link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        self._operation()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._operation()
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._operation()
        super().mkdir(path)

    def sync(self, directory: Path) -> None:
        self._operation()

    def _operation(self) -> None:
        number, self.operations = self.operations, self.operations + 1
        if number == self.fail_at:
            raise OSError(self.error, os.strerror(self.error))
