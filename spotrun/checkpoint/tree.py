"""A state of nested containers, taken apart into a JSON document and named tensors, and put together again.

What JSON has no form for is an object with the single-letter key `$` that names its kind:

    {"$": "tensor", "name": ..., "device": ...}     a tensor; the same tensor twice is the same name twice
    {"$": "array", ...}                             a NumPy array: its bytes are a tensor
    {"$": "tuple", "v": [...]}  "size", "deque", "dict" (any keys), "ordered", "counter"
    {"$": "int"}  "float" (nan, inf: by their bits), "bytes", "str", "complex", "scalar" (NumPy), "dtype", "device"

Types are matched exactly: a subclass would come back as its base and nobody would notice. What fits nothing here is
refused by its path. Sets are refused because their order differs between processes.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from spotrun.checkpoint.recollection import Found, Recollection, found_in, joined
from spotrun.checkpoint.stored import StoredArray, StoredTensor, nearest_device
from spotrun.checkpoint.tensor import DTYPES, PLAIN, Shard, check_plain, dtype_name, local_of, shard_of
from spotrun.errors import CheckpointCorrupt, NotCapturable

__all__ = ["Flat", "Verbatim", "flatten", "unflatten"]

_INT_EXACT = 2**53  # beyond this, readers of JSON in other languages lose digits
_DEPTH_MAX = 32  # containers inside containers; a manifest's JSON may be about three times as deep
_NAME_LENGTH_MAX = 1000  # of a tensor's name in a manifest
_MAPPINGS: dict[type, str] = {OrderedDict: "ordered", Counter: "counter"}
_SEQUENCES: dict[type, str] = {tuple: "tuple", torch.Size: "size"}


@dataclass(frozen=True, slots=True)
class Flat:
    """A state taken apart. `tensors` are the live ones, in the order in which they were found, each once.

    Of a tensor that is spread over several processes, `tensors` has the part that is here, and `shards` says which.
    """

    document: Any
    tensors: dict[str, torch.Tensor]
    shards: dict[str, Shard] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verbatim:
    """A part of a state that is known to be JSON, without a key `$`: it is not looked into."""

    value: Any


def flatten(tree: object, path: str = "", *, recollection: Recollection | None = None) -> Flat:
    """Takes `tree` apart.

    Args:
        recollection: what the last walk over the same state has left; this one leaves what the next can use. Parts of
            both documents are then the same objects, which nobody may change.

    Raises:
        NotCapturable: something in it is neither tensor nor JSON; named by its path.
    """
    walk = _Flattening(recollection)
    flat = Flat(walk.node(tree, path), walk.tensors, walk.shards)
    if recollection is not None:
        recollection.found = walk.found
    return flat


def unflatten(document: Any, tensor: Callable[[str], torch.Tensor | StoredTensor]) -> Any:
    """Puts a state together again; `tensor` gives the tensor of a name, the same object for the same name.

    Stored ones stay in the state as they are, to be read later; arrays are then stored ones, too.

    Raises:
        CheckpointCorrupt: the document is not one that `flatten` writes.
    """
    try:
        return _build(document, tensor)
    except (KeyError, TypeError, ValueError, struct.error) as err:
        raise CheckpointCorrupt("document", f"{type(err).__name__}: {err}") from err


@dataclass(slots=True)
class _Flattening:
    recollection: Recollection | None = None
    found: dict[str, Found] = field(default_factory=dict)  # for the next walk
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    shards: dict[str, Shard] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # the first tensor at an address
    alike: dict[int, list[str]] = field(default_factory=dict)  # others that begin there and have another form
    kept: list[object] = field(default_factory=list)  # keeps what is known by address alive
    open: set[int] = field(default_factory=set)

    def node(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind in PLAIN:  # first what there is most of, since the training stands still meanwhile
            return self.tensor(value, path)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if abs(value) < _INT_EXACT else {"$": "int", "v": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"$": "float", "v": struct.pack(">d", value).hex()}
        if kind is str:
            return _text(value)
        if isinstance(value, torch.Tensor):
            return self.tensor(value, path)
        if kind is np.ndarray:
            return self.array(value, path)
        if kind in (list, tuple, torch.Size, dict, OrderedDict, Counter, deque):
            return self.container(value, path)
        return value.value if kind is Verbatim else _leaf(value, path)

    def container(self, value: Any, path: str) -> Any:
        if id(value) in self.open:
            raise NotCapturable(path, "a container inside itself", "Break the cycle.")
        if len(self.open) >= _DEPTH_MAX:
            raise NotCapturable(path, f"nested deeper than {_DEPTH_MAX} containers", "Make it flatter.")
        self.open.add(id(value))
        kind = type(value)
        if kind in (dict, OrderedDict, Counter):
            node = self.mapping(value, path)
        else:
            items = [self.node(item, f"{path}[{index}]") for index, item in enumerate(value)]
            if kind is list:
                node = items
            elif kind is deque:
                node = {"$": "deque", "v": items, "max": value.maxlen}
            else:
                node = {"$": _SEQUENCES[kind], "v": items}
        self.open.discard(id(value))
        return node

    def mapping(self, value: Mapping[Any, Any], path: str) -> Any:
        if type(value) is dict and self.recollection is not None:
            return self.known(value, path)
        if type(value) is dict and all(map(_is_plain, value)):
            return self.plain(value, path)
        return self.pairs(value, path)

    def known(self, value: dict[Any, Any], path: str) -> Any:
        """A mapping that the last walk may have seen."""
        assert self.recollection is not None
        found = self.recollection.recall(path, value)
        if found and self.names.keys().isdisjoint(found.names) and self.tensors.keys().isdisjoint(found.tensors):
            self.tensors.update(found.tensors)
            self.names.update(found.names)
            self.found[path] = found
            return found.node
        if not all(map(_is_plain, value)):
            return self.pairs(value, path)
        before = len(self.tensors)
        node = self.plain(value, path)
        if value and all(type(item) in PLAIN for item in value.values()):
            found = found_in(value, node, self.tensors)
            new = len(self.tensors) - before  # else some were met elsewhere before
            if found and new == len(found.tensors) and found.names.items() <= self.names.items():
                self.found[path] = found
        elif len(value) > 1 and set(map(type, value.values())) == {dict}:
            prefix = f"{path}." if path else ""
            parts = [self.found.get(prefix + key) for key in value]
            whole = [part for part in parts if part is not None and part.inner is None]
            if len(whole) == len(value):
                self.found[path] = joined(value, node, whole)
        return node

    def plain(self, value: Mapping[str, Any], path: str) -> dict[str, Any]:
        prefix = f"{path}." if path else ""
        return {key: self.node(item, prefix + key) for key, item in value.items()}

    def pairs(self, value: Mapping[Any, Any], path: str) -> Any:
        pairs = []
        for key, item in value.items():
            if isinstance(key, torch.Tensor):
                raise NotCapturable(f"{path}[{key!r}]", "a tensor used as key", "Key it by a name.")
            pairs.append([self.node(key, f"key of {path}"), self.node(item, f"{path}[{key!r}]")])
        return {"$": _MAPPINGS.get(type(value), "dict"), "v": pairs}

    def tensor(self, value: torch.Tensor, path: str) -> Any:
        whole, shard = value, None
        if type(value) not in PLAIN:
            shard = shard_of(value, path)
            value = value if shard is None else local_of(value)
        check_plain(value, path)
        # Tied parameters, and views of the same memory of the same form, are stored once.
        address = value.data_ptr() if value.numel() else id(whole)
        name = self.names.get(address)
        if name is None:
            name = self.names[address] = self.new(whole, value, shard, path)
        elif not _is_alike(self.tensors[name], value):
            others = self.alike.setdefault(address, [])
            found = next((other for other in others if _is_alike(self.tensors[other], value)), None)
            if found is None:
                found = self.new(whole, value, shard, path)
                others.append(found)
            name = found
        node = {"$": "tensor", "name": name}
        if not value.is_cpu:
            node["device"] = str(value.device)
        return node

    def new(self, whole: torch.Tensor, value: torch.Tensor, shard: Shard | None, path: str) -> str:
        """The name of a tensor that is met for the first time."""
        name = self.add(path, value.detach())
        self.kept.append(whole)
        if shard is not None:
            self.shards[name] = shard
        return name

    def add(self, path: str, tensor: torch.Tensor) -> str:
        name = path if len(path) <= _NAME_LENGTH_MAX else f"{path[:900]}...{len(self.tensors)}"
        if name in self.tensors:  # keys that hold dots can make two paths alike
            name = f"{name}#{len(self.tensors)}"
        self.tensors[name] = tensor
        return name

    def array(self, value: np.ndarray[Any, Any], path: str) -> Any:
        if value.dtype.hasobject or value.dtype.fields is not None:
            raise NotCapturable(path, f"a NumPy array of dtype {value.dtype}", "Use an array of numbers.")
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8) if value.size else np.empty(0, np.uint8)
        name = self.add(path, torch.from_numpy(raw.copy()))
        return {"$": "array", "name": name, "dtype": value.dtype.str, "shape": list(value.shape)}


def _is_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors that begin at the same address show the same."""
    return (
        one.device == other.device
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.is_conj() == other.is_conj()
        and one.is_neg() == other.is_neg()
    )


def _is_plain(key: object) -> bool:
    """Whether a key can be one in JSON."""
    return type(key) is str and key != "$" and (key.isascii() or _text(key) == key)


def _text(value: str) -> Any:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"$": "str", "v": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    return value


def _leaf(value: Any, path: str) -> Any:
    kind = type(value)
    if kind in (bytes, bytearray):
        return {"$": kind.__name__, "v": base64.b64encode(value).decode()}
    if kind is complex:
        return {"$": "complex", "v": struct.pack(">dd", value.real, value.imag).hex()}
    if isinstance(value, np.generic) and not value.dtype.hasobject and value.dtype.fields is None:
        return {"$": "scalar", "dtype": value.dtype.str, "v": value.tobytes().hex()}
    if kind is torch.dtype and dtype_name(value) in DTYPES:
        return {"$": "dtype", "v": dtype_name(value)}
    if kind is torch.device:
        return {"$": "device", "v": str(value)}
    if kind in (set, frozenset):
        raise NotCapturable(path, f"a {kind.__name__}", "Its order differs between processes: use a sorted list.")
    name = getattr(value, "__qualname__", None)
    what = f"a function ({name})" if callable(value) and name else f"an object of {kind.__module__}.{kind.__qualname__}"
    raise NotCapturable(path, what, "Leave it out of the state (the script makes it anew), or give it a state_dict().")


def _build(node: Any, tensor: Callable[[str], torch.Tensor | StoredTensor]) -> Any:
    if isinstance(node, list):
        return [_build(item, tensor) for item in node]
    if not isinstance(node, dict):
        return node
    if "$" not in node:
        return {key: _build(item, tensor) for key, item in node.items()}
    kind, value = node["$"], node.get("v")
    if kind == "tensor":
        return _placed(tensor(node["name"]), node.get("device"))
    if kind == "array":
        return _array(tensor(node["name"]), _plain_dtype(node["dtype"]), node["shape"])
    if kind == "deque":
        return deque((_build(item, tensor) for item in value or []), node["max"])
    if kind in ("tuple", "size"):
        items = [_build(item, tensor) for item in value or []]
        return torch.Size(items) if kind == "size" else tuple(items)
    if kind in ("dict", "ordered", "counter"):
        pairs = {_build(key, tensor): _build(item, tensor) for key, item in value or []}
        return pairs if kind == "dict" else OrderedDict(pairs) if kind == "ordered" else Counter(pairs)
    return _build_leaf(kind, value, node)


def _build_leaf(kind: str, value: Any, node: Mapping[str, Any]) -> Any:
    if kind == "int":
        return int(value, 16)
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(value))[0]
    if kind == "complex":
        return complex(*struct.unpack(">dd", bytes.fromhex(value)))
    if kind == "str":
        return base64.b64decode(value).decode("utf-8", "surrogatepass")
    if kind in ("bytes", "bytearray"):
        raw = base64.b64decode(value)
        return raw if kind == "bytes" else bytearray(raw)
    if kind == "scalar":
        return np.frombuffer(bytes.fromhex(value), dtype=_plain_dtype(node["dtype"]))[0]
    if kind == "dtype":
        return DTYPES[value]
    if kind == "device":
        return torch.device(value)
    raise CheckpointCorrupt("document", f"unknown kind {json.dumps(kind)}")


def _placed(tensor: torch.Tensor | StoredTensor, device: str | None) -> torch.Tensor | StoredTensor:
    """The tensor on the device it was on, or the nearest that this machine has."""
    if isinstance(tensor, StoredTensor):
        tensor.device = nearest_device(device)
        return tensor
    return tensor if device is None else tensor.to(nearest_device(device))


def _array(raw: torch.Tensor | StoredTensor, dtype: np.dtype[Any], shape: list[int]) -> Any:
    if not isinstance(raw, StoredTensor):
        return np.frombuffer(raw.numpy().tobytes(), dtype=dtype).reshape(shape).copy()
    if len(raw.shape) != 1 or raw.dtype is not torch.uint8 or raw.nbytes != math.prod(shape) * dtype.itemsize:
        raise CheckpointCorrupt("document", f"{raw.name} is no array of {dtype} and shape {shape}")
    return StoredArray(raw, dtype, tuple(shape))


def _plain_dtype(text: str) -> np.dtype[Any]:
    dtype = np.dtype(text)
    if dtype.hasobject or dtype.fields is not None:
        raise CheckpointCorrupt("document", f"dtype {text!r} is not one of numbers")
    return dtype
