"""A directory's code as one archive: the same files give the same bytes, whoever packs them, wherever and whenever."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from spotrun.errors import SpecError

__all__ = ["pack"]

_LARGEST = 5  # files named in the sentence about the limit
_MB = 1_000_000


def pack(directory: Path, names: Sequence[str], target: IO[bytes], *, bytes_max: int) -> tuple[str, int]:
    """Writes the named files of a directory as a tar.gz.

    Args:
        names: relative to the directory, sorted.
        target: where to; written from its beginning.
        bytes_max: of the archive.

    Returns:
        Its SHA-256 and its size in bytes.

    Raises:
        SpecError: it would be too large, or a file cannot be read. Nothing was submitted.
    """
    counted = _Counted(target, bytes_max)
    name = ""
    try:
        # No name and no time in the header: they would make each archive another one.
        with (
            gzip.GzipFile(filename="", fileobj=counted, mode="wb", compresslevel=6, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in names:
                _add(archive, directory, name)
    except _TooLargeError:
        raise SpecError(_too_large(directory, names, bytes_max)) from None
    except OSError as err:
        raise SpecError(
            f"code: {name} in {directory} could not be packed: {err.strerror or err}. Nothing was submitted"
        ) from err
    return counted.digest.hexdigest(), counted.size


class _TooLargeError(Exception):
    """The archive has reached its limit."""


class _Counted:
    """Passes on what is written, and knows its digest and size."""

    def __init__(self, target: IO[bytes], bytes_max: int) -> None:
        self._target = target
        self._bytes_max = bytes_max
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        if self.size > self._bytes_max:
            raise _TooLargeError
        self.digest.update(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()


def _add(archive: tarfile.TarFile, directory: Path, name: str) -> None:
    path = directory / name
    member = tarfile.TarInfo(name)
    if path.is_symlink():
        member.type, member.linkname = tarfile.SYMTYPE, os.fspath(path.readlink())
        archive.addfile(member)
        return
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        member.size = status.st_size
        member.mode = 0o755 if status.st_mode & 0o100 else 0o644
        archive.addfile(member, file)


def _too_large(directory: Path, names: Sequence[str], bytes_max: int) -> str:
    sizes = {name: (directory / name).lstat().st_size for name in names if os.path.lexists(directory / name)}
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_LARGEST]
    told = ", ".join(f"{name} ({sizes[name] / _MB:.1f} MB)" for name in largest)
    return (
        f"code: {directory} is more than {bytes_max / _MB:g} MB when packed ({len(sizes)} files, {sum(sizes.values()) / _MB:.1f} "
        f"MB; the largest: {told}). Nothing was submitted; name data in .gitignore and give it as inputs, or raise "
        "code.max_mb"
    )
