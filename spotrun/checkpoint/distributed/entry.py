"""How several processes enter a run: one claims it and reads the log, and all restore the same commit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import TypeAdapter

from spotrun.checkpoint.distributed.consensus import Consensus
from spotrun.checkpoint.distributed.world import World
from spotrun.errors import CheckpointError, Fenced, SpotrunError
from spotrun.job.message import EXIT_FENCED
from spotrun.store import CommitEntry, Lineage

__all__ = ["Entered", "all_or_none", "enter", "same_commit"]

_COMMITS_MAX = 64  # that are told to the others: as many could be damaged before somebody has to look
_ENTRIES: TypeAdapter[list[CommitEntry]] = TypeAdapter(list[CommitEntry])

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entered:
    """The run, as all processes know it now.

    Attributes:
        lineage: the first process's hold on it.
    """

    attempt: int
    commits: tuple[CommitEntry, ...]
    lineage: Lineage | None = None


def enter(world: World, claim: Callable[[], Lineage], place: str) -> Entered:
    """Claims the run in the first process, and tells all.

    Args:
        claim: claims the run; called in the first process only.
        place: where this process thinks the run is.

    Raises:
        CheckpointError: the first process could not claim it, or means another place.
        Fenced: a newer attempt holds the run; in the first process. The others end (exit code 77).
    """
    board = world.board
    if world.place.leads:
        try:
            lineage = claim()
        except (SpotrunError, SystemExit) as err:
            board.post("entry", {"error": str(err), "fenced": isinstance(err, Fenced | SystemExit)})
            raise
        assert lineage.attempt is not None
        entered = Entered(lineage.attempt, lineage.commits[-_COMMITS_MAX:], lineage)
        told = {"place": place, "attempt": entered.attempt}
        board.post("entry", {**told, "commits": _ENTRIES.dump_python(list(entered.commits), mode="json")})
        return entered
    told = board.fetch("entry", sender=0, what="word of the claim")
    if told.get("fenced"):
        sys.exit(EXIT_FENCED)
    if "error" in told:
        raise CheckpointError(f"the first process could not enter the run: {told['error']}")
    if told["place"] != place:
        raise CheckpointError(
            f"rank 0 keeps its checkpoints in {told['place']} and rank {world.place.rank} in {place}: they must be the "
            "same. Give all processes the same attach(name=..., uri=...) and working directory"
        )
    return Entered(told["attempt"], tuple(_ENTRIES.validate_python(told["commits"], strict=False)))


def same_commit(
    consensus: Consensus, commits: Sequence[CommitEntry], read: Callable[[Sequence[CommitEntry]], Any]
) -> Any:
    """The newest commit that every process can read, as this one reads it.

    Args:
        read: the newest of these commits that is whole, with an `entry`; None if there are none.

    Raises:
        CheckpointError: a process can read none.
    """
    for _ in range(len(commits) + 1):
        found = all_or_none(consensus, partial(read, commits))
        seq = found.entry.seq if found is not None else 0
        lowest = -consensus.highest([-seq])[0]
        if lowest == consensus.highest([seq])[0]:
            return found
        commits = [entry for entry in commits if entry.seq <= lowest]
    raise CheckpointError("the processes cannot read the same commit")


def all_or_none(consensus: Consensus, action: Callable[[], _T]) -> _T:
    """What `action` gives, once it has succeeded in all processes.

    Raises:
        CheckpointError: it failed in another one.
        Exception: it failed here.
    """
    try:
        result = action()
    except Exception:
        consensus.highest([1])
        raise
    if consensus.highest([0])[0]:
        raise CheckpointError("another process of this training could not restore its state; its own error says why")
    return result
