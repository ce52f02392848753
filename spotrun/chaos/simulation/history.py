"""What happened in a world, line by line: to be read when something is wrong, and to be compared with a second run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import datetime

__all__ = ["History"]

_NONCE = re.compile(r"-[0-9a-f]{8}(?=\.json|$)")  # of a key, drawn from the system's randomness


class History:
    """Kept only if asked for: most worlds are never looked at again.

    Args:
        now: the true time.
        keeps: whether lines are kept.
    """

    def __init__(self, now: Callable[[], datetime], *, keeps: bool) -> None:
        self._now = now
        self._keeps = keeps
        self._told: list[tuple[datetime, str, str, str]] = []

    def add(self, who: str, what: str, outcome: str = "") -> None:
        """Adds a line."""
        if self._keeps:
            self._told.append((self._now(), who, what, outcome))

    @property
    def lines(self) -> list[str]:
        """All of it, for people."""
        return [
            f"{at:%d %H:%M:%S.%f} {who:12} {_NONCE.sub('', what)} {outcome}".rstrip()
            for at, who, what, outcome in self._told
        ]

    @property
    def digest(self) -> str:
        """Two runs with the same digest are the same run."""
        told = [(at.timestamp(), who, _NONCE.sub("", what), outcome) for at, who, what, outcome in self._told]
        return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()
