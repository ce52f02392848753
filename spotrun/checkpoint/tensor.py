"""Tensors as raw little-endian bytes: which dtypes there are, what each is called, and the way back.

`float8_e4m3fnuz` and the like, which the safetensors format does not know, are called `U8` in a blob's header and by
their own name in the document, so that any reader can open the blob and ours restores the dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from spotrun.errors import CheckpointCorrupt, NotCapturable

__all__ = ["DTYPES", "check_plain", "dtype_name", "safetensors_name", "size_bytes", "view_bytes"]

_NAMES = (
    "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip

# The dtypes of this torch that can be saved; the only ones a document may name.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES if hasattr(torch, name)}

_SAFETENSORS = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32",
    "float64": "F64", "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


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
    if type(tensor) not in _PLAIN:
        raise NotCapturable(path, f"a {type(tensor).__qualname__}", "Only plain tensors are saved in this version.")
    if tensor.layout is not torch.strided or tensor.is_nested:
        raise NotCapturable(path, f"a tensor of layout {tensor.layout}", "Make it dense (`.to_dense()`).")
    if tensor.is_quantized:
        raise NotCapturable(path, "a quantized tensor", "Save its int_repr() and its scales instead.")
    if tensor.device.type == "meta":
        raise NotCapturable(path, "a tensor without memory (meta device)", "Materialize it before attach.")
    if dtype_name(tensor.dtype) not in DTYPES:
        raise NotCapturable(path, f"a tensor of dtype {tensor.dtype}", "Convert it to a dtype that can be saved.")


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
