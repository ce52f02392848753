"""How far a run has come, and the form in which a commit keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spotrun.checkpoint.feed import Feed

__all__ = ["Position", "key_of"]


@dataclass(slots=True)
class Position:
    """How far the run has come.

    Attributes:
        inside: whether epoch `epoch` has begun.
        feed: the pass over the data in this epoch, once it has begun.
        marks: what the last pass went over, to tell of changes.
        randomness: what the epoch began with.
        finished: a loop was left for good before its end, by `break` and `close()`.
    """

    step: int = 0
    epoch: int = 0
    inside: bool = False
    feed: Feed | None = None
    marks: dict[str, Any] = field(default_factory=dict)
    randomness: dict[str, Any] | None = None
    finished: bool = False

    @classmethod
    def before(cls, saved: Mapping[str, Any]) -> Position:
        """Where a loop begins that is to go on from a saved position."""
        return cls(step=saved["step"], epoch=saved["epoch"], marks=saved["marks"], finished=saved["finished"])

    @property
    def key(self) -> tuple[Any, ...]:
        """Differs for positions that differ."""
        return (self.step, self.epoch, self.inside, self.feed.consumed if self.feed else None, self.finished)

    def to_tree(self) -> dict[str, Any]:
        """The form in which a commit keeps it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "inside": self.inside,
            "feed": self.feed.capture() if self.feed else None,
            "marks": self.marks,
            "randomness": self.randomness,
            "finished": self.finished,
        }


def key_of(saved: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of a saved position."""
    consumed = saved["feed"]["consumed"] if saved["feed"] else None
    return (saved["step"], saved["epoch"], saved["inside"], consumed, saved["finished"])
