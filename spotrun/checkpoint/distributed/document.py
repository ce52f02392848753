"""The documents of several processes as one: what is equal is kept once, what differs once for each.

    {"$": "gang", "world": 4, "buckets": ..., "v": ...}     the state of four processes
    {"$": "ranks", "v": [..., ...]}                         inside it: a value that differs, by rank

Most of a document is the same everywhere: names, options, the position in the data. What differs is mostly randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["beside", "differing", "map_tensors", "merged", "of_rank", "together", "world_of"]

_CONTAINERS = frozenset({"tuple", "size", "deque", "dict", "ordered", "counter"})  # kinds that are looked into


def merged(documents: Sequence[Any], **beside: Any) -> Any:
    """One document of the state of all processes, in the order of their ranks, and what is known of them together."""
    return {"$": "gang", "world": len(documents), **beside, "v": _merge(documents)}


def world_of(state: Any) -> int:
    """How many processes saved this state."""
    return int(state["world"]) if _is(state, "gang") else 1


def of_rank(state: Any, rank: int) -> Any:
    """The document of one process in a merged one; a document of a single process is everyone's."""
    return _select(state["v"], rank) if _is(state, "gang") else state


def together(state: Any) -> Any:
    """The documents of all processes in one; the document itself, of a single process."""
    return state["v"] if _is(state, "gang") else state


def beside(state: Any, name: str) -> dict[str, Any]:
    """What is known of all processes together, by name; empty if nothing is."""
    known = state.get(name) if _is(state, "gang") else None
    return known if isinstance(known, dict) else {}


def differing(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the processes differ, each place as the keys that lead to it."""
    if _is(document, "gang"):
        yield from differing(document["v"], path)
    elif _is(document, "ranks"):
        yield path
    elif isinstance(document, dict):
        for key, value in document.items():
            yield from differing(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from differing(value, (*path, str(index)))


def map_tensors(document: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The document with each node that names a tensor changed."""
    if isinstance(document, list):
        return [map_tensors(item, change) for item in document]
    if not isinstance(document, dict):
        return document
    if document.get("$") in ("tensor", "array"):
        return change(document)
    return {key: map_tensors(value, change) for key, value in document.items()}


def _merge(values: Sequence[Any]) -> Any:
    first = values[0]
    kind = type(first)
    if all(type(value) is kind for value in values):
        if kind is list and all(len(value) == len(first) for value in values):
            return [_merge(items) for items in zip(*values, strict=True)]
        if kind is dict and all(list(value) == list(first) for value in values) and _is_open(values):
            return {key: _merge([value[key] for value in values]) for key in first}
        if kind is not list and all(value == first for value in values):
            return first
    return {"$": "ranks", "v": list(values)}


def _is_open(values: Sequence[dict[str, Any]]) -> bool:
    """Whether these are objects to be compared member by member, not leaves that differ as wholes."""
    kind = values[0].get("$")
    return all(value.get("$") == kind for value in values) and (kind is None or kind in _CONTAINERS)


def _select(document: Any, rank: int) -> Any:
    if isinstance(document, list):
        return [_select(item, rank) for item in document]
    if not isinstance(document, dict):
        return document
    if document.get("$") == "ranks":
        return document["v"][rank]
    return {key: _select(value, rank) for key, value in document.items()}


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, dict) and value.get("$") == kind
