"""The documents through which controller and agent talk, in the job's place in the store."""

from __future__ import annotations

from typing import TypeVar

from spotrun.errors import StoreMissing
from spotrun.job import Control, Exit, Heartbeat
from spotrun.job.message import Place, parse
from spotrun.store.blob import BlobStore

__all__ = ["Mailbox"]

_DOCUMENT_BYTES_MAX = 1 << 20  # they are a few kilobytes; the bound keeps a broken one out of memory

_D = TypeVar("_D", Heartbeat, Exit)


class Mailbox:
    """Reads what agents say, writes what they are told. Every method may raise StoreError."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def heartbeat(self, attempt: int) -> Heartbeat | None:
        """The attempt's latest beat; None before the first, and for one that is torn or of another attempt."""
        return self._read(Heartbeat, Place(attempt).heartbeat, attempt)

    def exit(self, attempt: int) -> Exit | None:
        """The attempt's last word, if it has been said."""
        return self._read(Exit, Place(attempt).exit, attempt)

    def tell(self, control: Control) -> None:
        """Replaces what the attempt is told."""
        self._store.write(Place(control.attempt).control, [control.to_bytes()])

    def _read(self, kind: type[_D], key: str, attempt: int) -> _D | None:
        try:
            document = parse(kind, self._store.read(key, 0, _DOCUMENT_BYTES_MAX))
        except StoreMissing:
            return None
        return document if document is not None and document.attempt == attempt else None
