"""A store in this process's memory: the fake that tests and simulations use, held to the same contract."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from spotrun.errors import StoreMissing
from spotrun.store.digest import Part, scatter, size_of
from spotrun.store.key import checked

__all__ = ["MemoryStore"]


class MemoryStore:
    """A `BlobStore` in a dictionary; empty when made, gone with the object."""

    exclusive = True
    engine = "memory"

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        try:
            return self._objects[checked(key)][start:end]
        except KeyError:
            raise StoreMissing(key) from None

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        return scatter(self.read(key, start, start + size_of(memories)), memories)

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`."""
        data = b"".join(parts)
        with self._lock:
            self._objects[checked(key)] = data

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`; here False always means that the key was taken."""
        with self._lock:
            if checked(key) in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        with self._lock:
            return sorted(key for key in self._objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        with self._lock:
            self._objects.pop(checked(key), None)
