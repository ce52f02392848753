"""A writer's hold on a job's lineage: the thin shell around `spotrun.store.protocol`."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from math import isfinite

from spotrun.clock import Clock
from spotrun.errors import CheckpointCorrupt, CheckpointError, Fenced, StoreError, StoreUnavailable
from spotrun.store.blob import BlobStore
from spotrun.store.digest import digest_of
from spotrun.store.key import ATTEMPT_MAX, attempt_of, blob_prefix, log_key, manifest_key
from spotrun.store.log import (
    METRICS_MAX,
    NAME_MAX,
    CommitEntry,
    DamagedEntry,
    Entry,
    Signing,
    encode_entry,
    list_log,
    read_entries,
)
from spotrun.store.manifest import MANIFEST_BYTES_MAX, Manifest
from spotrun.store.protocol import (
    Claimed,
    Claiming,
    Committed,
    Committing,
    Create,
    Created,
    Doubtful,
    Listed,
    Listing,
    Me,
    Outcome,
    ReadEntries,
    Reading,
    Reply,
    Request,
    Superseded,
    Turn,
)

__all__ = ["Lineage"]

_TURNS_MAX = 1000  # of one claim or commit; more means that others keep taking every next number
_WRITER_CHARACTERS_MAX = 256


class Lineage:
    """One writer of one job's lineage. Thread-safe; operations wait for each other.

    Args:
        store: the job's place.
        attempt: the attempt's number, or None for the newest in the log plus one.
        writer: names this process in the log. A process that comes back with the same attempt *and* the same writer
            takes over from itself; another writer with the same attempt is refused.
        clock: dates the entries; nothing depends on it.
        signing: signs what is written, and entries that the run's key did not sign count as damaged.
    """

    def __init__(
        self, store: BlobStore, *, attempt: int | None, writer: str, clock: Clock, signing: Signing | None = None
    ) -> None:
        if attempt is not None and not 1 <= attempt <= ATTEMPT_MAX:
            raise ValueError(f"attempts are numbered from 1 to {ATTEMPT_MAX}, not {attempt}")
        if not 0 < len(writer) <= _WRITER_CHARACTERS_MAX or not writer.isprintable():
            raise ValueError(f"a writer is 1 to {_WRITER_CHARACTERS_MAX} printable characters, not {writer!r}")
        self.attempt = attempt
        self.writer = writer
        self._store = store
        self._clock = clock
        self._signing = signing
        self._token = secrets.token_hex(16)
        self._log: tuple[Entry, ...] = ()
        self._claimed = False
        self._stopped: Callable[[], Exception] | None = None
        self._lock = threading.Lock()

    @property
    def log(self) -> tuple[Entry, ...]:
        """The log as far as this writer knows it, oldest first, its own commits included."""
        return self._log

    @property
    def commits(self) -> tuple[CommitEntry, ...]:
        """The readable commits of `log`, oldest first."""
        return tuple(entry for entry in self._log if isinstance(entry, CommitEntry))

    def claim(self) -> tuple[CommitEntry, ...]:
        """Takes the run over from whoever held it, and returns its commits, oldest first.

        May be called again after a `StoreError`, and does nothing when the run is ours already.

        Raises:
            Fenced: a newer attempt, or another process of this one, has claimed the run.
            CheckpointError: not one entry of the log was signed with our key; nothing was written.
            StoreError: the store failed, or it overwrites where it should create, which would let two attempts write.
        """
        with self._lock:
            self._go_on()
            if not self._claimed:
                me = Me(self.attempt, self.writer, self._token)
                outcome = self._drive(Claiming(me, self._clock.now(), self._log).start())
                assert isinstance(outcome, Claimed)
                line = encode_entry(outcome.claim, signing=self._signing)
                self._refuse_overwriting(line, log_key(outcome.claim.seq))
                self._log, self.attempt, self._claimed = outcome.log, outcome.claim.attempt, True
            return self.commits

    def commit(self, manifest: Manifest, *, metrics: Mapping[str, float] | None = None) -> CommitEntry:
        """Makes a checkpoint the run's state, and returns once that is visible and durable.

        After a `StoreError` it is unknown whether it became visible; calling it again with the same manifest, or with
        a later one, is safe. All blobs must have been written by `write_blob` or be named by the newest commit.

        Args:
            metrics: numbers that the training had logged by then, for the rules of retention; those that are not
                finite, and more than an entry may have, are left out.

        Raises:
            Fenced: another writer holds the run; every later call says the same.
            CheckpointCorrupt: a blob of the manifest is not in the store; or, for good, the next entry of the log is
                damaged and may be another's claim.
            StoreError: the store failed.
        """
        with self._lock:
            self._go_on()
            if not self._claimed or self.attempt is None:
                raise ValueError("claim the run before committing to it")
            if (manifest.attempt, manifest.writer) != (self.attempt, self.writer):
                raise ValueError(f"a manifest of {manifest.writer}, attempt {manifest.attempt}, is not ours to commit")
            self._find_blobs(manifest)
            data = manifest.to_bytes()
            entry = CommitEntry(
                seq=len(self._log) + 1,
                attempt=self.attempt,
                writer=self.writer,
                token=self._token,
                at=self._clock.now(),
                step=manifest.step,
                manifest=self._write_manifest(manifest, data),
                manifest_size=len(data),
                digest=digest_of([data]),
                size=manifest.size,
                on_notice=manifest.on_notice,
                metrics=_few(metrics or {}),
            )
            outcome = self._drive(Committing(entry, self._log).start())
            assert isinstance(outcome, Committed)
            self._log = outcome.log
            return outcome.entry

    def _go_on(self) -> None:
        if self._stopped is not None:
            raise self._stopped()

    def _drive(self, turn: Turn) -> Outcome:
        for _ in range(_TURNS_MAX):
            machine, then = turn
            match then:
                case Listing() | Reading() | Create():
                    turn = machine.take(self._answer(then))
                case Superseded(attempt, by):
                    self._stopped = lambda: Fenced(attempt, by.attempt, by.writer)
                    raise self._stopped()
                case Doubtful(entry):
                    self._stopped = lambda: _doubt(entry)
                    raise self._stopped()
                case _:
                    return then
        raise StoreUnavailable(f"the log did not come to rest in {_TURNS_MAX} turns: is something else writing to it?")

    def _answer(self, request: Request) -> Reply:
        match request:
            case Listing():
                present = list_log(self._store)
                return Listed(present[-1] if present else 0)
            case Reading(seqs):
                entries = read_entries(self._store, seqs, signing=self._signing)
                self._refuse_foreign(seqs, entries)
                return ReadEntries(entries)
            case Create(entry):
                line = encode_entry(entry, signing=self._signing)
                return Created(self._store.create(log_key(entry.seq), line))

    def _refuse_foreign(self, seqs: tuple[int, ...], entries: tuple[Entry, ...]) -> None:
        """A log of which nothing is believed would look like a run that never began, which it is not."""
        damaged = [entry for entry in entries if isinstance(entry, DamagedEntry)]
        if seqs[0] == 1 and len(damaged) == len(entries) and any(entry.refused for entry in damaged):
            raise CheckpointError(
                f"none of the {len(entries)} entries of this run's log was signed with the key that is configured, so "
                f"nothing of it is believed and nothing was written ({damaged[0].reason}). Configure the key that the "
                "run was begun with, or give the run another name to train anew"
            )

    def _refuse_overwriting(self, line: bytes, key: str) -> None:
        """Some servers that speak S3 ignore the condition; creating our own entry again, unchanged, tells."""
        if self._store.create(key, line):
            raise StoreError(
                "this store ignores 'create only if absent' and overwrites instead, so two attempts could both write "
                "to one run; use AWS S3, a server with conditional writes, or a file system"
            )

    def _find_blobs(self, manifest: Manifest) -> None:
        prefixes = {blob_prefix(attempt) for blob in manifest.blobs if (attempt := attempt_of(blob.key)) is not None}
        present = {key for prefix in sorted(prefixes) for key in self._store.list(prefix)}
        for blob in manifest.blobs:
            if blob.key not in present:
                raise CheckpointCorrupt(blob.key, "it is not in the store, so the checkpoint cannot be committed")

    def _write_manifest(self, manifest: Manifest, data: bytes) -> str:
        if len(data) > MANIFEST_BYTES_MAX:
            raise StoreError(f"a manifest of {len(data)} bytes is more than the {MANIFEST_BYTES_MAX} that may be read")
        key = manifest_key(manifest.step, manifest.attempt)
        if not self._store.create(key, data) and self._store.read(key) != data:  # else the reply to it was lost
            raise StoreError(f"{key} was taken by another manifest, which cannot be; nothing was committed")
        return key


def _few(metrics: Mapping[str, float]) -> dict[str, float]:
    finite = {name: float(value) for name, value in metrics.items() if len(name) <= NAME_MAX and isfinite(value)}
    return dict(sorted(finite.items())[:METRICS_MAX])


def _doubt(entry: DamagedEntry) -> CheckpointCorrupt:
    return CheckpointCorrupt(
        entry.key,
        f"{entry.reason}. It may be the claim of another attempt, so this process stops writing; a new attempt "
        "goes on from the last commit that can be read",
    )
