"""Passes made of other passes: several loaders side by side, and one loader again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spotrun.checkpoint.feed import EXACT, Feed
from spotrun.errors import CheckpointError

__all__ = ["Endlessly", "Together"]


class Together(Feed):
    """Several loaders side by side, as `zip` goes through them: it ends with the shortest.

    Args:
        feeds: one for each loader.
    """

    kind = "several loaders"

    def __init__(self, feeds: Sequence[Feed]) -> None:
        super().__init__(tuple(feed.loader for feed in feeds))
        self._feeds = feeds
        self.keeps_state = any(feed.keeps_state for feed in feeds)
        for feed in feeds:
            feed.interleaved = True
        self._gather()

    @property
    def length(self) -> int | None:
        lengths = [feed.length for feed in self._feeds if feed.length is not None]
        return min(lengths) if lengths else None

    @property
    def in_workers(self) -> bool:
        return any(feed.in_workers for feed in self._feeds)

    def start(self) -> Iterator[Any]:
        return zip(*[feed.start() for feed in self._feeds])  # noqa: B905  the shortest ends it

    def resume(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        was = len(saved["inner"]) if saved["kind"] == self.kind else 1
        if was != len(self._feeds):
            raise CheckpointError(
                f"the run stopped in the middle of a pass over {was} loaders, and is given {len(self._feeds)} now. "
                "Give the same loaders until the pass is over."
            )
        self.consumed = saved["consumed"]
        parts = zip(self._feeds, saved["inner"], strict=True)
        return zip(*[feed.resume(part) for feed, part in parts])  # noqa: B905

    def capture(self) -> dict[str, Any]:
        captured = super().capture()
        self._gather()
        return captured

    def marks(self) -> dict[str, Any]:
        return {
            f"loader {number}: {name}": value
            for number, feed in enumerate(self._feeds, 1)
            for name, value in feed.marks().items()
        }

    def _inner(self) -> Any:
        for feed in self._feeds:
            feed.consumed = self.consumed
        return [feed.capture() for feed in self._feeds]

    def _gather(self) -> None:
        self.guarantee = next((feed.guarantee for feed in self._feeds if feed.guarantee != EXACT), EXACT)
        self.warnings = [warning for feed in self._feeds for warning in feed.warnings]


class Endlessly(Feed):
    """One loader again and again, each time as a pass of its own.

    Args:
        loader: what is gone through.
        open_round: the feed for a round, by its number from 0.
    """

    kind = "endless"

    def __init__(self, loader: Any, open_round: Callable[[int], Feed]) -> None:
        super().__init__(loader)
        self._open_round = open_round
        self._round = 0
        self._handed = 0  # batches handed out in all rounds; whoever asks for the next has finished them
        self._rounds_before = 0  # of these, the ones of earlier rounds
        self._now = open_round(0)
        self.keeps_state = self._now.keeps_state
        self._gather()

    @property
    def length(self) -> int | None:
        return None

    @property
    def in_workers(self) -> bool:
        return self._now.in_workers

    def start(self) -> Iterator[Any]:
        return self._rounds(None)

    def resume(self, saved: Mapping[str, Any]) -> Iterator[Any]:
        if saved["kind"] != self.kind:
            raise CheckpointError(
                f"the run stopped in the middle of a pass over a {saved['kind']}, and is given an endless loader now. "
                "Give the same loader until the pass is over."
            )
        self.consumed = self._handed = saved["consumed"]
        self._round, inner = saved["inner"]["round"], saved["inner"]["feed"]
        self._rounds_before = self.consumed - (inner["consumed"] if inner else 0)
        self._open()
        return self._rounds(self._now.resume(inner) if inner else None)

    def capture(self) -> dict[str, Any]:
        captured = super().capture()
        self._gather()
        return captured

    def marks(self) -> dict[str, Any]:
        return self._now.marks()

    def _rounds(self, batches: Iterator[Any] | None) -> Iterator[Any]:
        self._now.interleaved = self.interleaved
        batches = batches or self._now.start()
        while True:
            for batch in batches:
                self._handed += 1
                yield batch
            if self._handed == self._rounds_before:
                kind = type(self.loader).__qualname__
                raise CheckpointError(f"a {kind} without any batch cannot be gone through again and again")
            self._round += 1
            self._rounds_before = self._handed
            self._open()
            batches = self._now.start()

    def _open(self) -> None:
        self._now = self._open_round(self._round)
        self._now.interleaved = self.interleaved

    def _inner(self) -> Any:
        self._now.consumed = self.consumed - self._rounds_before
        return {"round": self._round, "feed": self._now.capture() if self._now.has_begun else None}

    def _gather(self) -> None:
        self.guarantee, self.warnings = self._now.guarantee, self._now.warnings
