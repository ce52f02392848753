"""Saving: the snapshot is taken between two steps, and written while the training goes on.

    staging     the loop stands still: the rest becomes JSON, and tensors are copied to host memory, but for those
                that are known not to change before the next optimizer step; these follow behind (see `copying`)
    writing     threads of their own: blobs, each as soon as it is filled, each verified; the manifest; the log entry, which makes it a commit; pruning

At most one save is being written. What has gone wrong in the background is an `Outcome` with an error, for the loop
to act on at its next boundary; nothing half-written is ever visible.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import torch

from spotrun.checkpoint.commit import Committer, Part
from spotrun.checkpoint.copying import Copying, Gate, Later, Piece, pieces_of
from spotrun.checkpoint.garbage import uncollected
from spotrun.checkpoint.pack import Packing
from spotrun.checkpoint.recollection import Recollection, renewed
from spotrun.checkpoint.report import unshipped
from spotrun.checkpoint.sample import Sampling
from spotrun.checkpoint.sending import Sending
from spotrun.checkpoint.settings import Settings
from spotrun.checkpoint.staging import Staging
from spotrun.checkpoint.state import group_of
from spotrun.checkpoint.still import Stillness
from spotrun.checkpoint.tree import Flat, flatten
from spotrun.checkpoint.waiting import Waiting
from spotrun.errors import SpotrunError
from spotrun.job.message import Commit
from spotrun.store import BlobRef, BlobStore, CommitEntry

__all__ = ["Outcome", "Saver", "Snapshot"]

_NOTHING: Mapping[int, int] = {}
_SOON_BYTES = 8 << 20  # memory that is taken within a few milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A state on its way to become a commit; its tensors are in the saver's staging memory.

    Attributes:
        stall_s: how long the loop stood still for it, in job time.
    """

    step: int
    document: Any
    fingerprint: Mapping[str, str]
    metrics: tuple[str, ...]
    captured_at: datetime
    on_notice: bool
    stall_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a save ended: a commit, or an error. `naming` and `pruning` are what went wrong after the commit, if anything."""

    snapshot: Snapshot
    commit: Commit | None
    error: Exception | None
    took_s: float
    naming: Exception | None = None
    pruning: Exception | None = None


class Saver:
    """Writes snapshots for one run. Its methods are for the loop's thread alone.

    There is memory for one snapshot, and it is taken from `begin` until the outcome is there. So one save is in flight at
    most, and `begin` must not be called while `busy`: whoever wants another save keeps that wish, and begins with the
    state of the first boundary at which this one has ended. A slow store delays saves and takes no memory.

    Args:
        committer: makes a commit of what was written.
        known: blobs by digest that need not be uploaded again: those of the newest commit, if they were just read and
            found right.
    """

    def __init__(
        self, store: BlobStore, committer: Committer, settings: Settings, *, known: Mapping[str, BlobRef]
    ) -> None:
        self._store = store
        self._committer = committer
        self._settings = settings
        self._clock = settings.clock
        self._known = known
        self._packing = Packing(group_of)
        self._recollection = Recollection()
        self._tensors: Mapping[str, torch.Tensor] = {}
        self._sampling = Sampling()
        self._still = Stillness(lambda name: group_of(name) == "frozen")
        self._staging = Staging()
        self._waiting = Waiting()
        self._items: list[Later] = []
        self._pieces: list[Piece] = []
        self._gate = Gate()
        self._sending = Sending(store, committer.attempt, settings.clock)
        self._copying: Copying | None = None
        self._overlaps = True  # until a copy is found to show more than one moment
        self._prepared = False
        self._preparing: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self._outcome: Outcome | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is being written, or its outcome was not collected."""
        return self._thread is not None

    @property
    def preparing(self) -> bool:
        """Whether memory is being taken: a save that began now would stand still for it."""
        return self._preparing is not None and self._preparing.is_alive()

    def begin(self, tree: Mapping[str, Any], *, step: int, on_notice: bool,
              fingerprint: Mapping[str, str], since: float,
              steady: Callable[[Gate], Mapping[int, int]] | None = None) -> None:  # fmt: skip
        """Copies the state and starts to write it; returns as soon as the loop may go on.

        Args:
            tree: the state, with live tensors.
            since: the clock's `monotonic` at the boundary, from which on the loop stands still.
            steady: gives the tensors that may be copied later, sizes by address; None if there are none.

        Raises:
            NotCapturable: the state has grown something that cannot be saved.
        """
        assert not self.busy
        captured_at = self._clock.now()
        with uncollected():
            document = self._stage(tree, step=step, steady=steady)
        snapshot = Snapshot(
            step=step,
            document=document,
            fingerprint=fingerprint,
            metrics=unshipped(self._settings.scratch) if self._settings.in_job else (),
            captured_at=captured_at,
            on_notice=on_notice,
            stall_s=self._clock.monotonic() - since,
        )
        # Not a daemon: a process that ends while a save is being written waits for it. It is held until it was started:
        # a new thread that goes on at once keeps the interpreter from the one that trains for milliseconds.
        held = threading.Lock()
        self._thread = threading.Thread(target=self._run, args=(snapshot, held), name="spotrun-save", daemon=False)
        with held:
            self._thread.start()

    def collect(self, *, wait: bool) -> Outcome | None:
        """The outcome of the save that was being written, once it has ended; each outcome is given once."""
        if self._thread is None:
            return None
        self.settle()
        if not wait and self._thread.is_alive():
            return None
        self._thread.join()
        self._thread = None
        outcome, self._outcome = self._outcome, None
        return outcome

    def prepare(
        self, capture: Callable[[], Mapping[str, Any]], steady: Callable[[Gate], Mapping[int, int]] | None
    ) -> None:
        """Takes the memory for saves to come, once it is known how much; at a boundary of a loop, where there is `steady`.

        What can be found out for the first save is, so that it stalls no more than the others.
        """
        if self._prepared or steady is None or self.busy or not self._gate.is_known:
            return
        self._prepared = True
        with uncollected():
            flat = self._committer.share(flatten(capture(), recollection=self._recollection), step=None)
            new = self._renewed(flat)
            sample = self._sampling.take(flat.tensors, renewed=new)
            self._still.observe(flat.tensors, sample)
            plan = self._packing.plan(flat.tensors, renewed=new)
            self._waiting = self._waiting.renewed(
                flat.tensors, sample, steady(self._gate), self._staging.transfers, new
            )
        on_gpu = any(tensor.is_cuda for tensor in flat.tensors.values())
        if self._staging.size == 0 or on_gpu:
            reserve = partial(self._staging.reserve, plan, pinned=on_gpu)
            self._preparing = threading.Thread(target=reserve, name="spotrun-memory", daemon=False)
            self._preparing.start()
            if plan.size <= _SOON_BYTES:
                self._await_preparation()

    def announce(self, deadline: datetime | None) -> None:
        """This machine may be gone at the deadline: see `Committer.announce`."""
        self._committer.announce(deadline)

    def settle(self) -> None:
        """The loop is about to change what a copy that is under way still reads: completes it."""
        if self._copying is not None:
            self._copying.settle()

    def release(self) -> None:
        """Gives the staging memory back."""
        assert not self.busy
        self._await_preparation()
        self._gate.close()
        self._copying = None
        self._recollection, self._tensors = Recollection(), {}
        self._waiting, self._items, self._pieces = Waiting(), [], []
        self._staging.release()

    def _stage(
        self, tree: Mapping[str, Any], *, step: int, steady: Callable[[Gate], Mapping[int, int]] | None
    ) -> object:
        """Copies what must be copied now, and begins to copy the rest; gives the document."""
        flat = self._committer.share(flatten(tree, recollection=self._recollection), step=step)
        self._await_preparation()
        new = self._renewed(flat)
        sample = self._sampling.take(flat.tensors, renewed=new)
        self._still.observe(flat.tensors, sample)
        plan = self._packing.plan(flat.tensors, apart=self._still.apart, renewed=new)
        known = steady(self._gate) if steady and self._overlaps else _NOTHING
        self._waiting = self._waiting.renewed(flat.tensors, sample, known, self._staging.transfers, new)
        beside = set() if self._gate.is_recorded else self._waiting.beside
        later = self._waiting.later
        if beside:
            later = {name: address for name, address in later.items() if name not in beside}
        items = self._staging.fill(plan, flat.tensors, steady=later, beside=beside, renewed=new)
        if items is not self._items:
            self._items, self._pieces = items, pieces_of(items, self._staging)
        self._copying = Copying(
            items, self._pieces, sample, blobs=len(plan.layouts), target=self._staging, clock=self._clock
        )
        self._gate.hold(self._copying)
        return flat.document

    def _renewed(self, flat: Flat) -> list[str] | None:
        """The tensors that are not those of the last time, in the same memory; None if nearly all may be others."""
        new = renewed(self._tensors, flat.tensors)
        self._tensors = flat.tensors
        return new

    def _await_preparation(self) -> None:
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None

    def _run(self, snapshot: Snapshot, held: threading.Lock) -> None:
        with held:
            pass
        began = self._clock.monotonic()
        copying = self._copying
        assert copying is not None

        def took() -> float:
            return snapshot.stall_s + self._clock.monotonic() - began

        try:
            entry, new_bytes = self._write(snapshot, copying)
        except Exception as err:  # noqa: BLE001  the thread ends here; the error is the loop's now
            self._overlaps = self._overlaps and not copying.edited
            self._known = {}  # whatever it was, the next save trusts nothing that it did not write itself
            self._committer.withdraw(err)
            self._outcome = Outcome(snapshot, None, err, took())
            return
        commit = Commit(
            step=entry.step,
            at=entry.at,
            captured_at=snapshot.captured_at,
            stall_s=snapshot.stall_s + copying.waited_s,
            size_bytes=entry.size,
            new_bytes=new_bytes,
            on_notice=entry.on_notice,
        )
        pruning: Exception | None = None
        duration = took()
        naming = _attempt(self._committer.name)
        if not snapshot.on_notice:  # then every second counts; the next save prunes
            pruning = _attempt(self._committer.prune)
        self._outcome = Outcome(snapshot, commit, None, duration, naming, pruning)

    def _write(self, snapshot: Snapshot, copying: Copying) -> tuple[CommitEntry, int]:
        """Makes a commit of the snapshot; gives it, and how many bytes were stored for it."""
        plan = self._packing.last
        blobs = self._sending.send(self._staging, copying, known=self._known, urgent=snapshot.on_notice)
        copying.check()
        part = Part(
            step=snapshot.step,
            document=snapshot.document,
            blobs=tuple(blobs),
            tensors=plan.refs(),
            fingerprint=snapshot.fingerprint,
            metrics=snapshot.metrics,
            captured_at=snapshot.captured_at,
            on_notice=snapshot.on_notice,
        )
        entry = self._committer.commit(part)
        held = {blob.key for blob in self._known.values()}
        self._known = {blob.digest: blob for blob in blobs}
        return entry, sum(blob.size for blob in blobs if blob.key not in held)


def _attempt(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except SpotrunError as err:
        return err
    return None
