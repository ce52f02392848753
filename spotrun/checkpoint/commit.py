"""From written blobs to a commit: the seam between what one process saves and what makes it the run's state.

A process that trains alone builds the manifest from its own part. Where several train together each has a part, and
one of them builds the manifest of all; what they do to get there is another `Committer`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

from spotrun.checkpoint.distributed.document import of_rank
from spotrun.checkpoint.naming import give_name, names_in
from spotrun.checkpoint.settings import Settings
from spotrun.checkpoint.tree import Flat
from spotrun.errors import SpotrunError, StoreError
from spotrun.policy.retention import Retention
from spotrun.store import BlobRef, BlobStore, CommitEntry, Lineage, Manifest, TensorRef
from spotrun.store.notice import with_notice
from spotrun.store.retention import Choice, Pruner
from spotrun.store.tag import tags_by_manifest

__all__ = ["Committer", "Part", "SoleCommitter", "choice_of", "metrics_logged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one process contributes to a checkpoint; all of its blobs are stored and found right.

    Attributes:
        document: the process's state as JSON, with its tensors named.
        tensors: where they lie; blobs are numbered as in `blobs`.
        captured_at: the step boundary whose state this is, in job time.
    """

    step: int
    document: Any
    blobs: tuple[BlobRef, ...]
    tensors: Mapping[str, TensorRef]
    fingerprint: Mapping[str, str]
    metrics: tuple[str, ...]
    captured_at: datetime
    on_notice: bool


class Committer(Protocol):
    """Makes parts into commits. Called by the saving thread."""

    @property
    def attempt(self) -> int:
        """The attempt that blobs are written for."""

    def share(self, flat: Flat, *, step: int | None) -> Flat:
        """What this process is to write of its state; called by the loop's thread when a save begins.

        Args:
            flat: the state of this process.
            step: the step that is saved; None if only the size matters, and nobody is to be asked.

        Raises:
            CheckpointError: another process is gone.
        """

    def withdraw(self, error: Exception) -> None:
        """The part of this process will not come, or its commit failed; never raises."""

    def commit(self, part: Part) -> CommitEntry:
        """Makes this part, with those of the other processes, the run's state; durable when it returns.

        Raises:
            Fenced: a newer attempt holds the run.
            CheckpointError: another process's part did not come.
            StoreError: the store failed.
        """

    def announce(self, deadline: datetime | None) -> None:
        """This machine may be gone at the deadline, which commits from now on tell; None if it may not any more."""

    def name(self) -> None:
        """Gives the last commit the names that its state asks for, and those before it what they still lack.

        Raises:
            SpotrunError: it could not; the commit stands.
        """

    def prune(self) -> None:
        """Removes what retention no longer keeps, after a commit.

        Raises:
            SpotrunError: it could not; the commit stands.
        """


class SoleCommitter:
    """The committer of a process that trains alone.

    Args:
        lineage: claimed.
        resumed_from: the step that this process started from, if it resumed.
    """

    def __init__(self, store: BlobStore, lineage: Lineage, settings: Settings, *, resumed_from: int | None) -> None:
        assert lineage.attempt is not None
        self.attempt = lineage.attempt
        self._store = store
        self._lineage = lineage
        self._settings = settings
        self._resumed_from = resumed_from
        self._pruner = Pruner(store, choice_of(store, settings))
        self._deadline: datetime | None = None
        self._nameless: list[tuple[CommitEntry, str]] = []

    def share(self, flat: Flat, *, step: int | None) -> Flat:  # noqa: ARG002
        """See `Committer.share`."""
        return flat

    def withdraw(self, error: Exception) -> None:
        """See `Committer.withdraw`."""

    def commit(self, part: Part) -> CommitEntry:
        """See `Committer.commit`."""
        manifest = Manifest(
            job=self._settings.job,
            attempt=self.attempt,
            writer=self._lineage.writer,
            step=part.step,
            captured_at=part.captured_at,
            blobs=part.blobs,
            tensors=dict(part.tensors),
            state=with_notice(part.document, self._deadline),
            fingerprint=dict(part.fingerprint),
            on_notice=part.on_notice,
            resumed_from=self._resumed_from,
            metrics=part.metrics,
            spotrun_version=_version(),
        )
        entry = self._lineage.commit(manifest, metrics=metrics_logged(part.document))
        self.ask_for_names(entry, part.document)
        return entry

    def ask_for_names(self, entry: CommitEntry, state: Any) -> None:
        """The names that a commit's state asks for are given by the next `name`."""
        self._nameless += [(entry, name) for name in names_in(state)]

    def announce(self, deadline: datetime | None) -> None:
        """See `Committer.announce`."""
        self._deadline = deadline

    def name(self) -> None:
        """See `Committer.name`."""
        asked, self._nameless = self._nameless, []
        failure: SpotrunError | None = None
        for entry, name in asked:
            try:
                give_name(self._store, name, entry, commits=self._lineage.commits, at=self._settings.clock.now())
            except SpotrunError as err:
                failure = err
                if isinstance(err, StoreError):
                    self._nameless.append((entry, name))
        if failure is not None:
            raise failure

    def prune(self) -> None:
        """See `Committer.prune`."""
        self._pruner.prune(self._lineage.commits)


@cache
def _version() -> str:
    return version("spotrun")


def choice_of(store: BlobStore, settings: Settings) -> Choice:
    """Which commits a run keeps, by its rules and the tags that are there when it is asked."""
    retention = settings.keep or Retention(last=settings.keep_last)

    def choose(there: Sequence[CommitEntry]) -> Collection[CommitEntry]:
        return retention.choose(there, tags=tags_by_manifest(store) if retention.tagged != "none" else {})

    return choose


def metrics_logged(document: Any) -> dict[str, float]:
    """The numbers that the training had logged when this state was captured."""
    document = of_rank(document, 0)
    logged = document.get("logged") if isinstance(document, dict) else None
    if not isinstance(logged, dict):
        return {}
    return {name: float(value) for name, value in logged.items() if type(value) in (int, float)}
