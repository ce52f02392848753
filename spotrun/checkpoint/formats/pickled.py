"""The forms that others pickle. Writing them is harmless; reading them runs nothing, or is refused.

`torch.load(weights_only=True)` reads tensors and plain containers and refuses everything else. A DCP directory has its
table of contents in `.metadata`, a plain pickle: it is read by an unpickler that knows the names of DCP's own record
types and no other, and that builds inert records instead of them. Its data files are read as tensors only.
"""

from __future__ import annotations

import io
import math
import pickle  # for the restricted reader of DCP's table of contents alone
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_dcp

from spotrun.errors import SpecError

__all__ = ["read_dcp", "read_torch", "write_dcp", "write_torch"]

_METADATA_BYTES_MAX = 1 << 30

# What DCP's metadata is made of, by name; none of it is ever imported or built.
_DCP_MODULES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed._shard.metadata": {"ShardMetadata"},
    "torch.distributed.checkpoint.planner": {"WriteItemType"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "PurePosixPath"},
    "pathlib._local": {"PosixPath", "PurePosixPath"},
}  # fmt: skip


def write_torch(content: Mapping[str, Any], path: Path) -> None:
    """Writes what `torch.load(path, weights_only=True)` reads."""
    torch.save(dict(content), path)


def read_torch(path: Path) -> Any:
    """What is in a file of `torch.save`, its tensors mapped where that is possible.

    Raises:
        SpecError: it holds more than tensors and plain values, or cannot be read.
    """
    for mapped in (True, False):  # files of the old form cannot be mapped
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError:
            raise SpecError(
                f"{path} holds more than tensors and plain values, and reading that could run code that its writer chose, "
                "so it is refused; save model.state_dict() instead, or convert it to safetensors where you trust it"
            ) from None
        except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, OSError) as err:
            if not mapped:
                raise SpecError(f"{path} cannot be read as a file of torch.save ({type(err).__name__})") from None
    raise AssertionError


def write_dcp(content: Mapping[str, Any], directory: Path) -> None:
    """Writes a directory that `torch.distributed.checkpoint.load` reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        save_dcp(dict(content), storage_writer=FileSystemWriter(directory, sync_files=True), no_dist=True)


def read_dcp(directory: Path) -> dict[str, torch.Tensor]:
    """The tensors of a DCP directory by their flat names; whatever else is in it stays unread.

    Raises:
        SpecError: its table of contents holds other things than DCP writes, or names files elsewhere, or does not add up.
    """
    path = directory / ".metadata"
    table = _read_table(path)
    try:
        entries, places = table.state["state_dict_metadata"], table.state["storage_data"]
        found = {_index(key): _Place.of(path, place) for key, place in places.items()}
        plans = {
            name: _plan(path, name, entry) for name, entry in entries.items() if entry.kind != "BytesStorageMetadata"
        }
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RecursionError):
        raise SpecError(f"{path} is not a table of contents that DCP has written") from None
    held = sum(file.stat().st_size for file in directory.iterdir() if file.is_file())
    claimed = sum(math.prod(shape) * dtype.itemsize for dtype, shape, _ in plans.values())
    if claimed > held:
        raise SpecError(f"{path} claims {claimed:,} bytes of tensors, but its directory holds {held:,}")
    tensors: dict[str, torch.Tensor] = {}
    for name, (dtype, shape, chunks) in plans.items():
        tensors[name] = torch.empty(shape, dtype=dtype)
        for offsets, lengths in chunks:
            box = tuple(slice(start, start + length) for start, length in zip(offsets, lengths, strict=True))
            place = found.get((name, offsets))
            if place is None:
                raise SpecError(f"{path} does not say where {name[:200]!r} lies")
            _copy_chunk(directory, place, tensors[name][box], name)
    return tensors


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a chunk's bytes are: a file beside the table, and a range of it."""

    file: str
    start: int
    length: int

    @classmethod
    def of(cls, path: Path, record: _Record) -> _Place:
        name, start, length = (record.state[key] for key in ("relative_path", "offset", "length"))
        if not isinstance(name, str) or Path(name).name != name or name in {"", ".", ".."} or "\\" in name:
            raise SpecError(f"{path} names the file {str(name)[:200]!r}, which is not a plain name beside it: refused")
        if record.state.get("transform_descriptors"):
            raise SpecError(f"{path}: {name} is compressed, which cannot be imported; save it without extensions")
        if type(start) is not int or type(length) is not int or start < 0 or length < 0:
            raise ValueError(name)
        return cls(name, start, length)


def _index(key: _Record) -> tuple[str, tuple[int, ...]]:
    offset = key.state.get("offset")
    return key.state["fqn"], () if offset is None else _size(offset)


def _size(record: _Record) -> tuple[int, ...]:
    if record.kind != "Size":
        raise TypeError(record.kind)
    numbers = tuple(record.arguments[0])
    if len(numbers) > 64 or any(type(number) is not int or not 0 <= number < 2**48 for number in numbers):
        raise ValueError(numbers)
    return numbers


_Chunks = list[tuple[tuple[int, ...], tuple[int, ...]]]


def _plan(path: Path, name: object, entry: _Record) -> tuple[torch.dtype, tuple[int, ...], _Chunks]:
    """A tensor's type, its shape, and the boxes that fill it: where each begins and how long it is."""
    dtype, shape = getattr(torch, entry.state["properties"].state[0]), _size(entry.state["size"])
    chunks = [(_size(chunk.state["offsets"]), _size(chunk.state["sizes"])) for chunk in entry.state["chunks"]]
    inside = all(
        len(offsets) == len(lengths) == len(shape)
        and all(start + length <= whole for start, length, whole in zip(offsets, lengths, shape, strict=True))
        for offsets, lengths in chunks
    )
    if not isinstance(name, str) or not inside or sum(math.prod(lengths) for _, lengths in chunks) != math.prod(shape):
        raise SpecError(f"{path}: the pieces of {str(name)[:200]!r} do not make up the tensor; it is damaged or forged")
    return dtype, shape, chunks


def _copy_chunk(directory: Path, place: _Place, memory: torch.Tensor, name: str) -> None:
    try:
        with (directory / place.file).open("rb") as file:
            file.seek(place.start)
            data = file.read(place.length)
        piece = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except OSError as err:
        raise SpecError(f"{directory / place.file} cannot be read ({err.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        raise SpecError(
            f"{directory / place.file}: {name[:200]!r} is no plain tensor; it is damaged or forged"
        ) from None
    if not isinstance(piece, torch.Tensor) or piece.shape != memory.shape or piece.dtype != memory.dtype:
        raise SpecError(f"{directory / place.file}: {name[:200]!r} is another tensor than its table says")
    memory.copy_(piece)


class _Record:
    """What stands for an object of DCP's: its class by name, what it would be made of. It does nothing."""

    kind = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Record:
        record = super().__new__(cls)
        record.arguments, record.state = arguments, {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Foreign(pickle.UnpicklingError):
    """A name that is none of DCP's record types."""


class _Restricted(pickle.Unpickler):
    """Knows the names of DCP's record types, and builds for each a record that does nothing; refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return name
        if name in _DCP_MODULES.get(module, ()):
            return type(name, (_Record,), {"kind": name})  # a new one each time: changing it changes nothing else
        raise _Foreign(
            f"it names {module[:80]}.{name[:80]}, which is not part of a DCP table of contents; building it could run "
            "code that its writer chose"
        )


def _read_table(path: Path) -> _Record:
    try:
        size = path.stat().st_size
        if size > _METADATA_BYTES_MAX:
            raise SpecError(f"{path} has {size} bytes, more than any table of contents")
        table = _Restricted(io.BytesIO(path.read_bytes())).load()
    except OSError as err:
        raise SpecError(
            f"{path} cannot be read ({err.strerror}); a DCP checkpoint is a directory with that file"
        ) from None
    except _Foreign as err:
        raise SpecError(f"{path} is refused: {err}") from None
    except (
        pickle.UnpicklingError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ImportError,
        RecursionError,
        MemoryError,
    ):
        raise SpecError(f"{path} is not a table of contents that DCP has written") from None
    if not isinstance(table, _Record) or table.kind != "Metadata":
        raise SpecError(f"{path} is not a table of contents that DCP has written")
    return table
