"""The job's code comes to the machine: an archive of the submission's directory, checked, or a commit of a repository.

An archive is believed in nothing. Its digest must be the one in the journal; its members must be files, folders and links
that stay inside of the target; and none may lie behind a link, so that what a member's name says is where it ends up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from spotrun.errors import SpecError, StoreError, StoreUnavailable
from spotrun.job.machine import Bundle, GitCode, Package
from spotrun.store.blob import BlobStore

__all__ = ["fetch_code", "unpack"]

_READ_BYTES = 8 << 20
_GIT_WALL_S = 1800.0  # a repository with a long history over a slow line


def fetch_code(bundle: Bundle, target: Path, *, store: BlobStore, say: Callable[[str], None]) -> None:
    """Brings what the bundle names into `target`; a bundle without code leaves it alone.

    Raises:
        StoreError: it could not be fetched, or is not what was submitted.
        SpecError: the repository or the commit cannot be had.
    """
    if bundle.code is not None:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="spotrun-code-", dir=target.parent) as aside:
            archive = Path(aside) / "code.tar.gz"
            _download(bundle.code, archive, store)
            count = unpack(archive, target)
        say(f"code: {count} files from {bundle.code.key}")
    elif bundle.git is not None:
        _check_out(bundle.git, target)
        say(f"code: commit {bundle.git.commit} of {bundle.git.url}")


def unpack(archive: Path, target: Path) -> int:
    """Unpacks a tar.gz into an existing directory; gives the number of files.

    Raises:
        StoreError: it is damaged, or a member would not stay inside.
    """
    root = target.resolve()
    count = 0
    try:
        with tarfile.open(archive, mode="r:gz") as members:
            for member in members:
                _place(members, member, root)
                count += not member.isdir()
    except (tarfile.TarError, EOFError, OSError, UnicodeError) as err:
        raise StoreError(f"the code could not be unpacked: {err}") from err
    return count


def _download(package: Package, path: Path, store: BlobStore) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for start in range(0, package.size_bytes, _READ_BYTES):
            part = store.read(package.key, start, min(start + _READ_BYTES, package.size_bytes))
            digest.update(part)
            file.write(part)
    if digest.hexdigest() != package.sha256:
        raise StoreError(
            f"{package.key} is not the code that was submitted: its digest is {digest.hexdigest()[:12]}..., not "
            f"{package.sha256[:12]}.... The command is not started; submit the job again"
        )


def _place(members: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    where = root / _inside(member.name)
    if where.parent.resolve() != where.parent:
        raise tarfile.TarError(f"{member.name!r} lies behind a link")
    if where.is_symlink():
        raise tarfile.TarError(f"{member.name!r} is there already, as a link")
    where.parent.mkdir(parents=True, exist_ok=True)
    if member.isdir():
        where.mkdir(exist_ok=True)
    elif member.issym():
        _inside(os.path.join(os.path.dirname(member.name), member.linkname))  # noqa: PTH118, PTH120  text, not a path
        where.symlink_to(member.linkname)
    elif member.isreg():
        source = members.extractfile(member)
        assert source is not None, "a regular file has contents"
        with source, where.open("wb") as file:
            shutil.copyfileobj(source, file, _READ_BYTES)
        where.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise tarfile.TarError(f"{member.name!r} is neither file, folder nor link")


def _inside(name: str) -> str:
    """A path that is relative and climbs nowhere above where it starts."""
    plain = os.path.normpath(name)
    if name.startswith("/") or plain == ".." or plain.startswith("../") or "\\" in name or "\0" in name:
        raise tarfile.TarError(f"{name!r} would be outside of the code's folder")
    return plain


def _check_out(code: GitCode, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for step in (
        ["init", "--quiet", "."],
        ["fetch", "--quiet", "--depth", "1", "--no-tags", "--", code.url, code.commit],
        ["-c", "advice.detachedHead=false", "checkout", "--quiet", "--force", "FETCH_HEAD"],
        ["submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1"],
    ):
        _git(step, target, code)
    head = _git(["rev-parse", "HEAD"], target, code)
    if not head.startswith(code.commit):
        raise SpecError(f"code.commit: {code.url} gave {head} for {code.commit}")


def _git(arguments: list[str], target: Path, code: GitCode) -> str:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:ssh:file"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=target,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_WALL_S,
            check=False,
        )
    except FileNotFoundError as err:
        raise SpecError("code.git: this machine's image has no git; use one that has, or submit the directory") from err
    except (OSError, subprocess.TimeoutExpired) as err:
        raise StoreUnavailable(f"code: {code.url} could not be fetched: {err}") from err
    if done.returncode != 0:
        words = " ".join(done.stderr.decode(errors="replace").split())
        raise SpecError(f"code: commit {code.commit} of {code.url} cannot be had: {words[-400:]}")
    return done.stdout.decode(errors="replace").strip()
