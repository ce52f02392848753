"""The blobs of a snapshot on their way to the store: hashed and sent, each as soon as its part of the copy is there.

How many are sent at a time follows from how fast one went in the save before. Where processors are what is short (a
fast disk, a server next door) a few threads do, and more would take turns with each other and with the training. Where
each connection is slow, as on S3, many are needed, and they cost nothing because they wait.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Mapping

from spotrun.checkpoint.copying import Copying
from spotrun.checkpoint.staging import Staging
from spotrun.clock import Clock
from spotrun.store import BlobRef, BlobStore, write_blob
from spotrun.store.digest import digest_of
from spotrun.store.parallel import in_parallel, step_back

__all__ = ["Sending"]

_SENDERS_MIN, _SENDERS_MAX = 4, 16
_SENDERS_UNKNOWN = 8  # before anything was sent
_FAST_BYTES_PER_S = 1.4e9  # what all together should reach: more than the networks of most machines carry
_RATE_FROM_BYTES = 1 << 20  # smaller blobs are all latency
_HASHERS = 1  # at a time: one is nearly as fast as the memory, and the other processors train


class Sending:
    """Sends the blobs of one snapshot after the other.

    Args:
        attempt: the attempt that blobs are written for.
    """

    def __init__(self, store: BlobStore, attempt: int, clock: Clock) -> None:
        self._store = store
        self._attempt = attempt
        self._clock = clock
        self._hashing = threading.BoundedSemaphore(_HASHERS)
        self._senders = _SENDERS_UNKNOWN

    def send(self, staging: Staging, copying: Copying, *, known: Mapping[str, BlobRef], urgent: bool) -> list[BlobRef]:
        """Completes the copy and stores what it consists of; returns the blobs in their order.

        Args:
            known: blobs by digest that need not be stored again.
            urgent: the training does not go first where processors are short.

        Raises:
            StoreError: the store failed.
        """
        parts = staging.parts()
        rates: list[float] = []

        def store(number: int) -> BlobRef:
            copying.wait_for(number)
            digest = staging.digest(number)
            if digest is None:
                with self._hashing:
                    digest = digest_of([parts[number]], threads=1)
                staging.note(number, digest)
            since = self._clock.monotonic()
            blob = write_blob(self._store, self._attempt, [parts[number]], known=known, digest=digest)
            if digest not in known and blob.size >= _RATE_FROM_BYTES:
                rates.append(blob.size / max(self._clock.wall(self._clock.monotonic() - since), 1e-6))
            return blob

        def copy() -> None:
            copying.work()  # not behind the training, which may soon wait for it
            if not urgent:
                step_back()

        enter = None if urgent else step_back
        blobs = in_parallel(store, len(parts), threads=self._senders, first=copy, enter=enter)
        if rates:
            needed = math.ceil(_FAST_BYTES_PER_S / statistics.median(rates))
            self._senders = min(max(needed, _SENDERS_MIN), _SENDERS_MAX)
        return blobs
