"""What a submission leaves in the job's place for machines that are not this computer: the code, and spotrun itself."""

from __future__ import annotations

import hashlib
import mmap
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from spotrun.controller.listing import code_files
from spotrun.controller.pack import pack
from spotrun.controller.wheel import build_wheel
from spotrun.errors import SpecError
from spotrun.job import JobSpec
from spotrun.job.machine import Bundle, GitCode, Package
from spotrun.store import BlobStore

__all__ = ["Baggage", "packed"]

_MB = 1_000_000
_NAMED = 5  # files named in a warning


class Baggage:
    """Packed, and ready to be left in a job's place: twice, should the first place be taken."""

    def __init__(self, bundle: Bundle, *, archive: IO[bytes] | None, wheel: bytes) -> None:
        self.bundle = bundle
        self._archive = archive
        self._wheel = wheel

    def leave(self, store: BlobStore) -> None:
        """Writes what the bundle names below the store's root.

        Raises:
            StoreError: it could not be written.
        """
        if self.bundle.code is not None and self._archive is not None:
            with (
                mmap.mmap(self._archive.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as view,
            ):
                store.write(self.bundle.code.key, [view])
        assert self.bundle.wheel is not None, "it is built from what runs here"
        store.write(self.bundle.wheel.key, [self._wheel])


@contextmanager
def packed(spec: JobSpec, workdir: Path, *, warn: Callable[[str], None]) -> Iterator[Baggage | None]:
    """Packs what the job's machines will need; None for jobs whose machines are this computer.

    Args:
        warn: is told in sentences what was left out.

    Raises:
        SpecError: the code is too large, or what the job names is not in it. Nothing was submitted.
    """
    if spec.provider == "local":
        yield None
        return
    name, wheel = build_wheel()
    ours = Package(key=f"wheel/{name}", sha256=hashlib.sha256(wheel).hexdigest(), size_bytes=len(wheel))
    if spec.code.git is not None and spec.code.commit is not None:
        git = GitCode(url=spec.code.git, commit=spec.code.commit)
        yield Baggage(Bundle(git=git, wheel=ours), archive=None, wheel=wheel)
        return
    listing = code_files(workdir)
    if listing.secrets:
        warn(f"left out, because they look like secrets: {_some(listing.secrets)}")
    if listing.leaving:
        warn(f"left out, because they are links out of {workdir}: {_some(listing.leaving)}")
    _check_present(spec, listing.files, workdir)
    with tempfile.TemporaryFile(prefix="spotrun-code-") as archive:
        digest, size = pack(workdir, listing.files, archive, bytes_max=spec.code.max_mb * _MB)
        archive.flush()
        code = Package(key=f"code/{digest}.tar.gz", sha256=digest, size_bytes=size)
        yield Baggage(Bundle(code=code, wheel=ours), archive=archive, wheel=wheel)


def _check_present(spec: JobSpec, files: tuple[str, ...], workdir: Path) -> None:
    """What the job names must be among what is packed: on the machine there is nothing else."""
    known = set(files)
    words = shlex.split(spec.command) if isinstance(spec.command, str) else list(spec.command)
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    is_ours = Path(words[0]).name.startswith("python") and script.endswith(".py") and (workdir / script).is_file()
    if is_ours and _inside(script) not in known:
        raise SpecError(
            f"command: {script} is in {workdir} but not among what is brought to a machine: it is ignored by "
            ".gitignore, or looks like a secret. Nothing was submitted"
        )
    for name, url in spec.inputs.items():
        if "://" in url or "::" in url:
            continue
        path = _inside(url)
        if path not in known and not any(file.startswith(f"{path}/") for file in files):
            raise SpecError(
                f"inputs.{name}: {url} is not among what is brought to a machine: it is ignored by .gitignore, or empty. "
                "Nothing was submitted; give a URL like s3://bucket/data"
            )


def _inside(path: str) -> str:
    return PurePosixPath(path).as_posix().removeprefix("./")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = (name.encode("utf-8", "backslashreplace").decode() for name in names[:_NAMED])  # a name may be no text
    return ", ".join(shown) + more
