"""An endless source of batches beside the loop, for `next()`: in loops of one's own, and for a second loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from spotrun.checkpoint.feed import Feed
from spotrun.checkpoint.randomness import capture_global, restore_global

__all__ = ["Stream"]

_T = TypeVar("_T")


class Stream(Generic[_T]):
    """Batches without end. Made by `run.stream`; its place is part of the run's state.

    Args:
        saved: where a commit left it; None to begin at the beginning.
    """

    def __init__(self, feed: Feed, saved: Mapping[str, Any] | None) -> None:
        self._feed = feed
        feed.interleaved = True
        self._batches: Iterator[_T] | None = None
        if saved is not None:
            # At once, and not when the first batch is asked for: generators that it shares with others are set here.
            now = capture_global()
            self._batches = feed.resume(saved)
            restore_global(now)

    @property
    def feed(self) -> Feed:
        """The pass that it goes through."""
        return self._feed

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        if self._batches is None:
            self._batches = self._feed.start()
        batch = next(self._batches)
        self._feed.consumed += 1
        return batch
