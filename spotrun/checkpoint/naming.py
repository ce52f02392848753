"""Names that a training gives to its commits: `run.save(tag=...)`.

They are part of the state that is saved, and become tags once it is committed. So a training that is killed between the
two loses no name: whoever goes on from that commit gives it then.

A name moves on to the next commit that the training gives it to (`best`). One that somebody else gave by hand, or that
has moved on meanwhile, stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from spotrun.checkpoint.distributed.document import of_rank, together, world_of
from spotrun.errors import CheckpointCorrupt, SpecError
from spotrun.store import BlobStore, CommitEntry, read_manifest
from spotrun.store.tag import add_tag, find_tag, remove_tag

__all__ = ["give_name", "names_in"]


def names_in(state: Any) -> tuple[str, ...]:
    """The names that a commit's state asks for, of all processes."""
    document = together(state)
    told = document.get("tags") if isinstance(document, dict) else None
    names: set[str] = set()
    for rank in range(world_of(state)):
        asked = of_rank({"$": "gang", "v": told}, rank)
        names.update(name for name in (asked if isinstance(asked, list) else []) if isinstance(name, str))
    return tuple(sorted(names))


def give_name(store: BlobStore, name: str, entry: CommitEntry, *, commits: Sequence[CommitEntry], at: datetime) -> None:
    """Gives a commit a name that its state asks for.

    Args:
        commits: those of the run, as far as they are known.

    Raises:
        SpecError: the name is another commit's, and not by this training's wish.
        CheckpointError: the commit was removed meanwhile, or is damaged.
        StoreError: the store failed.
    """
    held = find_tag(store, name)
    if held is not None:
        if held.manifest == entry.manifest or (held.attempt, held.step) > (entry.attempt, entry.step):
            return
        if not _was_asked_for(store, name, held.manifest, commits):
            raise SpecError(
                f"the tag {name} was given to step {held.step} by hand and stays there; step {entry.step} has no tag. "
                f"Take another name, or `spotrun checkpoints tag ... --remove {name}`"
            )
        remove_tag(store, name)
    add_tag(store, name, entry, at=at)


def _was_asked_for(store: BlobStore, name: str, manifest: str, commits: Sequence[CommitEntry]) -> bool:
    """Whether the commit that has the name got it from the training; or is gone, so that the name means nothing."""
    if manifest not in store.list(manifest):
        return True
    for entry in commits:
        if entry.manifest == manifest:
            try:
                return name in names_in(read_manifest(store, entry).state)
            except CheckpointCorrupt:
                return False
    return False
