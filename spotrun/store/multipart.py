"""How a large object is cut into parts that go up side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["part_size", "pieces"]

_MIB = 1 << 20
_PART_BYTES_MIN = 16 * _MIB  # below that, a request's own cost shows
_PART_BYTES_MAX = 64 * _MIB  # what a cut connection may cost
_PARTS_MAX = 10_000  # S3's limit


def part_size(size: int, connections: int) -> int:
    """Bytes of each part but the last: such that all connections have work, within what S3 allows."""
    even = -(-size // connections)
    wanted = min(max(even, _PART_BYTES_MIN), _PART_BYTES_MAX)
    least = -(-size // _PARTS_MAX)
    return -(-max(wanted, least) // _MIB) * _MIB


def pieces(views: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The views' bytes in pieces of `size`, the last one shorter; each piece as views, without copying."""
    piece: list[memoryview] = []
    room = size
    for view in views:
        start = 0
        while start < len(view):
            taken = view[start : start + room]
            piece.append(taken)
            start += len(taken)
            room -= len(taken)
            if room == 0:
                yield piece
                piece, room = [], size
    if piece:
        yield piece
