"""Tensors as raw little-endian bytes: which dtypes there are, what each is called, and the way back.

`float8_e4m3fnuz` and the like, which the safetensors format does not know, are called `U8` in a blob's header and by
their own name in the document, so that any reader can open the blob and ours restores the dtype.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spotrun.errors import CheckpointCorrupt, NotCapturable
from spotrun.store import Box

__all__ = [
    "DTYPES", "PLAIN", "Shard", "check_plain", "dtype_name", "local_of", "safetensors_name", "shard_of", "size_bytes",
    "view_bytes",
]  # fmt: skip

_NAMES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip

# The dtypes of this torch that can be saved; the only ones a document may name.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES if hasattr(torch, name)}
_SAVED = frozenset(DTYPES.values())

_SAFETENSORS = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32",
    "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip

# The kinds of tensors that are saved and restored as raw bytes.
PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


@dataclass(frozen=True, slots=True)
class Shard:
    """What this process holds of a tensor that is spread over several (a `DTensor`).

    Attributes:
        whole: the tensor's shape.
        box: what of it is here; empty if nothing is.
        replicas: the ranks that hold the same, this one included.
    """

    whole: tuple[int, ...]
    box: Box
    replicas: tuple[int, ...]


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor in this process: of a `DTensor` its local part, of any other itself."""
    if _is_dtensor(tensor):
        with torch.no_grad():
            local: torch.Tensor = tensor.to_local()  # type: ignore[attr-defined]
        return local
    return tensor


def shard_of(tensor: torch.Tensor, path: str) -> Shard | None:
    """Which part of a tensor is here; None for a plain tensor, which is here as a whole.

    Raises:
        NotCapturable: its parts are summands that were not added up, or the like.
    """
    if not _is_dtensor(tensor):
        return None
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # noqa: PLC0415  only with DTensors

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    for placement in placements:
        if not (placement.is_shard() or placement.is_replicate()):
            advice = "Redistribute it to Shard or Replicate placements."
            if "Strided" in type(placement).__name__:
                advice = "fully_shard over tensor parallelism is not saved in this version: use one of the two."
            raise NotCapturable(path, f"a DTensor of placement {placement}", advice)
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    here = mesh.get_coordinate()
    if here is None:
        raise NotCapturable(path, "a DTensor of a mesh that this process is not in", "Leave it out of the state here.")
    ranks = mesh.mesh[tuple(slice(None) if p.is_replicate() else at for p, at in zip(placements, here, strict=True))]
    local = local_of(tensor)
    if tuple(local.shape) != tuple(shape):
        raise NotCapturable(path, f"a DTensor whose part here is {list(local.shape)}, not {list(shape)}", "Reshard it.")
    return Shard(tuple(tensor.shape), Box(tuple(offset), tuple(shape)), tuple(ranks.flatten().tolist()))


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype's name in documents, e.g. `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def safetensors_name(name: str) -> str | None:
    """The dtype's name in a safetensors header; None if the format has none."""
    return _SAFETENSORS.get(name)


def size_bytes(name: str, shape: Sequence[int]) -> int:
    """The size of a dense tensor of dtype `name`."""
    return DTYPES[name].itemsize * math.prod(shape)


def check_plain(tensor: torch.Tensor, path: str) -> None:
    """Refuses what raw bytes cannot hold.

    Raises:
        NotCapturable: a tensor subclass, or a sparse, quantized, nested or meta tensor.
    """
    strided = tensor.layout is torch.strided and not tensor.is_nested
    if strided and tensor.dtype in _SAVED and type(tensor) in PLAIN and not tensor.is_meta:
        return
    if type(tensor) not in PLAIN:
        raise NotCapturable(path, f"a {type(tensor).__qualname__}", "Only plain tensors are saved in this version.")
    if not strided:
        raise NotCapturable(path, f"a tensor of layout {tensor.layout}", "Make it dense (`.to_dense()`).")
    if tensor.is_quantized:
        raise NotCapturable(path, "a quantized tensor", "Save its int_repr() and its scales instead.")
    if tensor.is_meta:
        raise NotCapturable(path, "a tensor without memory (meta device)", "Materialize it before attach.")
    if tensor.dtype not in _SAVED:
        raise NotCapturable(path, f"a tensor of dtype {tensor.dtype}", "Convert it to a dtype that can be saved.")


def _is_dtensor(tensor: torch.Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # nobody has one who has not imported it, which takes long
    return module is not None and isinstance(tensor, module.DTensor)


def view_bytes(memory: torch.Tensor, *, start: int, dtype: str, shape: Sequence[int], key: str) -> torch.Tensor:
    """A tensor over the bytes of `memory` (uint8, one dimension) from `start` on; nothing is copied.

    Raises:
        CheckpointCorrupt: the declared dtype, shape or place do not fit the blob `key`.
    """
    if dtype not in DTYPES:
        raise CheckpointCorrupt(key, f"unknown dtype {dtype!r}")
    if any(length < 0 for length in shape):
        raise CheckpointCorrupt(key, f"impossible shape {list(shape)}")
    size = size_bytes(dtype, shape)
    if start < 0 or start % DTYPES[dtype].itemsize or start + size > memory.numel():
        raise CheckpointCorrupt(key, f"{dtype} tensor of shape {list(shape)} does not fit at byte {start}")
    return memory[start : start + size].view(DTYPES[dtype]).view(tuple(shape))
