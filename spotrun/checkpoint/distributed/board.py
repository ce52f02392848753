"""Short messages between the processes of one training, through the key-value store that they met at.

Everything is JSON; nothing is pickled, so a process that was taken over can mislead the others, but not run code in
them. Each process shows by a beat that it lives. Whoever waits for a message looks at the beat of its sender: a process
that died strands nobody for longer than `silence_s`, and one that works for long is waited for as long as it lives.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from spotrun.clock import Clock, SystemClock
from spotrun.errors import CheckpointError

__all__ = ["Board", "Place"]

_BEAT_S = 1.0  # wall time between two signs of life
_LOOK_S = (0.002, 0.1)  # wall time between looks for a message: at first, and after a while
_LONGEST_S = 6 * 3600.0  # wall time that anything is waited for, however alive its sender: the slowest upload
_PIECE_CHARACTERS = 512 << 10  # of a message; stores have limits of their own


@dataclass(frozen=True, slots=True)
class Place:
    """This process's number among those that train together."""

    rank: int
    world: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that claims and commits."""
        return self.rank == 0


class Board:
    """Messages by key. Thread-safe, except that a key is posted once.

    Args:
        store: torch's key-value store, with a prefix of this training's own.
        silence_s: wall time without a beat after which a process counts as dead.
    """

    def __init__(
        self, store: dist.distributed_c10d.Store, place: Place, *, silence_s: float, wall: Clock | None = None
    ) -> None:
        self.place = place
        self.silence_s = silence_s
        self._store = store
        self._wall = wall or SystemClock()
        self._ended = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._keep_beating, name="spotrun-beat", daemon=True)
        self._thread.start()

    def post(self, key: str, message: Any) -> None:
        """Shows a message to all.

        Raises:
            CheckpointError: the store is gone, with the process that held it.
        """
        data = json.dumps(message, separators=(",", ":"))  # ASCII
        pieces = [data[start : start + _PIECE_CHARACTERS] for start in range(0, len(data), _PIECE_CHARACTERS)]
        with _translated("could not be told to the others"):
            for number, piece in enumerate(pieces):
                self._store.set(f"{key}/{number}", piece)
            self._store.set(key, str(len(pieces)))

    def fetch(self, key: str, *, sender: int, what: str) -> Any:
        """The message under `key`, once it is there.

        Args:
            sender: whose message it is.
            what: what it is, for the error.

        Raises:
            CheckpointError: its sender is dead or has left, or the store is gone.
        """
        began = self._wall.monotonic()
        beat, heard, pause = b"", began, _LOOK_S[0]
        while not self._is_there(key, what):
            now = self._wall.monotonic()
            if pause >= _LOOK_S[1] or now - heard > self.silence_s:  # it takes long: is anybody there?
                # Asked for first: reading what is not there would hold the store, also against the training.
                fresh = self._read(f"beat/{sender}", what) if self._is_there(f"beat/{sender}", what) else b""
                if fresh != beat:
                    beat, heard = fresh, now
                if self._is_there(f"left/{sender}", what) and not self._is_there(key, what):
                    why = self._read(f"left/{sender}", what).decode()
                    raise CheckpointError(f"{what} did not come: rank {sender} has left ({why})")
            if now - heard > self.silence_s or now - began > _LONGEST_S:
                raise CheckpointError(
                    f"{what} did not come: rank {sender} has shown no sign of life for {now - heard:.0f} s"
                )
            self._wall.sleep(pause)
            pause = min(pause * 1.5, _LOOK_S[1])
        count = int(self._read(key, what))
        return json.loads(b"".join(self._read(f"{key}/{number}", what) for number in range(count)))

    def has(self, keys: Sequence[str]) -> bool:
        """Whether there is something under each of these keys; does not wait.

        Raises:
            CheckpointError: the store is gone.
        """
        with _translated("nothing could be heard of the others"):
            return bool(self._store.check(list(keys)))

    def decide(self, key: str, proposal: str) -> str:
        """What the first one to decide has proposed.

        Raises:
            CheckpointError: the store is gone.
        """
        with _translated("nothing could be decided"):
            return bytes(self._store.compare_set(key, "", proposal)).decode()

    def drop(self, key: str) -> None:
        """Forgets a message that all have read; never raises."""
        with contextlib.suppress(RuntimeError, ValueError):  # of a store that is gone, or that cannot forget
            if self._store.check([key]):
                for number in range(int(self._store.get(key))):
                    self._store.delete_key(f"{key}/{number}")
                self._store.delete_key(key)

    def leave(self, why: str) -> None:
        """Says that nothing more will come from this process; never raises."""
        if not self._ended.is_set():
            self._ended.set()
            with contextlib.suppress(RuntimeError):
                self._store.set(f"left/{self.place.rank}", why)

    def _is_there(self, key: str, what: str) -> bool:
        with _translated(f"{what} did not come"):
            return bool(self._store.check([key]))

    def _read(self, key: str, what: str) -> bytes:
        with _translated(f"{what} did not come"):
            return bytes(self._store.get(key))

    def _keep_beating(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: so is the training, as its own calls will tell
            while not self._ended.wait(_BEAT_S):
                self._beat()

    def _beat(self) -> None:
        self._store.set(f"beat/{self.place.rank}", f"{self._wall.monotonic()}")


@contextlib.contextmanager
def _translated(what: str) -> Any:
    try:
        yield
    except RuntimeError as err:  # torch's DistError is one
        reason = next(iter(str(err).splitlines()), "")[:200]
        raise CheckpointError(f"{what}: the processes' key-value store is gone ({reason})") from err
