"""What the last walk over a state has found, so that the next one need not look at every tensor again.

Nearly all of a state is mappings from names to tensors that are the same objects in the same memory, save after save.
Whether such a mapping is still what it was is seen by a handful of calls for all of its tensors together, which takes a
tenth of the time of a walk; and the training stands still meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import Any

import torch

__all__ = ["Found", "Recollection", "found_in", "joined", "renewed"]


@dataclass(frozen=True, slots=True)
class Found:
    """A mapping whose values are tensors, all of which were met there for the first time.

    Attributes:
        node: the mapping in the document.
        tensors: what is saved, by name, in their order; fewer than there are values if some of these are tied.
        names: of the same tensors by their addresses.
        aliases: of the values: what is saved of each.
        inner: the keys of the values, if these are mappings themselves; then `values` are theirs.
    """

    node: Any
    tensors: Mapping[str, torch.Tensor]
    names: Mapping[int, str]
    keys: list[str]
    values: list[torch.Tensor]
    aliases: list[torch.Tensor]
    types: list[torch.dtype]
    inner: list[tuple[Any, ...]] | None = None

    def is_still(self, value: Mapping[str, Any]) -> bool:
        """Whether the mapping holds the same tensors, over the same memory in the same form."""
        if list(value) != self.keys:
            return False
        values: Iterable[Any] = value.values()
        if self.inner is not None:
            if set(map(type, values)) != {dict} or list(map(tuple, values)) != self.inner:
                return False
            values = chain.from_iterable(map(dict.values, values))
        return (
            all(map(is_, values, self.values))
            and all(map(torch.Tensor.is_set_to, self.values, self.aliases))
            and [tensor.dtype for tensor in self.values] == self.types
            and not any(map(torch.Tensor.is_neg, self.values))
        )


@dataclass(slots=True)
class Recollection:
    """What one walk leaves for the next, by path. It keeps the memory of those tensors until then."""

    found: dict[str, Found] = field(default_factory=dict)

    def recall(self, path: str, value: Mapping[str, Any]) -> Found | None:
        """What was found there, if it is still so."""
        found = self.found.get(path)
        return found if found is not None and found.is_still(value) else None


def joined(value: Mapping[str, Any], node: Any, parts: Sequence[Found]) -> Found:
    """What was found in a mapping of such mappings: `parts`, in its order."""
    return Found(
        node,
        {name: tensor for part in parts for name, tensor in part.tensors.items()},
        {address: name for part in parts for address, name in part.names.items()},
        list(value),
        [tensor for part in parts for tensor in part.values],
        [tensor for part in parts for tensor in part.aliases],
        [kind for part in parts for kind in part.types],
        list(map(tuple, value.values())),
    )


def renewed(before: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]) -> list[str] | None:
    """The names of the tensors that are other objects than before; None if there are other names."""
    if list(before) != list(now):
        return None
    return [name for name, one, other in zip(now, before.values(), now.values(), strict=True) if one is not other]


def found_in(
    value: Mapping[str, torch.Tensor], node: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> Found | None:
    """What there is to remember of a mapping that was walked over; None if it is not that simple.

    Args:
        tensors: all that were found so far, by name; those of this mapping are new among them.
    """
    aliases = [tensors[item["name"]] for item in node.values()]
    new = {item["name"]: alias for item, alias in zip(node.values(), aliases, strict=True)}
    types = [tensor.dtype for tensor in aliases]
    if any(dtype.is_complex for dtype in types) or not all(map(torch.Tensor.numel, aliases)):
        return None  # conjugated views and tensors without an address
    names = {alias.data_ptr(): name for name, alias in new.items()}
    values = list(value.values())
    if len(names) != len(new) or not all(map(torch.Tensor.is_set_to, values, aliases)):
        return None
    return Found(node, new, names, list(value), values, aliases, types)
