"""The state of one process out of a checkpoint that other numbers of processes saved.

With the same number each takes its own. With another, whatever was equal everywhere is everyone's, and sharded tensors
are cut anew where they are read. What differed is either known how to be shared out, or refused by name:

    randomness, generators      processes that were there take their own; others derive theirs from it
    place in the data           exact if all had handed out as many batches, of loaders whose order no process draws
    buffers of models           the first process's, as DistributedDataParallel would do
    anything else               refused
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from spotrun.checkpoint.distributed.board import Place
from spotrun.checkpoint.distributed.document import beside, differing, of_rank, world_of
from spotrun.checkpoint.restore import Restored
from spotrun.checkpoint.tree import flatten
from spotrun.errors import CheckpointError

__all__ = ["Localized", "Localizer", "localized", "reseeded"]

_DRAWN = frozenset({"randomness", "generators", "before"})  # members of a place in the data that are randomness
_ORDERED = frozenset({"DistributedSampler", "CounterSampler", "SequentialSampler"})  # no process draws their order
_SHOWN_MAX = 10  # names in an error


@dataclass(frozen=True, slots=True)
class Localized:
    """A process's own document.

    Attributes:
        strange: randomness in it that is another process's, each as the keys that lead to it.
        warnings: what is not as it was.
    """

    document: Any
    strange: tuple[tuple[str, ...], ...] = ()
    warnings: tuple[str, ...] = ()


class Localizer:
    """Picks this process's document out of a commit's state, and remembers what there is to do about it.

    Attributes:
        buckets: orders in which `DistributedDataParallel` adds up.
        warnings: what is not as it was.
        is_same: whether as many processes saved it.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._strange: tuple[tuple[str, ...], ...] = ()
        self.buckets: Mapping[str, list[int]] = {}
        self.warnings: tuple[str, ...] = ()
        self.is_same = True

    def __call__(self, state: Any) -> Any:
        found = localized(state, self._place)
        self._strange, self.warnings = found.strange, found.warnings
        self.is_same = world_of(state) == self._place.world
        self.buckets = beside(state, "buckets")
        return found.document

    def finished(self, restored: Restored) -> Restored:
        """The state that was read, with randomness of this process's own."""
        if not self._strange:
            return restored
        return replace(restored, tree=reseeded(restored.tree, self._strange, self._place))


def localized(state: Any, place: Place) -> Localized:
    """The state of this process.

    Raises:
        CheckpointError: another number of processes saved it, and part of it cannot be shared out anew.
    """
    world = world_of(state)
    if world == place.world:
        return Localized(of_rank(state, place.rank))
    apart = list(differing(state))
    own = ("randomness", "generators", "position", "logged", "tags")
    buffers = [path for path in apart if path[0] == "models" and "buffers" in path]
    fixed = [path for path in apart if path[0] not in own and path not in buffers]
    if fixed:
        names = [".".join(path) for path in fixed]
        more = f" and {len(names) - _SHOWN_MAX} more" if len(names) > _SHOWN_MAX else ""
        raise CheckpointError(
            f"this checkpoint was saved by {world} processes and there are {place.world} now. What differs from process "
            f"to process cannot be shared out anew: {', '.join(names[:_SHOWN_MAX])}{more}. Start with {world} "
            "processes, or save at a step boundary without gradients in accumulation"
        )
    _refuse_place(state, world, place)
    document = dict(of_rank(state, place.rank % world))
    if buffers:
        document["models"] = of_rank(state, 0)["models"]
    warnings = [f"{world} processes saved this checkpoint and {place.world} go on: correct, but not bit-exact"]
    if buffers:
        warnings.append(f"{len(buffers)} buffers differed from process to process: those of rank 0 are everyone's now")
    strange = [path for path in apart if _DRAWN.intersection(path)] if place.rank >= world else []
    return Localized(document, tuple(strange), tuple(warnings))


def reseeded(tree: Mapping[str, Any], strange: Sequence[tuple[str, ...]], place: Place) -> Mapping[str, Any]:
    """The state with randomness that was another process's made this one's own, from both.

    Two processes must not draw the same numbers; and the same number of processes must give the same again.
    """
    changed = dict(tree)
    for top in {path[0] for path in strange if path[0] in ("randomness", "generators")}:
        names = {path[1] for path in strange if path[0] == top}
        changed[top] = {
            name: _derived(value, name, place) if name in names else value for name, value in tree[top].items()
        }
    position = dict(tree["position"])
    if position.get("randomness") and any(path[:2] == ("position", "randomness") for path in strange):
        position["randomness"] = {name: _derived(value, name, place) for name, value in position["randomness"].items()}
    changed["position"] = position
    return changed


def _refuse_place(state: Any, world: int, place: Place) -> None:
    """In the middle of a pass the samples that are left must be those that nobody has had."""
    positions = [of_rank(state, rank)["position"] for rank in range(world)]
    passes = [feed for feed in _feeds(positions[0]) if feed["consumed"]]
    if not passes:
        return
    problem = None
    if any(_undrawn(position) != _undrawn(positions[0]) for position in positions):
        problem = "the processes were at different places in their data"
    for feed in passes:
        sampler = feed["marks"].get("sampler")
        if feed["kind"] == "DataLoader" and sampler not in _ORDERED:
            problem = f"each process drew the order of its {sampler} for itself"
        elif feed["kind"] not in ("DataLoader", "sequence"):
            problem = f"a {feed['kind']} holds the place of one process only"
    if problem:
        raise CheckpointError(
            f"this checkpoint was saved by {world} processes in the middle of an epoch and there are {place.world} now: "
            f"{problem}, so what is left of the epoch cannot be shared out exactly. Start with {world} processes until "
            "the epoch is over; DistributedSampler or spotrun.data.CounterSampler make it possible at any step"
        )


def _feeds(position: Mapping[str, Any]) -> list[Any]:
    current = [position["feed"]] if position.get("feed") else []
    return [*current, *position.get("streams", {}).values()]


def _undrawn(value: Any) -> Any:
    """A document without the randomness in it."""
    if isinstance(value, dict):
        return {key: _undrawn(item) for key, item in value.items() if key not in _DRAWN}
    if isinstance(value, list):
        return [_undrawn(item) for item in value]
    return value


def _derived(state: Any, name: str, place: Place) -> Any:
    """The state of a generator, seeded from another's and this process's rank."""
    flat = flatten(state)
    digest = blake3(f"{name} {place.rank} {flat.document}".encode())
    for tensor in flat.tensors.values():
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    seed = int.from_bytes(digest.digest(8), "little") >> 1
    if isinstance(state, Mapping) and "kind" in state:
        return {"kind": state["kind"], "state": _seeded(str(state["kind"]), seed, state["state"])}
    kinds = {"python": "Random", "numpy": "RandomState", "torch": "torch.Generator(cpu)"}
    if name == "cuda":
        return [_seeded("torch.Generator(cuda)", seed + index, item) for index, item in enumerate(state)]
    return _seeded(kinds[name], seed, state) if name in kinds else state


def _seeded(kind: str, seed: int, state: Any) -> Any:
    if kind.startswith("torch.Generator"):
        if "cuda" in kind and not torch.cuda.is_available():
            return state
        generator = torch.Generator("cuda" if "cuda" in kind else "cpu")
        return generator.manual_seed(seed).get_state()
    if kind == "Random":
        version, words, gauss = random.Random(seed).getstate()  # noqa: S311  the training's, not a secret
        return {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss}
    if kind == "RandomState":
        return np.random.RandomState(seed % 2**32).get_state(legacy=False)
    bits = getattr(np.random, kind.removeprefix("numpy.random.Generator(").removesuffix(")"))
    return bits(seed).state
