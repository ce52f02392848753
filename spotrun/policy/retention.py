"""Which commits to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["KeepLast"]

_Commit = TypeVar("_Commit")


@dataclass(frozen=True, slots=True)
class KeepLast:
    """The newest commits; with two or more there is one to fall back to if the newest is found damaged."""

    last: int

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ValueError(f"at least the newest commit must be kept, not {self.last}")

    def kept(self, commits: Sequence[_Commit]) -> tuple[_Commit, ...]:
        """Those to keep of these, which are in order, oldest first."""
        return tuple(commits[-self.last :])
