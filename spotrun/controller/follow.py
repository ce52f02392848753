"""The read side for whatever shows jobs: what the journal and the store hold, without a word on how it looks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from spotrun.clock import Clock, SystemClock
from spotrun.controller.address import open_at, place_uri
from spotrun.controller.journal import Journal
from spotrun.controller.mailbox import Mailbox
from spotrun.errors import SpecError, StoreMissing
from spotrun.job import Heartbeat, Job, step
from spotrun.job.message import Place
from spotrun.store.blob import BlobStore

__all__ = ["Follower", "LogPiece", "MetricRow"]

POLL_S = 0.5  # between looks for more of a log that grows


@dataclass(frozen=True, kw_only=True, slots=True)
class LogPiece:
    """Some of the output of an attempt."""

    attempt: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRow:
    """One line of an attempt's metrics: `step`, `at` (job time, ISO) and the numbers the training logged."""

    attempt: int
    values: Mapping[str, object]


class Follower:
    """Reads jobs. Needs no controller and no lease; holds each job's fold, so that asking often is cheap.

    Args:
        journal: the jobs.
        home: the user's folder.
        open_store: a store at a URI, with options if the job has some.
        clock: for pauses while following; wall time.
    """

    def __init__(
        self, journal: Journal, home: Path, *, open_store: Callable[..., BlobStore], clock: Clock | None = None
    ) -> None:
        self._journal = journal
        self._home = home
        self._open_store = open_store
        self._clock = clock or SystemClock()
        self._folds: dict[str, tuple[int, Job]] = {}
        self._stores: dict[str, BlobStore] = {}

    def job(self, job_id: str) -> Job:
        """The job as its journal tells it now.

        Raises:
            SpecError: there is no such job.
            JournalError: it cannot be read.
        """
        known = self._folds.get(job_id)
        seq, job = known if known is not None else (0, None)
        for recorded in self._journal.events(job_id, after=seq):
            job, _ = step(job, recorded.event)
            seq = recorded.seq
        if job is None:
            known_ids = ", ".join(self._journal.jobs()[-5:]) or "none yet"
            raise SpecError(f"there is no job {job_id!r} in {self._journal.where}; the latest are: {known_ids}")
        self._folds[job_id] = (seq, job)
        return job

    def heartbeat(self, job_id: str) -> Heartbeat | None:
        """The latest beat of the job's live attempt; None if there is none.

        Raises:
            StoreError: the store cannot be read.
        """
        attempt = self.job(job_id).attempt
        return None if attempt is None else Mailbox(self._store(job_id)).heartbeat(attempt.number)

    def log(self, job_id: str, *, follow: bool = False, stop: threading.Event | None = None) -> Iterator[LogPiece]:
        """The output of all attempts, in order.

        With `follow`, goes on with what comes, across attempts, until the job is over and all is read, or `stop` is set.
        """
        for attempt, data in self._pieces(job_id, lambda place: f"{place.prefix}/log/", follow=follow, stop=stop):
            yield LogPiece(attempt=attempt, text=data.decode("utf-8", "replace"))

    def metrics(self, job_id: str, *, follow: bool = False, stop: threading.Event | None = None) -> Iterator[MetricRow]:
        """The metrics of all attempts, in order. A step done again after an interruption appears for both attempts.

        A line that a commit carried from one attempt to the next, because the first may not have shipped it, comes once.
        """
        seen: set[bytes] = set()
        pieces = self._pieces(job_id, lambda place: f"{place.prefix}/metrics/", follow=follow, stop=stop)
        for attempt, data in pieces:
            for line in data.splitlines():
                if line in seen:
                    continue
                seen.add(line)
                try:
                    values = json.loads(line)
                except (ValueError, RecursionError):
                    continue  # the training died in the middle of this line
                if isinstance(values, dict):
                    yield MetricRow(attempt=attempt, values=values)

    def _pieces(
        self, job_id: str, prefix: Callable[[Place], str], *, follow: bool, stop: threading.Event | None
    ) -> Iterator[tuple[int, bytes]]:
        """Objects under each attempt's prefix, once each, in the order of attempts and keys.

        The job is read before the store, so that a job found to be over has nothing left to write.
        """
        store = self._store(job_id)
        read: dict[int, str] = {}  # the last key given, by attempt
        first = 1
        while True:
            job = self.job(job_id)
            for attempt in job.attempts[first - 1 :]:
                for key in store.list(prefix(Place(attempt.number))):
                    if key > read.get(attempt.number, ""):
                        data = _read(store, key)
                        if data is None:
                            break
                        read[attempt.number] = key
                        yield attempt.number, data
                if not attempt.is_live:
                    first = attempt.number + 1
            if not follow or job.phase.is_end or (stop is not None and stop.is_set()):
                return
            self._clock.sleep(POLL_S)

    def _store(self, job_id: str) -> BlobStore:
        store = self._stores.get(job_id)
        if store is None:
            spec = self.job(job_id).spec
            store = open_at(place_uri(spec, job_id, self._home), spec, self._open_store)
            self._stores[job_id] = store
        return store


def _read(store: BlobStore, key: str) -> bytes | None:
    try:
        return store.read(key)
    except StoreMissing:
        return None
