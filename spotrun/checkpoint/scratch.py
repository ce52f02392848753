"""Bounded memory through which bytes pass on their way to where they cannot be read straight into."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

__all__ = ["Scratch", "Scratches"]

_BYTES = 8 << 20  # for each thread that reads: a few chunks
_ALIGNMENT = 64


class Scratch:
    """One thread's scratch memory: pieces are taken one after the other, and given back all at once."""

    def __init__(self, *, pinned: bool) -> None:
        self._memory = torch.empty(_BYTES, dtype=torch.uint8, pin_memory=pinned)
        self._stream = torch.cuda.Stream() if pinned else None  # type: ignore[no-untyped-call]
        self._taken = 0

    def has(self, size: int) -> bool:
        """Whether `take(size)` would work."""
        return self._taken + size <= _BYTES

    def take(self, size: int) -> torch.Tensor:
        """A piece, aligned for every dtype; its content is undefined."""
        assert self.has(size)
        piece = self._memory[self._taken : self._taken + size]
        self._taken = -(-(self._taken + size) // _ALIGNMENT) * _ALIGNMENT
        return piece

    @contextlib.contextmanager
    def side_stream(self) -> Iterator[None]:
        """Copies to a GPU inside of this run beside what else it does, and are done when it ends."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.default_stream())  # fresh memory may be in use there still
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def reset(self) -> None:
        """Takes all pieces back."""
        self._taken = 0


class Scratches:
    """Scratch memory of all threads that read; as much as are at work at once, kept from blob to blob.

    Args:
        pinned: whether copies to a GPU go out of it.
    """

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._free: list[Scratch] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[Scratch]:
        """Scratch memory for the caller alone."""
        with self._lock:
            scratch = self._free.pop() if self._free else None
        scratch = scratch or Scratch(pinned=self._pinned)
        try:
            yield scratch
        finally:
            scratch.reset()
            with self._lock:
                self._free.append(scratch)
