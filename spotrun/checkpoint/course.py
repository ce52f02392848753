"""The way that a loop goes through its epochs and data, and the way back to where a commit left it.

A loop begins at its top, also after a resume. What is found there again runs with the randomness that it had: the code
before a pass, and the code between two passes of an epoch. Passes that were over are not gone through again. Where the
loop then comes to the place that was saved, everything is set to what it was, and nothing may draw after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from spotrun.checkpoint.boundary import Mark
from spotrun.checkpoint.feed import EXACT, Feed
from spotrun.checkpoint.position import Position, key_of
from spotrun.checkpoint.randomness import capture_global, restore_global
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.restore import Restored
from spotrun.checkpoint.source import open_feed, open_feeds
from spotrun.checkpoint.state import Components
from spotrun.checkpoint.stream import Stream
from spotrun.errors import CheckpointError

__all__ = ["Course"]

_OWN = "randomness is exact to the bit; what the loop reads is its own"


class Course:
    """Where the loop is, and what it has still to find again.

    Args:
        restored: the commit that this process starts from, if any.
        circumstances: goes into each commit.

    Attributes:
        pending: the saved state, until the loop is where it was.
        mark: the newest boundary whose state could be saved a while after it.
    """

    def __init__(
        self,
        components: Components,
        reporter: Reporter,
        restored: Restored | None,
        circumstances: Mapping[str, str],
    ) -> None:
        self._components = components
        self._circumstances = circumstances
        self._reporter = reporter
        self._restored = restored.tree if restored else None
        self.pending = self._restored
        self.position = Position.before(self.pending["position"]) if self.pending else Position()
        self._told = ""
        self._guarantees: dict[str, str] = {}  # by pass or stream
        self.mark: Mark | None = None
        self.watchful = False  # whether somebody looks for orders within steps

    @property
    def restored_key(self) -> tuple[Any, ...] | None:
        """The key of the commit that this process started from."""
        return key_of(self._restored["position"]) if self._restored else None

    @property
    def key(self) -> tuple[Any, ...] | None:
        """Of the state as it is. As long as the loop has not come to where it was, that is the restored one."""
        return self.restored_key if self.pending is not None else self.position.key

    def arrive(self) -> None:
        """The last thing before the loop goes on: nothing may draw after it."""
        if self.pending is not None:
            self._components.restore_randomness(self.pending)
            self.pending = None

    def note(self) -> None:
        """Keeps what it takes to save this boundary a while after it."""
        self.mark = Mark(self._components, self.position)

    def begin_epoch(self) -> None:
        """An epoch begins, or is gone through again up to where it was."""
        position, pending = self.position, self.pending
        if pending is not None and pending["position"]["inside"]:
            restore_global(pending["position"]["randomness"])
            if pending["position"]["feed"] is None:
                self.pending = None
        else:
            self.arrive()
        position.inside, position.feed, position.name, position.passed = True, None, "", {}
        position.randomness = capture_global()
        if self.pending is None:
            self.note()

    def end_epoch(self) -> None:
        """An epoch is over."""
        position = self.position
        position.epoch, position.inside, position.feed, position.name = position.epoch + 1, False, None, ""
        position.passed = {}

    def skips(self, name: str) -> bool:
        """Whether a pass was over before; code after it then finds the randomness that it had."""
        saved = self.pending["position"] if self.pending is not None else None
        if saved is None or not saved["inside"] or name == saved.get("name", ""):
            return False
        if name not in saved["passed"]:
            raise CheckpointError(
                f"the run stopped in the pass {saved['name']!r} of epoch {self.position.epoch}, and this script comes to "
                f"the pass {name!r} there. Give the passes the names that they had until this epoch is over."
            )
        restore_global(saved["passed"][name])
        self.position.passed[name] = saved["passed"][name]
        return True

    def open(self, loaders: Sequence[Any], name: str, *, replay: bool) -> tuple[Feed, Iterator[Any]]:
        """Begins a pass, or goes on with it where it was."""
        position, pending = self.position, self.pending
        feed = open_feeds(loaders, replay=replay, epoch=position.epoch)
        position.feed, position.name = feed, name
        if pending is None:
            changes = feed.changes(position.marks.get(name, {}))
            if changes:
                self._reporter.warn("the loader is not what it was: " + "; ".join(changes))
            batches = feed.start()
        else:
            batches = feed.resume(pending["position"]["feed"])
            self.arrive()
        position.marks[name] = feed.marks()
        self._tell(f"batches {name}", feed)
        return feed, batches

    def end_pass(self) -> None:
        """A pass is over; other code of the same epoch may follow."""
        position = self.position
        position.passed[position.name] = capture_global()
        if position.feed is None or not position.feed.keeps_state:
            self.note()
        elif self.mark is not None and self.mark.key != position.key:
            self.mark = None  # what such a loader says after its end may be about its next pass

    def pass_by(self) -> None:
        """A boundary. Marks cost more than some steps do, so not each gets one."""
        feed = self.position.feed
        if self.watchful or (feed is not None and feed.keeps_state and feed.is_over):
            self.note()

    def stream(self, loader: Any, name: str, *, replay: bool) -> Stream[Any]:
        """Opens an endless source beside the loop, where it was if it was saved."""
        position = self.position
        if name in position.streams:
            raise CheckpointError(f"run.stream was called a second time for {name!r}: give each a name of its own")
        if self._restored is not None and name not in position.waiting:
            self._reporter.warn(f"the stream {name!r} was not part of the commit: it begins at its beginning")
        feed = open_feed(loader, replay=replay, epoch=0)
        stream = position.streams[name] = Stream(feed, position.waiting.pop(name, None))
        self._tell(f"stream {name}", feed)
        return stream

    def own(self) -> None:
        """The loop draws its own batches."""
        if not self._guarantees:
            self._promise(_OWN)

    def capture(self) -> dict[str, Any]:
        """The state as of now."""
        tree = self._components.capture()
        position = self.position
        tree["circumstances"] = dict(self._circumstances)
        tree["position"] = position.to_tree()
        if position.feed is not None:
            self._tell(f"batches {position.name}", position.feed)
        for name, stream in position.streams.items():
            self._tell(f"stream {name}", stream.feed)
        return tree

    def still(self) -> tuple[tuple[Any, ...] | None, Callable[[], dict[str, Any]]] | None:
        """Key and capture of the last boundary, if its state is still there; None if something was trained since."""
        if self.pending is not None:
            return self.key, self.capture  # the loop is not where it was
        if self.mark is None or not self.mark.is_intact(self.position):
            return None
        mark = self.mark
        return mark.key, lambda: {**mark.capture(), "circumstances": dict(self._circumstances)}

    def _tell(self, name: str, feed: Feed) -> None:
        for warning in feed.warnings:
            self._reporter.warn(warning)
        self._guarantees[name] = feed.guarantee
        weakest = next((guarantee for guarantee in self._guarantees.values() if guarantee != EXACT), EXACT)
        self._promise(weakest)

    def _promise(self, guarantee: str) -> None:
        if guarantee != self._told:
            self._told = guarantee
            self._reporter.set(guarantee=guarantee)
            say(f"guarantee: {guarantee}")
