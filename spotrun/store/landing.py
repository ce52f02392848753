"""Where the bytes of a ranged read are to go, and what a reply must say before any may go there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from spotrun.store.digest import size_of, views_of

__all__ = ["BadReply", "Landing"]

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)", re.ASCII)


class BadReply(OSError):
    """What came is not what was asked for; the next reply may be."""


class Landing:
    """Memories to be filled, one after the other, with an object's bytes from `start` on."""

    def __init__(self, start: int, memories: Sequence[memoryview]) -> None:
        self.start = start
        self.size = size_of(memories)
        self.views = views_of(memories)
        self.filled = 0

    @property
    def range(self) -> str:
        """The header that asks for it."""
        return f"bytes={self.start}-{self.start + self.size - 1}"

    def expected(self, status: int, headers: Mapping[str, str]) -> int:
        """How many bytes a reply brings, from what its status and headers (names in lower case) say.

        Raises:
            BadReply: they are of another range, or contradict each other.
        """
        self.filled = 0
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise BadReply("the server does not say how long its reply is")
        said = headers.get("content-range")
        if said is None:
            if status == 206 or self.start > 0 or int(length) > self.size:
                raise BadReply(f"asked for {self.range}, the server answered with {length} bytes of no range")
            return int(length)
        match = _RANGE.fullmatch(said)
        if match is None or int(match[1]) != self.start or int(match[2]) - self.start + 1 != int(length):
            raise BadReply(f"asked for {self.range}, the server answered with {length} bytes of {said[:60]!r}")
        whole = self.size if match[3] == "*" else min(self.size, int(match[3]) - self.start)
        if (int(length) != whole and match[3] != "*") or int(length) > self.size:
            raise BadReply(f"asked for {self.range}, the server answered with {length} bytes of {said[:60]!r}")
        return int(length)
