"""Where the folder is: inside the working directory, not in the store, and no other job's."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from spotrun.clock import Clock
from spotrun.errors import SpecError

__all__ = ["FolderPlace", "find_place", "folder_fault"]

_LOCK_WALL_S = 10.0  # the agent before, on this machine, may be about to end
_LOOK_WALL_S = 0.1


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """The folder, free of links, and the descriptor that keeps other agents out of it."""

    path: Path
    lock: int | None

    def release(self) -> None:
        """Lets other agents have it."""
        if self.lock is not None:
            os.close(self.lock)


def folder_fault(work_directory: Path, path: str, checkpoint_uri: str) -> str | None:
    """Why this cannot be a job's folder, as a sentence; None if it can. Touches nothing."""
    inside = work_directory.resolve()
    folder = (inside / path).resolve()
    if folder == inside or not folder.is_relative_to(inside):
        return (
            f"checkpoint.folder: {path} is {folder}, which is not inside of the working directory {inside}; the folder must "
            "be a directory of its own in there, and no link that leads out of it"
        )
    if folder.exists() and not folder.is_dir():
        return f"checkpoint.folder: {folder} is no directory"
    store = _local(checkpoint_uri)
    if store is not None and (store.is_relative_to(folder) or folder.is_relative_to(store)):
        return (
            f"checkpoint.folder: {folder} and checkpoint.uri, {store}, are one in the other; each commit would hold the "
            "commits before it. Give checkpoint.uri a place outside of the folder"
        )
    return None


def find_place(work_directory: Path, path: str, checkpoint_uri: str, *, clock: Clock) -> FolderPlace:
    """The folder, made if it is not there, and held against other agents on this machine.

    Raises:
        SpecError: it is not where it may be, cannot be written, or another job's agent holds it.
    """
    if fault := folder_fault(work_directory, path, checkpoint_uri):
        raise SpecError(fault)
    folder = (work_directory.resolve() / path).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it may not be read and written by this user")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise SpecError(f"checkpoint.folder: {folder} cannot be used: {err.strerror}") from err
    try:
        return FolderPlace(folder, _locked(descriptor, folder, clock))
    except SpecError:
        os.close(descriptor)
        raise


def _locked(descriptor: int, folder: Path, clock: Clock) -> int:
    turns = int(_LOCK_WALL_S / _LOOK_WALL_S)
    for turn in range(turns):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if turn < turns - 1:
                clock.sleep(_LOOK_WALL_S / clock.wall(1.0))
            continue
        except OSError:
            return descriptor  # a file system without locks: nothing keeps two jobs apart but their users
        return descriptor
    raise SpecError(
        f"checkpoint.folder: {folder} is held by another job that runs on this machine; two jobs cannot keep one folder: "
        "wait for its end, or run this one from another directory"
    )


def _local(uri: str) -> Path | None:
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path)).resolve()
    return None if "://" in uri else Path(uri).expanduser().resolve()
