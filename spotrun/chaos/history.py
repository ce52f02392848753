"""What the checkpoints of two runs held: where their states differ first, and in what.

The census tells what a training had in memory; this tells what was saved of it. A commit that differs although the one
before it agreed says between which steps it happened, also of state that no census sees: shards, and the position in the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from spotrun.chaos.trial import Trial
from spotrun.store import BlobStore, CommitEntry, Manifest, open_store, read_log, read_manifest
from spotrun.store.difference import Change, Side, compare_states, compare_tensors

__all__ = ["Divergence", "documents_differing", "first_divergence", "noise_between"]

# Of a document what was trained; not who saved it and why, nor the book-keeping of frameworks, which tell a resume from a start.
_TRAINED = ("models.", "frozen.", "optimizers.", "values.", "generators.", "gradients.", "randomness.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """The first commit of a run that differs from the undisturbed run's of that step.

    Attributes:
        parts: what differs in it, by the names that the checkpoint has for it.
        agreed: the last step before whose commits are the same; None if there is none.
    """

    step: int
    parts: Sequence[str]
    agreed: int | None


def first_divergence(expected: Trial, found: Trial, *, noise: Collection[str] = ()) -> Divergence | None:
    """Compares what was saved at the same steps.

    Args:
        noise: parts that differ from run to run, and mean nothing.

    Raises:
        StoreError: a store cannot be read.
        CheckpointCorrupt: a blob is missing or too short.
    """
    ours, theirs = _commits(expected), _commits(found)
    agreed: int | None = None
    for step in sorted(ours.keys() & theirs.keys()):
        parts = [part for part in _differing(ours[step], theirs[step]) if part not in noise]
        if parts:
            return Divergence(step=step, parts=parts, agreed=agreed)
        agreed = step
    return None


def noise_between(first: Trial, second: Trial) -> set[str]:
    """Parts that differ between the commits of two undisturbed runs."""
    ours, theirs = _commits(first), _commits(second)
    return {part for step in ours.keys() & theirs.keys() for part in _differing(ours[step], theirs[step])}


def documents_differing(left: Manifest, right: Manifest) -> list[str]:
    """Where two commits differ in what is no tensor: counters, positions, options."""
    paths = [path.removeprefix("v.") for path, _, _ in compare_states(left.state, right.state)]
    return [path for path in paths if path.startswith(_TRAINED)]


def _differing(left: Side, right: Side) -> list[str]:
    tensors = [each.name for each in compare_tensors(left, right) if each.change is not Change.SAME]
    return tensors + documents_differing(left.manifest, right.manifest)


def _commits(trial: Trial) -> Mapping[int, Side]:
    """The commits of a run by their step; of those of one step the last."""
    store: BlobStore = open_store(trial.store)
    return {
        entry.step: Side(store, read_manifest(store, entry))
        for entry in read_log(store)
        if isinstance(entry, CommitEntry)
    }
