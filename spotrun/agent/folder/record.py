"""What a manifest says of a folder: `state.folder`, checked before anything of it touches a disk.

    {"folder": {"format": 1, "files": [{"path", "mode", "size", "mtime_ns", "pieces": [[blob, start, end], ...]}, ...],
                "directories": [{"path", "mode", "mtime_ns"}, ...], "links": [{"path", "target"}, ...]}}

A file is its pieces, one after the other; a piece is bytes [start, end) of the manifest's blob of that number. Small
files share a blob, large ones have one for each piece. The digests of the blobs cover every byte.
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from spotrun.agent.folder.listing import FILES_MAX, link_target
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store import BlobRef, CommitEntry, Manifest
from spotrun.store.key import TEMPORARY

__all__ = ["PIECE_BYTES_MAX", "FolderFile", "FolderLink", "FolderPart", "Record", "decode_record"]

PIECE_BYTES_MAX = 64 << 20  # of a blob that holds files: what a reader must have memory for
_SIZE_MAX = 10**14  # bytes of one file: a hundred terabytes are no checkpoint

_Path = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_Mode = Annotated[int, Field(ge=0, le=0o777)]  # no set-user-id and its kind: nobody asked for those to travel
_Instant = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Size = Annotated[int, Field(ge=0, le=_SIZE_MAX)]
_STRICT = ConfigDict(strict=True, frozen=True, extra="forbid")


class FolderFile(BaseModel):
    """A regular file and where its bytes are."""

    model_config = _STRICT

    path: _Path
    mode: _Mode
    size: _Size
    mtime_ns: _Instant
    pieces: tuple[tuple[int, _Size, _Size], ...]  # blob's number, start, end


class FolderPart(BaseModel):
    """A directory."""

    model_config = _STRICT

    path: _Path
    mode: _Mode
    mtime_ns: _Instant


class FolderLink(BaseModel):
    """A symbolic link; its target is relative to its own directory and inside of the folder."""

    model_config = _STRICT

    path: _Path
    target: _Path


class Record(BaseModel):
    """The whole folder at one instant."""

    model_config = _STRICT

    format: Literal[1] = 1
    files: Annotated[tuple[FolderFile, ...], Field(max_length=FILES_MAX)] = ()
    directories: Annotated[tuple[FolderPart, ...], Field(max_length=FILES_MAX)] = ()
    links: Annotated[tuple[FolderLink, ...], Field(max_length=FILES_MAX)] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def to_state(self) -> dict[str, Any]:
        """The manifest's `state`."""
        return {"folder": self.model_dump(mode="json")}

    def fault(self, blobs: tuple[BlobRef, ...]) -> str | None:
        """Why this cannot be a folder, or None."""
        kinds = [*((file.path, "file") for file in self.files), *((it.path, "link") for it in self.links)]
        kinds += [(it.path, "directory") for it in self.directories]
        known: dict[str, str] = {}
        for path, kind in kinds:
            if not _stays_below(path):
                return f"{path[:80]!r} is no path below the folder"
            if path in known:
                return f"{path!r} is there twice"
            known[path] = kind
        for path, _ in kinds:
            for parent in PurePosixPath(path).parents:
                if known.get(str(parent), "directory") != "directory":
                    return f"{path!r} lies below {str(parent)!r}, which is no directory"
        for link in self.links:
            if link_target(link.path, link.target, _ROOT) is None or link.target.startswith("/"):
                return f"{link.path!r} is a link to {link.target[:80]!r}, outside of the folder"
        return next((fault for file in self.files if (fault := _pieces_fault(file, blobs))), None)


_ROOT = PurePosixPath("/folder")


def decode_record(manifest: Manifest, entry: CommitEntry) -> Record:
    """What a manifest says of the folder.

    Raises:
        CheckpointError: the commit was made by a script that attached, not of a folder.
        CheckpointCorrupt: it does not add up.
    """
    state = manifest.state
    if not isinstance(state, dict) or "folder" not in state:
        raise CheckpointError(
            f"the commit of step {entry.step} was saved through spotrun.attach, not from a folder, so there is no folder "
            "to restore from it: remove checkpoint.folder from the job file, or give the job another place"
        )
    try:
        record = Record.model_validate_json(json.dumps(state["folder"]))
    except ValidationError as err:
        first = err.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointCorrupt(entry.manifest, f"state.folder.{where}: {first['msg']}") from None
    if fault := record.fault(manifest.blobs):
        raise CheckpointCorrupt(entry.manifest, f"state.folder: {fault}")
    return record


def _stays_below(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and not any(part in {"", ".", "..", TEMPORARY} or len(part) > 255 for part in parts)


def _pieces_fault(file: FolderFile, blobs: tuple[BlobRef, ...]) -> str | None:
    size = 0
    for blob, start, end in file.pieces:
        if not 0 <= blob < len(blobs):
            return f"{file.path!r} has a piece in blob {blob}, but there are {len(blobs)}"
        if not start < end <= blobs[blob].size:
            return f"{file.path!r} has bytes {start}-{end} of a blob of {blobs[blob].size}"
        if blobs[blob].size > PIECE_BYTES_MAX:
            return f"{file.path!r} has a piece in a blob of {blobs[blob].size} bytes; {PIECE_BYTES_MAX} are the most"
        size += end - start
    return None if size == file.size else f"{file.path!r} should have {file.size} bytes, its pieces have {size}"
