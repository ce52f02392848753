"""What is inside a commit, told from its manifest alone: groups, tensors, files. Needs no torch and reads no blob."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spotrun.store.manifest import DTYPE_SIZES, Manifest, TensorRef

__all__ = ["Group", "Item", "dissect", "summary_of"]

_PATHS_MAX = 1_000_000  # files of a folder; more is no list that anybody prints
_GROUPED = ("models", "frozen", "optimizers", "states", "values", "generators")  # these have named members


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A tensor, whole however many boxes it lies in, or a file.

    Attributes:
        boxes: how many pieces it is stored in.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    boxes: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """What belongs together: a model, an optimizer, the files of a folder."""

    name: str
    items: tuple[Item, ...]

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(item.size for item in self.items)


def dissect(manifest: Manifest) -> list[Group]:
    """The groups of a commit, by name, and everything in them."""
    groups: dict[str, list[Item]] = {}
    for item in (*_tensors(manifest.tensors), *_files(manifest.state)):
        groups.setdefault(_group_of(item), []).append(item)
    return [Group(name=name, items=tuple(items)) for name, items in groups.items()]


def summary_of(state: Any) -> dict[str, str]:
    """A few words about the state: where in the data it is, which optimizers with which rate."""
    told: dict[str, str] = {}
    if isinstance(state, dict) and state.get("$") == "gang":
        told["processes"] = str(state.get("world"))
        state = state.get("v")
    if not isinstance(state, dict):
        return told
    position = state.get("position")
    if isinstance(position, dict):
        told["position"] = ", ".join(
            f"{name} {position[name]}" for name in ("epoch", "step") if isinstance(position.get(name), int)
        )
    for name, optimizer in _members(state.get("optimizers")):
        groups = optimizer.get("groups") if isinstance(optimizer, dict) else None
        rates = [
            group["options"]["lr"]
            for group in (groups if isinstance(groups, list) else [])
            if isinstance(group, dict) and isinstance(group.get("options"), dict) and "lr" in group["options"]
        ]
        plain = ", ".join(f"{rate:g}" for rate in rates if isinstance(rate, int | float))
        told[name] = f"{optimizer.get('kind', 'optimizer')}" + (f", rate {plain}" if plain else "")
    if isinstance(state.get("imported"), dict):
        told["imported"] = (
            f"from {state['imported'].get('format', 'elsewhere')}; everything but the weights starts fresh"
        )
    return {name: words for name, words in told.items() if words}


def _tensors(tensors: Mapping[str, TensorRef]) -> list[Item]:
    whole: dict[str, Item] = {}
    for name, ref in tensors.items():
        owner = ref.of if ref.of is not None else name
        shape = ref.whole if ref.whole is not None else ref.shape
        boxes = whole[owner].boxes + 1 if owner in whole else 1
        size = math.prod(shape) * DTYPE_SIZES[ref.dtype]
        whole[owner] = Item(name=owner, dtype=ref.dtype, shape=shape, size=size, boxes=boxes)
    return list(whole.values())


def _files(state: Any) -> list[Item]:
    folder = state.get("folder") if isinstance(state, dict) else None
    files = folder.get("files") if isinstance(folder, dict) else None
    return [
        Item(name=str(file.get("path")), dtype="file", shape=(), size=file.get("size", 0))
        for file in (files if isinstance(files, list) else [])[:_PATHS_MAX]
        if isinstance(file, dict) and isinstance(file.get("size"), int)
    ]


def _group_of(item: Item) -> str:
    if item.dtype == "file":
        return "folder"
    first, _, rest = item.name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first in _GROUPED and rest else first


def _members(named: Any) -> list[tuple[str, Any]]:
    return [(name, each) for name, each in named.items() if isinstance(each, dict)] if isinstance(named, dict) else []
