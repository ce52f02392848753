"""Finding the newest commit that is whole, and reading it.

A commit is opened first: its manifest is read and its state put together without a byte of tensors. If it is to be
resumed, that state is compared with what the script has built, which changes nothing. Then blobs are read straight into
the memory that was agreed on. Damage that is found then makes the commit before this one be opened, compared and read,
into the same memory and more: every byte that a damaged commit left behind is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from spotrun.checkpoint.garbage import uncollected
from spotrun.checkpoint.imported import is_imported
from spotrun.checkpoint.reading import fill
from spotrun.checkpoint.state import Components
from spotrun.checkpoint.stored import StoredTensor, materialized
from spotrun.checkpoint.tensor import DTYPES
from spotrun.checkpoint.tree import unflatten
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.store import BlobRef, BlobStore, CommitEntry, DamagedEntry, Entry, Manifest, read_manifest

__all__ = ["Opened", "Restored", "newest_whole", "open_commit", "refuse_lost", "resume"]


@dataclass(slots=True)
class Opened:
    """A commit whose state is known, but for the bytes of its tensors.

    Attributes:
        tree: the state as it was captured, with stored tensors.
        tensors: those of them that the state has, by name.
        blobs_read: the blobs that were read and found right, by number.
    """

    entry: CommitEntry
    manifest: Manifest
    tree: dict[str, Any]
    tensors: dict[str, StoredTensor]
    blobs_read: frozenset[int] = field(default_factory=frozenset)

    def read(self, store: BlobStore) -> None:
        """Reads every tensor of the state to where it was told to go, or to memory of its own.

        Raises:
            CheckpointCorrupt: a blob is missing or damaged; where tensors were to go is undefined now.
            CheckpointError: the machine lacks the memory.
            StoreError: the store failed; where tensors were to go is undefined now.
        """
        self.blobs_read = fill(store, self.manifest.blobs, list(self.tensors.values()))


@dataclass(frozen=True, slots=True)
class Restored:
    """A commit that was read.

    Attributes:
        tree: the state as it was captured.
        damaged: what was found damaged on the way to it, newest first.
        warnings: what the user should know of how it fits.
        blobs: by digest, those of its blobs that were read and found right.
    """

    entry: CommitEntry
    manifest: Manifest
    tree: Mapping[str, Any]
    damaged: tuple[CheckpointCorrupt, ...]
    warnings: tuple[str, ...]
    blobs: Mapping[str, BlobRef]

    @property
    def imported(self) -> bool:
        """Whether it was weights from elsewhere, now loaded: then the run begins here, it does not go on."""
        return is_imported(self.tree)

    def without_tensors(self) -> Restored:
        """What the loop still needs once models and optimizers are loaded; the rest is memory."""
        needed = ("position", "randomness", "generators", "circumstances")
        return replace(self, tree={name: self.tree[name] for name in needed if name in self.tree})


def resume(
    store: BlobStore,
    commits: Sequence[CommitEntry],
    components: Components,
    *,
    document: Callable[[Any], Any] = lambda state: state,
) -> Restored | None:
    """Loads the newest commit of which every byte is right; None if there never was a commit.

    Args:
        document: picks this process's document out of the manifest's state.

    Raises:
        CheckpointError: the commit does not fit what the script has built, which is then as it was; or none of the
            commits can be read, and then it may be undefined: the error says so.
        StoreError: the store failed; the content of what the script has built is undefined.
    """
    with uncollected():
        return _newest(store, commits, lambda opened: components.prepare(opened.tree), document)


def refuse_lost(store: BlobStore, log: Sequence[Entry]) -> None:
    """Refuses to begin from nothing where the log may have held commits, none of which can be read.

    Raises:
        CheckpointError: see above.
        StoreError: the store failed.
    """
    unreadable = [entry for entry in log if isinstance(entry, DamagedEntry)]
    if not unreadable or any(isinstance(entry, CommitEntry) for entry in log) or not store.list("manifests/"):
        return
    raise CheckpointError(
        "this run has checkpoints, but every entry of its log that may have been a commit is damaged, and starting again "
        "from nothing is not for spotrun to decide. To do so, give the run another name or delete its checkpoints. What "
        "was found:\n  " + "\n  ".join(str(entry.error) for entry in unreadable)
    )


def newest_whole(store: BlobStore, commits: Sequence[CommitEntry]) -> Restored | None:
    """The newest commit of which every byte is right, in memory of its own; None if there never was a commit.

    Raises:
        CheckpointError: there are commits, but none of them can be read.
        StoreError: the store failed.
    """

    def prepare(opened: Opened) -> Callable[[], list[str]]:
        def load() -> list[str]:
            materialized(opened.tree, {})
            return []

        return load

    with uncollected():
        return _newest(store, commits, prepare)


def open_commit(
    store: BlobStore, entry: CommitEntry, *, document: Callable[[Any], Any] = lambda state: state
) -> Opened:
    """Reads a commit's manifest, and puts its state together without tensors' bytes.

    Args:
        document: picks this process's document out of the manifest's state.

    Raises:
        CheckpointCorrupt: the manifest is missing or damaged, or its state is not a training's.
        CheckpointError: it holds tensors of a type that this PyTorch does not have.
        StoreError: the store failed.
    """
    manifest = read_manifest(store, entry)
    stored = manifest.stored()
    tensors: dict[str, StoredTensor] = {}

    def tensor(name: str) -> StoredTensor:
        if name not in tensors:
            if stored[name].dtype not in DTYPES:
                raise CheckpointError(f"{name} is of type {stored[name].dtype}, which torch {torch.__version__} lacks")
            tensors[name] = StoredTensor(name, stored[name])
        return tensors[name]

    tree = unflatten(document(manifest.state), tensor)
    if not isinstance(tree, dict):
        raise CheckpointCorrupt(entry.manifest, "its state is not a training's")
    return Opened(entry, manifest, tree, tensors)


def _newest(
    store: BlobStore,
    commits: Sequence[CommitEntry],
    prepare: Callable[[Opened], Callable[[], list[str]]],
    document: Callable[[Any], Any] = lambda state: state,
) -> Restored | None:
    damaged: list[CheckpointCorrupt] = []
    undefined = False
    for entry in reversed(commits):
        try:
            opened = open_commit(store, entry, document=document)
            load = prepare(opened)
            undefined = undefined or any(tensor.is_offered for tensor in opened.tensors.values())
            opened.read(store)
        except CheckpointCorrupt as err:
            damaged.append(err)
            if len(damaged) > 1 and "missing" in err.reason and err.key == entry.manifest:
                damaged.pop()  # pruned long ago
            continue
        except CheckpointError as err:
            if undefined:
                raise CheckpointError(f"{err}\n{_UNDEFINED}") from err
            raise
        warnings = load()
        blobs = {blob.digest: blob for number, blob in enumerate(opened.manifest.blobs) if number in opened.blobs_read}
        return Restored(entry, opened.manifest, opened.tree, tuple(damaged), tuple(warnings), blobs)
    if not damaged:
        return None
    found = "\n  ".join(str(err) for err in damaged)
    raise CheckpointError(
        f"none of the {len(commits)} commits of this run can be read, and starting again from nothing is not for "
        "spotrun to decide. To do so, give the run another name or delete its checkpoints. What was found:\n  "
        + (f"{found}\n{_UNDEFINED}" if undefined else found)
    )


_UNDEFINED = (
    "The model and optimizer that were given to attach hold parts of a damaged checkpoint now: build them anew before "
    "you use them."
)
