"""Safetensors files: a length, a JSON header, raw bytes. Read and written through memory maps, so in little memory.

Source: the format's own page, https://github.com/huggingface/safetensors#format (seen 2026-11).
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spotrun.checkpoint.tensor import DTYPES, safetensors_name, view_bytes
from spotrun.errors import SpecError

__all__ = ["INDEX_NAME", "Outline", "Plan", "divide", "map_file", "plan_file", "read_files"]

INDEX_NAME = "model.safetensors.index.json"
_HEADER_BYTES_MAX = 100_000_000  # what the format itself allows
_INDEX_BYTES_MAX = 256 << 20
_NAME_LENGTH_MAX = 900  # of a tensor: a manifest allows 1024 with what is put before it
_TENSORS_MAX = 1_000_000
_ALIGNMENT = 64
_DTYPES = {
    known: name for name in DTYPES if (known := safetensors_name(name)) is not None
}  # the format's names of the types that this torch has


@dataclass(frozen=True, slots=True)
class Outline:
    """What a tensor is: its dtype by torch's name, its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Plan:
    """A file that is to be written: its header, and where each tensor goes."""

    header: bytes
    places: Mapping[str, tuple[int, Outline]]
    size: int


def plan_file(tensors: Mapping[str, Outline]) -> Plan:
    """Lays these tensors out in one file.

    Raises:
        SpecError: a tensor is of a type that the format does not have.
    """
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places: dict[str, tuple[int, Outline]] = {}
    offset = 0
    for name, outline in sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype].itemsize, item[0])):
        known = safetensors_name(outline.dtype)
        if known is None:
            raise SpecError(
                f"{name} is of type {outline.dtype}, which safetensors has no form for; export as torch or dcp"
            )
        end = offset + outline.size
        described[name] = {"dtype": known, "shape": list(outline.shape), "data_offsets": [offset, end]}
        places[name] = (offset, outline)
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    shifted = {name: (len(header) + start, outline) for name, (start, outline) in places.items()}
    return Plan(header, shifted, len(header) + offset)


def map_file(path: Path, plan: Plan) -> dict[str, torch.Tensor]:
    """Makes the file and gives its tensors as memory that is the file's; what is written to it is in the file."""
    with path.open("xb") as file:
        file.truncate(plan.size)
        file.write(plan.header)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, plan.size)  # a full disk is told now, not by a signal later
    memory = torch.from_file(str(path), shared=True, size=plan.size, dtype=torch.uint8)
    return {
        name: view_bytes(memory, start=start, dtype=outline.dtype, shape=outline.shape, key=path.name)
        for name, (start, outline) in plan.places.items()
    }


def divide(tensors: Mapping[str, Outline], *, limit: int) -> list[dict[str, Outline]]:
    """The tensors in files of at most `limit` bytes, in their order; a larger tensor has a file of its own."""
    files: list[dict[str, Outline]] = []
    filled = limit
    for name, outline in tensors.items():
        if filled + outline.size > limit:
            files.append({})
            filled = 0
        files[-1][name] = outline
        filled += outline.size
    return files


def read_files(source: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of a directory with one file or with several and an index; mapped, not read.

    Raises:
        SpecError: it is not what it should be, or an index names files outside of the directory.
    """
    if not source.is_dir():
        return _read_file(source)
    index = source / INDEX_NAME
    if index.is_file():
        return _read_indexed(source, index)
    files = sorted(source.glob("*.safetensors"))
    if len(files) != 1:
        raise SpecError(f"{source} holds {len(files)} .safetensors files and no {INDEX_NAME}; name one of the files")
    return _read_file(files[0])


def _read_indexed(directory: Path, index: Path) -> dict[str, torch.Tensor]:
    if index.stat().st_size > _INDEX_BYTES_MAX:
        raise SpecError(f"{index} has {index.stat().st_size} bytes, more than any index")
    try:
        weights = json.loads(index.read_bytes())["weight_map"]
        files = {str(name) for name in weights.values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SpecError(f"{index} is not an index of safetensors files") from None
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(files):
        if Path(name).name != name or name in {"", ".", ".."} or "\\" in name:
            raise SpecError(
                f"{index} names the file {name[:200]!r}, which is not a plain name in its directory: refused"
            )
        if (directory / name).is_symlink() and not _inside(directory, directory / name):
            raise SpecError(f"{directory / name} is a link out of its directory: refused")
        tensors |= _read_file(directory / name)
    missing = sorted(set(weights) - set(tensors))
    if missing:
        raise SpecError(
            f"{index} names {missing[0][:200]!r}, which is in none of its files; the download may be incomplete"
        )
    return {name: tensors[name] for name in weights}


def _inside(directory: Path, path: Path) -> bool:
    # A Hugging Face cache keeps its files as links into ../../blobs of the same model: that is one step it may take.
    home = directory.resolve()
    allowed = (home, home.parent.parent / "blobs") if home.parent.name == "snapshots" else (home,)
    return any(path.resolve().is_relative_to(place) for place in allowed)


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(_HEADER_BYTES_MAX, size - 8):
                raise SpecError(f"{path} is not a safetensors file: of its {size} bytes the header would take {length}")
            header = json.loads(file.read(length))
    except OSError as err:
        raise SpecError(f"{path} cannot be read ({err.strerror})") from None
    except (ValueError, RecursionError):
        raise SpecError(f"{path} is not a safetensors file: its header is no JSON") from None
    if not isinstance(header, dict) or len(header) > _TENSORS_MAX:
        raise SpecError(f"{path} is not a safetensors file: its header is no table of tensors")
    header.pop("__metadata__", None)
    start = 8 + length
    outlines = _outlines(path, header, size - start)
    memory = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return {name: _view(memory, start + begin, outline) for name, (begin, outline) in outlines.items()}


def _view(memory: torch.Tensor, start: int, outline: Outline) -> torch.Tensor:
    piece = memory[start : start + outline.size]
    if start % DTYPES[outline.dtype].itemsize:
        piece = piece.clone()  # a writer that did not align its header
    return piece.view(DTYPES[outline.dtype]).view(outline.shape)


def _outlines(path: Path, header: Mapping[str, Any], size: int) -> dict[str, tuple[int, Outline]]:
    outlines: dict[str, tuple[int, Outline]] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        outline, begin, end = _outline(path, name, entry)
        if not 0 <= begin <= end <= size or end - begin != outline.size:
            raise SpecError(
                f"{path}: {name[:200]!r} is said to be bytes {begin} to {end} of {size}, which is not where "
                f"{outline.dtype}{list(outline.shape)} could lie; the file is damaged or forged"
            )
        outlines[name] = (begin, outline)
        ranges.append((begin, end, name))
    for (_, end, name), (begin, _, other) in _pairs(sorted(ranges)):
        if begin < end:
            raise SpecError(f"{path}: {name[:200]!r} and {other[:200]!r} overlap; the file is damaged or forged")
    return outlines


def _outline(path: Path, name: str, entry: Any) -> tuple[Outline, int, int]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        plain = all(type(number) is int and number >= 0 for number in (*shape, begin, end)) and len(shape) <= 64
    except (KeyError, TypeError, ValueError):
        plain = False
    if not plain or not 0 < len(name) <= _NAME_LENGTH_MAX or not name.isprintable():
        raise SpecError(f"{path}: {name[:200]!r} is not described as the format asks; the file is damaged or forged")
    if dtype not in _DTYPES:
        raise SpecError(f"{path}: {name[:200]!r} is of type {str(dtype)[:40]!r}, which cannot be imported")
    return Outline(_DTYPES[dtype], tuple(shape)), begin, end


def _pairs(ranges: Sequence[tuple[int, int, str]]) -> list[tuple[tuple[int, int, str], tuple[int, int, str]]]:
    return list(itertools.pairwise(ranges))
