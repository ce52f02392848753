"""What is in the folder at one look: names, sizes, times; never content."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from spotrun.agent.folder.rule import Rules

__all__ = ["FILES_MAX", "Directory", "File", "Link", "Listing", "Signature", "link_target", "scan", "signature_of"]

FILES_MAX = 50_000  # a checkpoint has hundreds; more is a data set, and each look would take seconds
_PATH_BYTES_MAX = 1024  # of a path below the folder; what fits into any file system's limits wherever it is restored

Signature = tuple[int, int, int, int]
"""Size, time of the last change of content and of anything, in ns, and inode: what differs for a file that differs."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    path: str
    signature: Signature
    mode: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.signature[0]

    @property
    def mtime_ns(self) -> int:
        """When its content was changed last."""
        return self.signature[1]


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory below the folder."""

    path: str
    mode: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to something inside of the folder; the target is relative to the link's own directory."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One look.

    Attributes:
        files, links: what a generation would hold.
        temporaries: unfinished files, which it would not.
        left_out: path -> why it cannot be held: no file at all, or a link that leads outside.
        excess: whether there was more than `FILES_MAX`, so that the rest was not looked at.
    """

    files: dict[str, File] = field(default_factory=dict)
    directories: dict[str, Directory] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    temporaries: dict[str, File] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    excess: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def scan(root: Path, rules: Rules) -> Listing:
    """What is below `root` now. What vanishes while it looks is as good as never there.

    Raises:
        OSError: the folder itself cannot be read.
    """
    listing = Listing()
    if root.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "it has become a link")
    for path, entry in _walk(root, rules, listing):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            found = File(path, signature_of(status), stat.S_IMODE(status.st_mode))
            (listing.temporaries if rules.temporary.fits(path) else listing.files)[path] = found
        elif kind == stat.S_IFLNK:
            _add_link(listing, root, path, rules)
        elif kind != stat.S_IFDIR:
            listing.left_out[path] = "is a pipe, socket or device, which has no content to keep"
        if len(listing.files) + len(listing.links) + len(listing.directories) > FILES_MAX:
            return Listing(excess=True)
    return listing


def signature_of(status: os.stat_result) -> Signature:
    """The signature of a file, from `stat`."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def link_target(path: str, target: str, root: PurePath) -> str | None:
    """Where a link at `path` below `root` leads, relative to its own directory; None if that is outside of `root`.

    Nothing is looked up: what counts is what the link says.
    """
    place = os.path.dirname(os.path.join(root, path))  # noqa: PTH118, PTH120  no pathlib way keeps `..` as it is
    goal = os.path.normpath(os.path.join(place, target))  # noqa: PTH118
    if goal != str(root) and not goal.startswith(f"{root}/"):
        return None
    return os.path.relpath(goal, place)


def _walk(root: Path, rules: Rules, listing: Listing) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything that is not ignored; directories are entered in the listing on the way."""
    todo = [""]
    while todo:
        below = todo.pop()
        try:
            entries = list(os.scandir(root / below))
        except (FileNotFoundError, NotADirectoryError):
            if not below:
                raise
            continue
        except PermissionError:
            if not below:
                raise
            listing.left_out[below] = "may not be read by this user"
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if rules.ignored.fits(path):
                continue
            if not _is_nameable(path):
                listing.left_out[path.encode(errors="replace").decode()] = "has a name that is too long or not UTF-8"
                continue
            if entry.is_dir(follow_symlinks=False):
                if not rules.temporary.fits(path):
                    _add_directory(listing, path, entry)
                todo.append(path)
            yield path, entry


def _add_directory(listing: Listing, path: str, entry: os.DirEntry[str]) -> None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
    listing.directories[path] = Directory(path, stat.S_IMODE(status.st_mode), status.st_mtime_ns)


def _add_link(listing: Listing, root: Path, path: str, rules: Rules) -> None:
    if rules.temporary.fits(path):
        return
    try:
        target = str((root / path).readlink())
    except OSError:
        return  # it is gone, or something else by now
    inside = link_target(path, target, root)
    if inside is None or not _is_nameable(inside):
        shown = target.encode(errors="replace").decode()
        listing.left_out[path] = f"is a link to {shown}, which is outside of the folder"
    else:
        listing.links[path] = Link(path, inside)


def _is_nameable(path: str) -> bool:
    try:
        return len(path.encode()) <= _PATH_BYTES_MAX
    except UnicodeEncodeError:
        return False
