"""How far a run has come, and the form in which a commit keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spotrun.checkpoint.feed import Feed
from spotrun.checkpoint.stream import Stream

__all__ = ["Position", "key_of"]


@dataclass(slots=True)
class Position:
    """How far the run has come.

    Attributes:
        inside: whether epoch `epoch` has begun.
        feed: the newest pass over data in this epoch, once it has begun.
        name: that pass's name.
        passed: passes of this epoch that are over, by name, each with the randomness that it ended with.
        marks: what passes went over the last time, by name, to tell of changes.
        randomness: what the epoch began with.
        streams: sources beside the loop, by name.
        waiting: saved places of streams that this process has not opened yet.
        finished: a loop was left for good before its end, by `break` and `close()`.
    """

    step: int = 0
    epoch: int = 0
    inside: bool = False
    feed: Feed | None = None
    name: str = ""
    passed: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, dict[str, Any]] = field(default_factory=dict)
    randomness: dict[str, Any] | None = None
    streams: dict[str, Stream[Any]] = field(default_factory=dict)
    waiting: dict[str, Any] = field(default_factory=dict)
    finished: bool = False

    @classmethod
    def before(cls, saved: Mapping[str, Any]) -> Position:
        """Where a loop begins that is to go on from a saved position."""
        return cls(
            step=saved["step"],
            epoch=saved["epoch"],
            # Before passes had names there was one in each epoch, and nothing beside it.
            marks=dict(saved["marks"]) if "name" in saved else {"": saved["marks"]},
            waiting=dict(saved.get("streams", {})),
            finished=saved["finished"],
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """Differs for positions that differ."""
        consumed = self.feed.consumed if self.feed else None
        beside = {name: stream.feed.consumed for name, stream in self.streams.items()}
        beside.update({name: saved["consumed"] for name, saved in self.waiting.items()})
        return (self.step, self.epoch, self.inside, self.name, consumed, self.finished, tuple(sorted(beside.items())))

    def to_tree(self) -> dict[str, Any]:
        """The form in which a commit keeps it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "inside": self.inside,
            "feed": self.feed.capture() if self.feed else None,
            "name": self.name,
            "passed": dict(self.passed),
            "marks": dict(self.marks),
            "randomness": self.randomness,
            "streams": {**self.waiting, **{name: stream.feed.capture() for name, stream in self.streams.items()}},
            "finished": self.finished,
        }


def key_of(saved: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of a saved position."""
    consumed = saved["feed"]["consumed"] if saved["feed"] else None
    beside = tuple(sorted((name, stream["consumed"]) for name, stream in saved.get("streams", {}).items()))
    name = saved.get("name", "")
    return (saved["step"], saved["epoch"], saved["inside"], name, consumed, saved["finished"], beside)
