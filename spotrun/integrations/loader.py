"""A loader that knows where it is, for trainers that iterate by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spotrun.checkpoint.feed import Feed
from spotrun.checkpoint.randomness import capture_global, restore_global
from spotrun.checkpoint.source import open_feed

__all__ = ["ResumableLoader"]


class ResumableLoader:
    """Wraps a loader so that a pass can be left in the middle and gone on with, by another process too.

    It keeps its place with `state_dict` and `load_state_dict`, which trainers call by themselves on any loader that has
    them. Unlike other loaders of this kind it also puts back the global randomness, at the one moment when that makes
    the next batch the one of an uninterrupted run: what is exact is what `spotrun.attach` promises for the same loader.

    Args:
        loader: what `Run.batches` takes: a `DataLoader`, a sequence of batches, a loader with a state of its own.
        replay: load the finished batches of a pass again, see `Run.batches`.

    Raises:
        NotCapturable: the position in this loader can neither be saved nor found again.
    """

    def __init__(self, loader: Any, *, replay: bool = False) -> None:
        self.loader = loader
        self._replay = replay
        self._passes = 0  # begun
        self._pass: _Pass | None = None
        self._saved: Mapping[str, Any] | None = None
        self.guarantee = open_feed(loader, replay=replay, epoch=0).guarantee

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not made yet, or being copied
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        saved = self._saved
        going_on = saved is not None and saved["feed"] is not None
        if saved is not None:
            self._passes = saved["passes"] - going_on
            restore_global(saved["randomness"])
        feed = open_feed(self.loader, replay=self._replay, epoch=self._passes)
        self._passes += 1
        if saved is None or not going_on:
            self._pass = _Pass(feed, feed.start(), self._begun, None)
        else:
            self._pass = _Pass(feed, feed.resume(saved["feed"]), self._begun, saved["randomness"])
        return self._pass

    def _begun(self) -> None:
        self._saved = None  # not before: trainers make iterators that they never use

    def state_dict(self) -> dict[str, Any]:
        """Where it is, between two batches, and the global randomness of this moment."""
        if self._saved is not None:  # loaded, and nothing was read since
            return dict(self._saved)
        going_on = self._pass is not None and not self._pass.is_over
        return {
            "passes": self._passes,
            "feed": self._pass.feed.capture() if self._pass is not None and going_on else None,
            "randomness": capture_global(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on from there; the global randomness is set when it gives its first batch."""
        self._saved = state


class _Pass:
    """One iteration. Batches count as finished when they are handed out: the trainer asks between two steps."""

    def __init__(
        self, feed: Feed, batches: Iterator[Any], begun: Callable[[], None], randomness: Mapping[str, Any] | None
    ) -> None:
        self.feed = feed
        self._batches = batches
        self._begun = begun
        self._randomness = randomness
        self._ended = False

    @property
    def is_over(self) -> bool:
        """Whether it has handed out its last batch."""
        return self._ended or self.feed.is_over

    def __iter__(self) -> _Pass:
        return self

    def __next__(self) -> Any:
        self._begun()
        if self._randomness is not None:
            restore_global(self._randomness)
            self._randomness = None
        try:
            batch = next(self._batches)
        except StopIteration:
            self._ended = True
            raise
        self.feed.consumed += 1
        return batch
