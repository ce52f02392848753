"""The lineage of a folder: the agent's hold on it, the newest whole commit, and new ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from spotrun.agent.config import AgentConfig
from spotrun.agent.folder.record import Record, decode_record
from spotrun.agent.folder.upload import Stored
from spotrun.clock import Clock
from spotrun.errors import CheckpointCorrupt, CheckpointError
from spotrun.job.spec import Checkpoint
from spotrun.policy.retention import Retention, retention_from_json
from spotrun.store import BlobStore, ClaimEntry, CommitEntry, DamagedEntry, Lineage, Manifest, read_manifest
from spotrun.store.log import Signing
from spotrun.store.notice import with_notice
from spotrun.store.retention import Choice, Pruner
from spotrun.store.signing import open_signing
from spotrun.store.tag import tags_by_manifest

__all__ = ["Commitment", "Custody"]


@dataclass(frozen=True, slots=True)
class Commitment:
    """A commit of a folder that can be read, all but its blobs."""

    entry: CommitEntry
    manifest: Manifest
    record: Record


class Custody:
    """Claims, reads, commits. `say` takes sentences for the log.

    The writer's name is not the instance's alone, which a script that attaches in the same attempt would write under: it
    must find the run taken, not take it over.
    """

    def __init__(self, config: AgentConfig, store: BlobStore, *, clock: Clock, say: Callable[[str], None]) -> None:
        self._config = config
        self._store = store
        self._say = say
        self._writer = f"{config.instance_id}/folder"
        checkpoint = config.spec.checkpoint
        assert checkpoint is not None
        self._lineage = Lineage(
            store, attempt=int(config.attempt), writer=self._writer, clock=clock, signing=_signing(config, checkpoint)
        )
        self._pruner = Pruner(store, _choice(store, checkpoint))
        self._resumed_from: int | None = None

    def claim(self) -> None:
        """Takes the run over; may be called again after a StoreError.

        Raises:
            Fenced: a newer attempt holds it.
            StoreError: the store failed.
        """
        self._lineage.claim()
        for entry in self._lineage.log:
            if isinstance(entry, DamagedEntry):
                self._say(f"{entry.error}; if it was a commit, the one before it is used")

    def newest(self, fetch: Callable[[Commitment], None]) -> Commitment | None:
        """The newest commit that `fetch` takes without finding damage; None if there never was one.

        Raises:
            CheckpointError: there are commits, but none can be read, or they are not of a folder.
            StoreError: the store failed.
        """
        damaged: list[CheckpointCorrupt] = []
        for entry in reversed(self._lineage.commits):
            try:
                manifest = read_manifest(self._store, entry)
                found = Commitment(entry, manifest, decode_record(manifest, entry))
                fetch(found)
            except CheckpointCorrupt as err:
                if not damaged or err.key != entry.manifest or "missing" not in err.reason:  # else pruned long ago
                    damaged.append(err)
                    self._say(f"{err}; an older commit is tried")
                continue
            self._resumed_from = entry.step
            return found
        if not damaged:
            return None
        raise CheckpointError(
            f"none of the {len(self._lineage.commits)} commits of this run can be read, and starting again from nothing is "
            "not for spotrun to decide. To do so, submit the job anew. What was found: "
            + "; ".join(str(err) for err in damaged)
        )

    def follows(self, found: Commitment) -> bool:
        """Whether the next commit comes right after this one, so that it may share its blobs."""
        return all(isinstance(entry, ClaimEntry) for entry in self._lineage.log[found.entry.seq :])

    @property
    def last_step(self) -> int | None:
        """The highest step of the commits known, None before the first."""
        return max((entry.step for entry in self._lineage.commits), default=None)

    def commit(
        self, stored: Stored, *, step: int, captured_at: datetime, on_notice: bool, deadline: datetime | None = None
    ) -> CommitEntry:
        """Makes a generation the run's state.

        Args:
            deadline: when the machine may be gone, if that is announced.

        Raises:
            Fenced, CheckpointCorrupt, StoreError: see `Lineage.commit`.
        """
        return self._lineage.commit(
            Manifest(
                job=self._config.job_id,
                attempt=int(self._config.attempt),
                writer=self._writer,
                step=step,
                captured_at=captured_at,
                blobs=stored.blobs,
                state=with_notice(stored.record.to_state(), deadline),
                on_notice=on_notice,
                resumed_from=self._resumed_from,
                spotrun_version=version("spotrun"),
            )
        )

    def prune(self) -> None:
        """Removes what is no longer kept, after a commit.

        Raises:
            SpotrunError: it could not; the commit stands.
        """
        self._pruner.prune(self._lineage.commits)


def _signing(config: AgentConfig, checkpoint: Checkpoint) -> Signing | None:
    if checkpoint.signing is None:
        return None
    where = checkpoint.signing.where()
    if "key_file" in where:  # as the command would find it
        where["key_file"] = str(config.work_directory / Path(where["key_file"]).expanduser())
    return open_signing(where, run=config.job_id, environment={**config.inherited, **config.spec.environment})


def _choice(store: BlobStore, checkpoint: Checkpoint) -> Choice:
    retention: Retention = retention_from_json(json.dumps(checkpoint.keep.model_dump(mode="json", exclude_none=True)))

    def choose(there: Sequence[CommitEntry]) -> Collection[CommitEntry]:
        return retention.choose(there, tags=tags_by_manifest(store) if retention.tagged != "none" else {})

    return choose
