"""A witness of a process's calls to its store: told before and after each one, and may end the process there.

This is how the resilience harness interrupts a training at an exact moment without a line of its own in the training.
The process announces where it is and waits for the answer, so whoever listens can kill it just there, from outside and
with a real signal. Looking at files from outside would be a fifth of a second too coarse for that, and a store with
faults of its own inside the process would bring the harness into the training. Who listens is not known here: a Unix
socket takes lines of text and answers each with one byte. Without a listener nothing is announced and nothing waits.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from spotrun.store.around import StoreAround
from spotrun.store.blob import BlobStore

__all__ = ["Answer", "Witness", "WitnessedStore"]

_T = TypeVar("_T")


class Answer(str, Enum):
    """What a witness says to an announcement."""

    GO = "g"
    SAVE = "s"  # save at this boundary, behind the next step
    COMMIT = "c"  # save at this boundary, and go on once that is committed
    LOOK = "l"  # write down what is in memory; only the harness's own announcements are answered so


class Witness:
    """Tells one listener where the process is, one announcement at a time from whatever thread.

    Args:
        path: the listener's Unix socket; empty for nobody. A listener that is not there, or goes away, is nobody.
    """

    def __init__(self, path: str = "") -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        if path:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(path)
            except OSError:
                connection.close()
            else:
                self._socket = connection

    @property
    def listens(self) -> bool:
        """Whether there is a listener."""
        return self._socket is not None

    def tell(self, where: str) -> Answer:
        """Announces a moment and waits for the answer."""
        if self._socket is None:
            return Answer.GO
        with self._lock:
            try:
                self._socket.sendall(f"{where}\n".encode())
                said = self._socket.recv(1)
            except OSError:
                said = b""
            if said:
                return Answer(said.decode("ascii"))
            self.close()
        return Answer.GO

    def close(self) -> None:
        """Ends the connection; what is told later is told to nobody."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class WitnessedStore(StoreAround):
    """A `BlobStore` whose calls are announced: `before write blobs/...`, then `after write blobs/...`."""

    def __init__(self, inner: BlobStore, witness: Witness) -> None:
        super().__init__(inner)
        self._witness = witness

    def _around(self, verb: str, key: str, call: Callable[[], _T]) -> _T:
        self._witness.tell(f"before {verb} {key}")
        result = call()
        self._witness.tell(f"after {verb} {key}")
        return result
