"""Which process writes what: what all hold alike is written once, spread over them by size.

That a tensor is the same everywhere is not believed because it ought to be: each process sums it up, and the sums are
compared. All of a small tensor goes in, and all of a large one, but for parameters that `DistributedDataParallel` keeps
equal and their optimizer's state: of those elements spread over the tensor, which finds any two that drifted apart as
wholes. What differs is kept for each process.

Boxes of sharded tensors lie apart from each other already; where several processes hold the same box, one writes it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from spotrun.checkpoint.distributed.board import Place
from spotrun.checkpoint.distributed.document import map_tensors
from spotrun.checkpoint.tree import Flat

__all__ = ["divide", "fingerprints", "renamed", "replica_writer", "structure_of"]

_WHOLE_BYTES_MAX = 64 << 10  # smaller tensors are compared whole: randomness, counters, statistics
_SAMPLES = 64  # elements of a tensor that is known to be kept equal
_COLUMNS = (4096, 4099)  # words; a large tensor on a GPU is summed up in so many columns, and again in so many
_CUDA = re.compile(r"^cuda:\d+$")


def structure_of(flat: Flat, names: Sequence[str]) -> list[int]:
    """Numbers that are the same in all processes only if they hold tensors of these names, types and shapes."""
    text = "\n".join(f"{name} {flat.tensors[name].dtype} {list(flat.tensors[name].shape)}" for name in names)
    return _words(blake3(text.encode()).digest(16))


def fingerprints(flat: Flat, names: Sequence[str], kept_equal: Callable[[str], bool]) -> list[int]:
    """One number for each tensor.

    Args:
        kept_equal: whether samples will do for a tensor of this name.
    """
    glimpses = [_glimpse(flat.tensors[name], sampled=kept_equal(name)) for name in names]
    devices = {glimpse.device for glimpse in glimpses}
    found: dict[int, int] = {}
    for device in devices:  # one transfer for each device, whatever the number of tensors
        numbers = [index for index, glimpse in enumerate(glimpses) if glimpse.device == device]
        data = torch.cat([glimpses[index] for index in numbers]).cpu().numpy().tobytes()
        start = 0
        for index in numbers:
            end = start + glimpses[index].numel()
            found[index] = _words(blake3(data[start:end]).digest(8))[0]
            start = end
    return [found[index] for index in range(len(names))]


def divide(flat: Flat, names: Sequence[str], world: int) -> dict[str, int]:
    """The rank that writes each of these tensors: the largest first, each to whoever has least so far."""
    filled = [0] * world
    owners: dict[str, int] = {}
    for name in sorted(names, key=lambda name: (-flat.tensors[name].nbytes, name)):
        owner = owners[name] = filled.index(min(filled))
        filled[owner] += max(flat.tensors[name].nbytes, 1)
    return owners


def renamed(flat: Flat, own: Collection[str], written: Collection[str], place: Place) -> Flat:
    """What this process writes: its document, in which what is its own alone bears its rank, and its tensors.

    Args:
        own: names of tensors that differ from those of the other processes.
        written: names of the tensors that this process writes.
    """

    def change(node: dict[str, Any]) -> dict[str, Any]:
        changed = dict(node)
        if node["name"] in own:
            changed["name"] = _own_name(node["name"], place)
        if _CUDA.match(str(node.get("device", ""))):
            changed["device"] = "cuda"  # each process has a GPU of its own; which one is not part of the state
        return changed

    tensors = {_own_name(name, place) if name in own else name: flat.tensors[name] for name in written}
    return Flat(map_tensors(flat.document, change), tensors, flat.shards)


def replica_writer(name: str, replicas: Sequence[int]) -> int:
    """The rank that writes a box which several hold."""
    return replicas[zlib.crc32(name.encode()) % len(replicas)]


def _own_name(name: str, place: Place) -> str:
    return f"{name}@rank{place.rank}"


def _glimpse(tensor: torch.Tensor, *, sampled: bool) -> torch.Tensor:
    """Bytes that tell a tensor from another."""
    with torch.no_grad():
        plain = tensor.detach()
        if plain.is_conj() or plain.is_neg():
            plain = plain.resolve_conj().resolve_neg()
        flat = plain.reshape(-1)
        if flat.numel() == 0:
            return flat.new_empty(0, dtype=torch.uint8)
        if tensor.nbytes <= _WHOLE_BYTES_MAX:
            return flat.view(torch.uint8)
        if sampled:
            count = min(_SAMPLES, flat.numel())
            return flat[:: max(flat.numel() // count, 1)][:count].contiguous().view(torch.uint8)
        raw = flat.contiguous().view(torch.uint8)
        if raw.device.type == "cpu":
            return torch.frombuffer(bytearray(blake3(raw.numpy().data).digest()), dtype=torch.uint8)
        return torch.cat([_sums(raw, columns) for columns in _COLUMNS])


def _sums(raw: torch.Tensor, columns: int) -> torch.Tensor:
    """Sums of every `columns`-th word, and what is left at the end, as bytes."""
    whole = raw.numel() // (8 * columns) * (8 * columns)
    words = raw[:whole].view(torch.int64).view(-1, columns)
    return torch.cat([words.sum(0).view(torch.uint8), raw[whole:]])


def _words(digest: bytes) -> list[int]:
    return [int(word) for word in np.frombuffer(digest, dtype=np.int64) >> 1]  # negated too: the lowest has no opposite
