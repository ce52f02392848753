"""Tensors of a checkpoint that are not read yet: what they are, and where their bytes shall go.

A restored state is first put together from these, without a byte of tensors. Whoever compares it with what the script
has built says for each where it wants the bytes: in a parameter's own memory (`offer`), or beside one, in memory that
nobody has yet (`place`). The reader then fills exactly that memory; nothing is held twice.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from spotrun.checkpoint.tensor import DTYPES, PLAIN, local_of, shard_of
from spotrun.store import Box, Stored, whole_box

__all__ = ["StoredArray", "StoredTensor", "Target", "materialized", "nearest_device", "put", "stored_in"]


class Target(NamedTuple):
    """Memory that takes a region of a stored tensor: `tensor` has the region's shape and the stored dtype."""

    tensor: torch.Tensor
    box: Box


class StoredTensor:
    """One tensor of a checkpoint, before and while its bytes are read.

    Attributes:
        device: where it was when saved, or the nearest that this machine has.
        targets: where its bytes go; none until somebody has said so.
    """

    __slots__ = ("_given", "_like", "_offered", "_tensor", "device", "dtype", "name", "shape", "stored", "targets")

    def __init__(self, name: str, stored: Stored) -> None:
        self.name = name
        self.stored = stored
        self.dtype = DTYPES[stored.dtype]
        self.shape = torch.Size(stored.shape)
        self.device = _CPU
        self.targets: tuple[Target, ...] = ()
        self._tensor: torch.Tensor | None = None  # what the targets are the memory of
        self._like: torch.Tensor | None = None
        self._offered = False
        self._given = False

    def offer(self, tensor: torch.Tensor) -> None:
        """Lets the bytes go straight into `tensor`, if they can lie there; the first offer is taken."""
        if self._tensor is None and (targets := _targets_in(tensor, self)):
            self._tensor, self.targets, self._offered = tensor, targets, True

    def place(self, device: torch.device, *, like: torch.Tensor | None = None) -> None:
        """Wants it in memory of its own on `device`; with strides as those of `like`, if that is of the same shape."""
        self.device = device
        self._like = like

    def aim(self, *targets: Target) -> None:
        """Wants these regions of it there, and nothing else; each must be able to take the bytes as they are."""
        self._tensor, self.targets = targets[0].tensor, targets

    def withdraw(self) -> None:
        """Takes the offer back: somebody else's bytes go there."""
        self._tensor, self.targets, self._offered = None, (), False

    @property
    def is_offered(self) -> bool:
        """Whether its bytes go into memory that was there before."""
        return self._offered

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return math.prod(self.stored.shape) * self.stored.item

    def allocate(self) -> None:
        """Takes memory for it, unless there is some."""
        if self._tensor is not None:
            return
        like = self._like
        if like is not None and like.shape == self.shape and (shard := shard_of(like, self.name)) is not None:
            # Spread over the processes as the tensor beside it: only what is here is read.
            self._tensor = torch.empty_like(like, dtype=self.dtype, requires_grad=False)
            self.targets = (Target(local_of(self._tensor), shard.box),)
            return
        if like is not None and like.shape == self.shape and not like.is_contiguous():
            self._tensor = torch.empty_like(like, dtype=self.dtype, device=self.device, requires_grad=False)
        else:
            self._tensor = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        self.targets = (Target(self._tensor, whole_box(self.stored.shape)),)

    def take(self, offered: torch.Tensor | None = None) -> torch.Tensor:
        """The tensor, once it was read, to keep: a copy if the memory is somebody's already.

        Args:
            offered: what the caller has offered; that is given back if the bytes went there.
        """
        assert self._tensor is not None, self.name
        if self._tensor is offered:
            torch.autograd.graph.increment_version(offered)
            return offered
        if self._offered or self._given:
            return self._tensor.detach().clone()
        self._given = True
        return self._tensor

    def put(self, tensor: torch.Tensor) -> None:
        """Makes `tensor` hold what was read; nothing is left to do if it was read into it."""
        assert self._tensor is not None, self.name
        if tensor is self._tensor:
            torch.autograd.graph.increment_version(tensor)  # it has changed, and a graph that holds it must know
        elif (shard := shard_of(tensor, self.name)) is not None and shard_of(self._tensor, self.name) is None:
            box = shard.box
            here = tuple(slice(start, start + length) for start, length in zip(box.offset, box.shape, strict=True))
            local_of(tensor).copy_(self._tensor[here])
        else:
            tensor.copy_(self._tensor)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """A NumPy array of a checkpoint, whose bytes are a tensor that is not read yet."""

    raw: StoredTensor
    dtype: np.dtype[Any]
    shape: Sequence[int]

    def array(self) -> np.ndarray[Any, Any]:
        """The array, once its bytes were read."""
        data = self.raw.targets[0].tensor.numpy().tobytes()
        array: np.ndarray[Any, Any] = np.frombuffer(data, dtype=self.dtype).reshape(self.shape).copy()
        return array


def put(value: torch.Tensor | StoredTensor, tensor: torch.Tensor) -> None:
    """Makes `tensor` hold `value`, which was read if it is a stored one."""
    if isinstance(value, StoredTensor):
        value.put(tensor)
    else:
        tensor.copy_(value)


def materialized(node: Any, memo: dict[int, torch.Tensor]) -> Any:
    """The same state with tensors and arrays in place of stored ones, all of which were read.

    Dicts, lists and deques are changed in place.

    Args:
        memo: the tensors given so far: what was one tensor when saved is one tensor again.
    """
    if isinstance(node, StoredTensor):
        if id(node) not in memo:
            memo[id(node)] = node.take()
        return memo[id(node)]
    if isinstance(node, StoredArray):
        return node.array()
    kind = type(node)
    if kind in (dict, OrderedDict, Counter):
        for key, item in node.items():
            node[key] = materialized(item, memo)  # the same keys: this changes no order
    elif kind in (list, deque):
        for index, item in enumerate(node):
            if type(item) not in _PLAIN_VALUES:
                node[index] = materialized(item, memo)
    elif kind is tuple:
        return tuple(materialized(item, memo) for item in node)
    return node


def stored_in(node: Any) -> Iterator[StoredTensor]:
    """All stored tensors of a state."""
    if isinstance(node, StoredTensor):
        yield node
    elif isinstance(node, dict):
        for item in node.values():
            yield from stored_in(item)
    elif isinstance(node, list | tuple | deque):
        for item in node:
            yield from stored_in(item)


def nearest_device(device: str | None) -> torch.device:
    """The device that a tensor was on, or the nearest that this machine has."""
    if device is None or not torch.cuda.is_available() or not device.startswith("cuda"):
        return _CPU
    index = torch.device(device).index or 0
    return torch.device("cuda", index if index < torch.cuda.device_count() else torch.cuda.current_device())


def _targets_in(tensor: torch.Tensor, stored: StoredTensor) -> tuple[Target, ...]:
    """Where in `tensor` the bytes can lie as they are stored, in whatever order of dimensions; nowhere if empty.

    Of a tensor that is spread over several processes, that is the part that is here.
    """
    shard = shard_of(tensor, stored.name) if type(tensor) not in PLAIN else None
    if shard is not None:
        local = local_of(tensor)
        if tensor.dtype is stored.dtype and tensor.shape == stored.shape and local.is_contiguous():
            return (Target(local.detach(), shard.box),)
        return ()
    if (
        type(tensor) in PLAIN
        and tensor.dtype is stored.dtype
        and tensor.shape == stored.shape
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not tensor.is_conj()
        and not tensor.is_neg()
        and (tensor.is_contiguous() or _is_dense(tensor))
    ):
        return (Target(tensor.detach(), whole_box(stored.stored.shape)),)
    return ()


_CPU = torch.device("cpu")
_PLAIN_VALUES = frozenset((int, float, str, bool, type(None)))


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether its elements lie side by side, each on its own, in whatever order of dimensions."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return False
            expected *= length
    return True
