"""A store around another one: every call goes through one method, in which something is done about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from spotrun.store.blob import BlobStore
from spotrun.store.digest import Part

__all__ = ["StoreAround"]

_T = TypeVar("_T")


class StoreAround(ABC):
    """A `BlobStore` whose calls are those of the store inside, each made by `_around`.

    Args:
        inner: the store that does the work.
    """

    def __init__(self, inner: BlobStore) -> None:
        self.inner = inner

    @property
    def exclusive(self) -> bool:
        """Whether the store inside creates atomically among all writers; where not, two attempts may collide."""
        return bool(getattr(self.inner, "exclusive", True))

    @property
    def engine(self) -> str:
        """What moves the bytes of the store inside, as a person would say it."""
        return str(getattr(self.inner, "engine", type(self.inner).__name__))

    @property
    def vouches(self) -> bool:
        """Whether a write that returned needs no second look: the store has confirmed all bytes of it."""
        return bool(getattr(self.inner, "vouches", False))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See `BlobStore.read`."""
        return self._around("read", key, lambda: self.inner.read(key, start, end))

    def read_into(self, key: str, start: int, memories: Sequence[memoryview]) -> int:
        """See `BlobStore.read_into`."""
        return self._around("read", key, lambda: self.inner.read_into(key, start, memories))

    def write(self, key: str, parts: Sequence[Part]) -> None:
        """See `BlobStore.write`."""
        self._around("write", key, lambda: self.inner.write(key, parts))

    def create(self, key: str, data: bytes) -> bool:
        """See `BlobStore.create`; a second try finds the first one's object and says False."""
        return self._around("create", key, lambda: self.inner.create(key, data))

    def list(self, prefix: str) -> list[str]:
        """See `BlobStore.list`."""
        return self._around("list", prefix, lambda: self.inner.list(prefix))

    def delete(self, key: str) -> None:
        """See `BlobStore.delete`."""
        self._around("delete", key, lambda: self.inner.delete(key))

    @abstractmethod
    def _around(self, verb: str, key: str, call: Callable[[], _T]) -> _T:
        """Makes the call, once or as often as it takes."""
