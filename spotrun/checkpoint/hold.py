"""A process's hold on a run: it is claimed, its last commit is loaded, and what will make the next ones is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from spotrun.checkpoint.agreement import Agreement, Alone
from spotrun.checkpoint.commit import Committer, SoleCommitter
from spotrun.checkpoint.distributed.board import Place
from spotrun.checkpoint.distributed.gang import Gang
from spotrun.checkpoint.distributed.reshare import Localizer
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.restore import Restored, refuse_lost, resume
from spotrun.checkpoint.settings import Settings
from spotrun.checkpoint.state import Components
from spotrun.errors import Fenced, SpotrunError
from spotrun.job.message import EXIT_FENCED
from spotrun.store import BlobRef, BlobStore, ClaimEntry, CommitEntry, DamagedEntry, Lineage, open_store
from spotrun.store.witness import WitnessedStore

__all__ = ["Hold", "take_hold"]


@dataclass(frozen=True, slots=True)
class Hold:
    """What a process has of a run that it may write.

    Attributes:
        restored: the commit that was loaded; None for a fresh run.
        known: blobs that need not be uploaded again.
    """

    store: BlobStore
    attempt: int
    restored: Restored | None
    committer: Committer
    agreement: Agreement
    known: Mapping[str, BlobRef]


def take_hold(settings: Settings, components: Components, reporter: Reporter, gang: Gang | None) -> Hold:
    """Claims the run, alone or with the others, and loads its last commit.

    Raises:
        CheckpointError: the last commit does not fit what was given, or no commit can be read.
        StoreError: the place cannot be used.
        SystemExit: a newer attempt holds this run (exit code 77).
    """
    store: BlobStore = open_store(settings.place, settings.options)
    if settings.witness.listens:
        store = WitnessedStore(store, settings.witness)
    claim = partial(_claim, store, settings, reporter)

    def load(commits: Sequence[CommitEntry], mine: Localizer) -> Restored | None:
        return resume(store, commits, components, document=mine)

    if gang is not None:
        return _hold_together(store, settings, reporter, gang, (claim, load))
    lineage = claim()
    assert lineage.attempt is not None
    mine = Localizer(Place(0, 1))
    restored = load(lineage.commits, mine)
    _warn(restored, mine.warnings, reporter)
    restored = _gone_on_from(restored)
    committer = _committer(store, lineage, settings, reporter, restored)
    known = restored.blobs if restored is not None and _is_newest(lineage, restored) else {}
    return Hold(store, lineage.attempt, restored, committer, Alone(), known)


def _hold_together(
    store: BlobStore,
    settings: Settings,
    reporter: Reporter,
    gang: Gang,
    ways: tuple[Callable[[], Lineage], Callable[[Sequence[CommitEntry], Localizer], Restored | None]],
) -> Hold:
    claim, load = ways
    entered = gang.enter(claim, settings.place)
    restored = gang.resume(load)
    _warn(restored, (), reporter)
    restored = _gone_on_from(restored)
    committer = gang.committer(lambda lineage: _committer(store, lineage, settings, reporter, restored))
    newest = entered.lineage is not None and restored is not None and _is_newest(entered.lineage, restored)
    known = restored.blobs if gang.agrees(newest) and restored is not None else {}
    return Hold(store, entered.attempt, restored, committer, gang.consensus, known)


def _claim(store: BlobStore, settings: Settings, reporter: Reporter) -> Lineage:
    lineage = Lineage(
        store, attempt=settings.attempt, writer=settings.writer, clock=settings.clock, signing=settings.signing
    )
    try:
        lineage.claim()
    except Fenced as err:
        say(str(err))
        sys.exit(EXIT_FENCED)
    for entry in lineage.log:
        if isinstance(entry, DamagedEntry):
            reporter.warn(f"{entry.error}; if it was a commit, the one before it is used")
    refuse_lost(store, lineage.log)
    return lineage


def _committer(
    store: BlobStore, lineage: Lineage, settings: Settings, reporter: Reporter, restored: Restored | None
) -> SoleCommitter:
    committer = SoleCommitter(store, lineage, settings, resumed_from=restored.entry.step if restored else None)
    if restored is not None:  # whoever made that commit may have been lost before it had its names
        committer.ask_for_names(restored.entry, restored.manifest.state)
        try:
            committer.name()
        except SpotrunError as err:
            reporter.warn(f"step {restored.entry.step} has not all of its tags: {err}")
    return committer


def _gone_on_from(restored: Restored | None) -> Restored | None:
    """What the loop goes on from: nothing, if only weights were imported."""
    return None if restored is not None and restored.imported else restored


def _warn(restored: Restored | None, others: Sequence[str], reporter: Reporter) -> None:
    if restored is None:
        return
    for warning in (*restored.warnings, *others):
        reporter.warn(warning)
    for error in restored.damaged:
        reporter.warn(f"{error}; an older commit is used instead: step {restored.entry.step}")


def _is_newest(lineage: Lineage, restored: Restored) -> bool:
    """Whether this is the newest commit without a doubt."""
    return all(isinstance(entry, ClaimEntry) for entry in lineage.log[restored.entry.seq :])
