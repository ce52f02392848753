"""Which files of a directory are its code: what git would take, without what looks like a secret.

Inside of a git repository git itself is asked, so that tracked files, new files and every kind of ignore rule count as
the user knows them. Elsewhere `.gitignore` files are read alike. Never taken: `.git`, `.spotrun`, caches of Python.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pathspec

from spotrun.errors import SpecError

__all__ = ["Listing", "code_files"]

_NEVER = frozenset({".git", ".hg", ".svn", ".spotrun", "__pycache__", ".ipynb_checkpoints"})
_HARMLESS = ("*.example", "*.sample", "*.template", "*.dist", "*.pub")
# Names under which tools keep keys and passwords. What is in the bundle lies in the bucket for as long as the job does.
_SECRET_NAMES = (
    ".env", ".env.*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*",
    "id_ed25519*", "credentials", "credentials.*", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc",
    ".git-credentials", ".htpasswd", "service-account*.json", "service_account*.json", "client_secret*.json",
    "secrets.*",
)  # fmt: skip
_SECRET_FOLDERS = frozenset({".aws", ".ssh", ".gnupg", ".kube"})
_GIT_WALL_S = 120.0  # a repository of a million files takes seconds
_FILES_MAX = 100_000  # a large repository has half of that; a home directory has more
_SUBMODULES_DEEP = 8  # submodules in submodules, bounded


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Paths relative to the directory, sorted, `/` between their parts.

    Attributes:
        files: regular files and links that stay inside.
        secrets: left out because of their names.
        leaving: left out because they are links out of the directory.
    """

    files: tuple[str, ...]
    secrets: tuple[str, ...]
    leaving: tuple[str, ...]


def code_files(directory: Path) -> Listing:
    """The code of a directory.

    Raises:
        SpecError: git does not answer, or the directory cannot be read. Nothing was submitted.
    """
    found = _asked_of_git(directory, _SUBMODULES_DEEP)
    names = _walked(directory) if found is None else found
    if len(names) > _FILES_MAX:
        raise SpecError(
            f"code: {directory} has more than {_FILES_MAX} files. Nothing was submitted; is it the right directory? Name data "
            "in .gitignore, and give it as inputs"
        )
    files, secrets, leaving = [], [], []
    for name in sorted(set(names)):
        path = directory / name
        if _NEVER & set(name.split("/")) or not (path.is_file() or path.is_symlink()):
            continue  # tracked but deleted, a pipe, a socket
        if _looks_secret(name):
            secrets.append(name)
        elif path.is_symlink() and not _stays_inside(path, directory):
            leaving.append(name)
        else:
            files.append(name)
    return Listing(files=tuple(files), secrets=tuple(secrets), leaving=tuple(leaving))


def _asked_of_git(directory: Path, depth: int) -> list[str] | None:
    """What git lists; None outside of a repository or without git."""
    command = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, timeout=_GIT_WALL_S, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return None
    except (OSError, subprocess.TimeoutExpired) as err:
        raise SpecError(f"code: git could not list {directory}: {err}. Nothing was submitted") from err
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        if words and "not a git repository" in words[0]:
            return None
        raise SpecError(f"code: git could not list {directory}: {' '.join(words[:2])}. Nothing was submitted")
    names = []
    for name in done.stdout.decode("utf-8", "surrogateescape").split("\0"):
        path = directory / name
        if not name:
            continue
        if path.is_dir() and not path.is_symlink():  # a submodule, or a repository inside of this one
            inner = _asked_of_git(path, depth - 1) if depth else None
            names += [f"{name.rstrip('/')}/{below}" for below in inner or ()]
        else:
            names.append(name)
    return names


def _walked(directory: Path) -> list[str]:
    """Every file that no `.gitignore` on the way to it excludes."""
    return list(islice(_below(directory, "", ()), _FILES_MAX + 1))


def _below(directory: Path, base: str, rules: tuple[tuple[str, pathspec.GitIgnoreSpec], ...]) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        ignore = directory / ".gitignore"
        if ignore.is_file():
            lines = ignore.read_text(encoding="utf-8", errors="replace").splitlines()
            rules = (*rules, (base, pathspec.GitIgnoreSpec.from_lines(lines)))
    except OSError as err:
        raise SpecError(f"code: {directory} could not be read: {err.strerror}. Nothing was submitted") from err
    for entry in found:
        name = f"{base}{entry.name}"
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in _NEVER or _ignored(f"{name}/" if is_folder else name, rules):
            continue
        if is_folder:
            yield from _below(Path(entry.path), f"{name}/", rules)
        else:
            yield name


def _ignored(name: str, rules: tuple[tuple[str, pathspec.GitIgnoreSpec], ...]) -> bool:
    """The word of the nearest `.gitignore` that has one counts, as for git."""
    for base, spec in reversed(rules):
        verdict = spec.check_file(name[len(base) :]).include
        if verdict is not None:
            return bool(verdict)
    return False


def _looks_secret(name: str) -> bool:
    *folders, last = name.lower().split("/")
    if _SECRET_FOLDERS & set(folders):
        return True
    if any(fnmatch.fnmatchcase(last, pattern) for pattern in _HARMLESS):
        return False
    if last.endswith((".py", ".pyi")):
        return False  # secrets.py is a module like another
    return any(fnmatch.fnmatchcase(last, pattern) for pattern in _SECRET_NAMES)


def _stays_inside(link: Path, directory: Path) -> bool:
    """Whether a link is relative and what it names lies below the directory, by its text and in truth."""
    target = link.readlink()
    if target.is_absolute():
        return False
    where = os.path.normpath(link.relative_to(directory).parent / target)
    return not where.startswith("..") and link.resolve().is_relative_to(directory.resolve())
