"""Commits of several processes in two phases: parts first, then one manifest of all of them.

    share       at the boundary: the processes find out which tensors all hold alike, and divide them
    parts       each process has stored and checked its blobs, and posts what they hold; or that it failed
    commit      the first process waits for all parts, merges them and commits; nothing was visible before
    outcome     it tells the others: the entry of the log, or why there is none

Nobody waits for a process that is dead: see `board`. If the first one dies between its commit and telling of it, the
others report a failed save of a state that is committed: the run goes on from it when it is started again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from torch.nn.parallel import DistributedDataParallel

from spotrun.checkpoint.commit import Part, SoleCommitter
from spotrun.checkpoint.distributed.bucket import bucket_orders
from spotrun.checkpoint.distributed.consensus import Consensus
from spotrun.checkpoint.distributed.document import merged
from spotrun.checkpoint.distributed.share import divide, fingerprints, renamed, replica_writer, structure_of
from spotrun.checkpoint.distributed.world import World
from spotrun.checkpoint.tensor import Shard
from spotrun.checkpoint.tree import Flat
from spotrun.errors import CheckpointError, Fenced
from spotrun.store import BlobRef, CommitEntry, TensorRef
from spotrun.store.region import Box, filling_fault

__all__ = ["GangCommitter"]

_PART: TypeAdapter[Part] = TypeAdapter(Part)
_ENTRY: TypeAdapter[CommitEntry] = TypeAdapter(CommitEntry)


class GangCommitter:
    """The committer of one of several processes.

    Args:
        sole: commits the merged part; None in all processes but the first.
        attempt: the attempt that the first process has claimed.
        kept_equal: the models whose parameters `DistributedDataParallel` keeps equal.
        replicated: the modules that it wraps.
    """

    def __init__(
        self,
        world: World,
        consensus: Consensus,
        *,
        sole: SoleCommitter | None,
        attempt: int,
        kept_equal: Collection[str] = (),
        replicated: Mapping[str, DistributedDataParallel] | None = None,
    ) -> None:
        self.attempt = attempt
        self._board = world.board
        self._place = world.place
        self._consensus = consensus
        self._sole = sole
        self._kept_equal = frozenset(kept_equal)
        self._replicated = replicated or {}
        self._buckets: dict[str, list[int]] = {}
        self._names: tuple[str, ...] = ()  # of tensors that all processes hold, when it was last looked at
        self._structure: list[int] = []
        self._shards: Mapping[str, Shard] = {}
        self._save = 0  # the number of the save that is under way, the same in all processes
        self._answered = True  # this process's word on that save is out
        self._told: list[str] = []  # keys of messages of the save before

    def share(self, flat: Flat, *, step: int | None) -> Flat:
        """See `Committer.share`."""
        whole = [name for name in flat.tensors if name not in flat.shards]
        boxes = [
            name
            for name, shard in flat.shards.items()
            if flat.tensors[name].numel() and replica_writer(name, shard.replicas) == self._place.rank
        ]
        if step is None:  # a guess, for the memory that it will take
            owners = divide(flat, whole, self._place.world)
            mine = [name for name in whole if owners[name] == self._place.rank]
            return renamed(flat, own=(), written=[*mine, *boxes], place=self._place)
        self._save, self._answered = self._consensus.count, False
        self._shards = flat.shards
        if self._sole is not None:
            self._buckets = bucket_orders(self._replicated)
        common = self._common(flat, whole)
        sums = fingerprints(flat, common, self._is_kept_equal)
        highest = self._consensus.highest([*sums, *(-number for number in sums)])
        equal = [name for index, name in enumerate(common) if highest[index] == -highest[len(common) + index]]
        owners = divide(flat, equal, self._place.world)
        mine = [name for name in equal if owners[name] == self._place.rank]
        own = set(whole).difference(equal)
        written = [name for name in flat.tensors if name in own or name in {*mine, *boxes}]
        return renamed(flat, own=own, written=written, place=self._place)

    def withdraw(self, error: Exception) -> None:
        """See `Committer.withdraw`."""
        if self._answered:
            return
        told = {"error": str(error), "fenced": isinstance(error, Fenced)}
        self._answered = True
        with contextlib.suppress(CheckpointError):
            if self._sole is None:
                self._board.post(self._key("part", self._place.rank), told)
            else:
                self._tell(told)

    def commit(self, part: Part) -> CommitEntry:
        """See `Committer.commit`."""
        part = replace(part, tensors={name: self._placed(name, ref) for name, ref in part.tensors.items()})
        if self._sole is None:
            self._answered = True
            self._board.post(self._key("part", self._place.rank), {"part": _PART.dump_python(part, mode="json")})
            told = self._board.fetch(self._key("outcome", 0), sender=0, what="word of the commit")
            if "error" in told:
                raise self._failure(told)
            return _ENTRY.validate_python(told["entry"], strict=False)
        entry = self._sole.commit(_merged(self._gather(part), self._buckets))
        self._answered = True
        self._tell({"entry": _ENTRY.dump_python(entry, mode="json")})
        return entry

    def announce(self, deadline: datetime | None) -> None:
        """See `Committer.announce`."""
        if self._sole is not None:
            self._sole.announce(deadline)

    def name(self) -> None:
        """See `Committer.name`."""
        if self._sole is not None:
            self._sole.name()

    def prune(self) -> None:
        """See `Committer.prune`."""
        if self._sole is not None:
            self._sole.prune()

    def _common(self, flat: Flat, whole: Sequence[str]) -> Sequence[str]:
        """The names of tensors that all processes hold, of the same type and shape, in the same order everywhere."""
        names = sorted(whole)
        mine = structure_of(flat, names)
        # Both at once: whether all hold the same now, and whether what was found out before still holds.
        highest = self._consensus.highest([*mine, *(-number for number in mine), int(mine != self._structure)])
        count = len(mine)
        if all(highest[index] == -highest[count + index] for index in range(count)):
            return names
        if highest[-1]:
            self._structure = mine
            self._names = self._find_common(flat, names)
        return self._names

    def _is_kept_equal(self, name: str) -> bool:
        kind, _, rest = name.partition(".")
        if kind == "optimizers":  # optimizers.<optimizer>.state.<model>.<parameter>.<value>
            rest = rest.partition(".state.")[2]
            return any(rest.startswith(f"{model}.") for model in self._kept_equal)
        inner = ".parameters." if kind == "models" else "."
        return kind in ("models", "frozen") and any(rest.startswith(model + inner) for model in self._kept_equal)

    def _find_common(self, flat: Flat, names: Sequence[str]) -> tuple[str, ...]:
        described = {name: [str(flat.tensors[name].dtype), list(flat.tensors[name].shape)] for name in names}
        key = f"names/{self._save}"
        if not self._place.leads:
            self._board.post(f"{key}/{self._place.rank}", described)
            return tuple(self._board.fetch(key, sender=0, what="the names of common tensors"))
        for rank in range(1, self._place.world):
            theirs = self._board.fetch(f"{key}/{rank}", sender=rank, what=f"the names of rank {rank}'s tensors")
            described = {name: form for name, form in described.items() if theirs.get(name) == form}
            self._board.drop(f"{key}/{rank}")
        self._board.post(key, list(described))
        return tuple(described)

    def _gather(self, part: Part) -> list[Part]:
        parts = [part]
        for rank in range(1, self._place.world):
            key = self._key("part", rank)
            told = self._board.fetch(key, sender=rank, what=f"rank {rank}'s part of step {part.step}")
            self._board.drop(key)
            if "error" in told:
                raise CheckpointError(f"rank {rank} could not save its part: {told['error']}")
            parts.append(_PART.validate_python(told["part"], strict=False))
        return parts

    def _tell(self, outcome: dict[str, Any]) -> None:
        """The outcome of this save; that of the one before has been read, or this one would not have begun."""
        for key in self._told:
            self._board.drop(key)
        key = self._key("outcome", 0)
        self._told = [key]
        self._board.post(key, outcome)

    def _failure(self, told: Mapping[str, Any]) -> CheckpointError:
        if told.get("fenced"):
            return _FencedElsewhere(self.attempt, told["error"])
        return CheckpointError(f"the save failed: {told['error']}")

    def _key(self, kind: str, rank: int) -> str:
        return f"save/{self._save}/{kind}/{rank}"

    def _placed(self, name: str, ref: TensorRef) -> TensorRef:
        """A reference to what may be a box of a box: what it is a box of is the whole tensor."""
        shard = self._shards.get(ref.of or name)
        if shard is None:
            return ref
        inner = ref.offset or (0,) * len(ref.shape)
        offset = tuple(a + b for a, b in zip(shard.box.offset, inner, strict=True))
        return replace(ref, of=ref.of or name, whole=shard.whole, offset=offset)


class _FencedElsewhere(Fenced):
    """The first process is fenced, and so are we."""

    def __init__(self, attempt: int, sentence: str) -> None:
        super().__init__(attempt, attempt)
        self.args = (sentence,)


def _merged(parts: Sequence[Part], buckets: Mapping[str, list[int]]) -> Part:
    """The parts of all processes as one.

    Raises:
        CheckpointError: they are not of the same moment, or do not make up whole tensors.
    """
    first = parts[0]
    blobs: list[BlobRef] = []
    tensors: dict[str, TensorRef] = {}
    for rank, part in enumerate(parts):
        if part.step != first.step:
            raise CheckpointError(f"rank 0 saved step {first.step}, but rank {rank} saved step {part.step}")
        for name, ref in part.tensors.items():
            key = name if ref.of is None else f"{ref.of}#{_count(ref)}"
            if key in tensors:
                raise CheckpointError(f"{key} was saved by two processes, rank {rank} is one of them")
            tensors[key] = replace(ref, blob=ref.blob + len(blobs))
        blobs += part.blobs
    _refuse_gaps(tensors)
    fingerprint = {
        name: value if all(part.fingerprint.get(name) == value for part in parts) else _told_apart(name, parts)
        for name, value in first.fingerprint.items()
    }
    document = merged([part.document for part in parts], buckets=dict(buckets))
    return replace(first, document=document, blobs=tuple(blobs), tensors=tensors, fingerprint=fingerprint,
                   on_notice=any(part.on_notice for part in parts))  # fmt: skip


def _count(ref: TensorRef) -> str:
    return ".".join(str(number) for number in ref.offset or ())


def _told_apart(name: str, parts: Sequence[Part]) -> str:
    return "; ".join(f"rank {rank}: {part.fingerprint.get(name, 'unknown')}" for rank, part in enumerate(parts))[:1000]


def _refuse_gaps(tensors: Mapping[str, TensorRef]) -> None:
    boxes: dict[str, list[TensorRef]] = {}
    for ref in tensors.values():
        if ref.of is not None:
            boxes.setdefault(ref.of, []).append(ref)
    for name, refs in boxes.items():
        fault = filling_fault(refs[0].whole or (), [Box(ref.offset or (), ref.shape) for ref in refs])
        if fault:
            raise CheckpointError(f"the processes' shares of {name} do not make up the whole tensor: {fault}")
