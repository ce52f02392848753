"""Digests: BLAKE3 of what is stored, as 64 hexadecimal digits."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

__all__ = ["Part", "digest_of", "scatter", "size_of", "views_of"]

Part = bytes | memoryview

_THREADS_FROM_BYTES = 1 << 20  # below this, threads cost more than they give


def views_of(parts: Sequence[Part]) -> list[memoryview]:
    """The parts as views of single bytes, without copying; empty ones left out.

    Raises:
        TypeError: a part is a view of memory that is not contiguous.
    """
    views = [part if isinstance(part, memoryview) else memoryview(part) for part in parts]
    return [view if view.format == "B" and view.ndim == 1 else view.cast("B") for view in views if view.nbytes]


def size_of(parts: Sequence[Part]) -> int:
    """How many bytes the parts hold together."""
    return sum(len(part) if isinstance(part, bytes) else part.nbytes for part in parts)


def digest_of(parts: Sequence[Part], *, threads: int | None = None) -> str:
    """The digest of the parts' concatenation.

    Args:
        threads: that compute it; None for as many as are worth it.
    """
    if threads is None:
        threads = blake3.AUTO if size_of(parts) >= _THREADS_FROM_BYTES else 1
    digest = blake3(max_threads=threads)
    for view in views_of(parts):
        digest.update(view)
    return digest.hexdigest()


def scatter(data: bytes, memories: Sequence[memoryview]) -> int:
    """Copies `data` into writable memories, one after the other; tells how many bytes there were room for."""
    view, filled = memoryview(data), 0
    for memory in views_of(memories):
        piece = view[filled : filled + len(memory)]
        memory[: len(piece)] = piece
        filled += len(piece)
    return filled
