"""The run, as the training loop sees it: what is left of it, step by step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from spotrun.checkpoint.boundary import Boundary
from spotrun.checkpoint.circumstances import Strictness
from spotrun.checkpoint.course import Course
from spotrun.checkpoint.fingerprint import differences, fingerprint
from spotrun.checkpoint.keeper import Keeper
from spotrun.checkpoint.mistake import Strangers
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.restore import Restored
from spotrun.checkpoint.state import Components
from spotrun.checkpoint.stream import Stream
from spotrun.clock import Clock
from spotrun.data import Endless
from spotrun.errors import CheckpointError
from spotrun.job.message import TrainingPhase

__all__ = ["Parts", "Run"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of; `attach` puts it together."""

    components: Components
    keeper: Keeper
    reporter: Reporter
    clock: Clock
    total_steps: int | None
    restored: Restored | None
    circumstances: Mapping[str, str] = field(default_factory=dict)
    strictness: Strictness = Strictness()  # noqa: RUF009  a frozen value


class Run:
    """A training that can be interrupted. Made by `spotrun.attach`; for the thread that trains.

    A step is one body of `batches` or `steps`, or what lies before a call of `step()`. Saves happen between steps.

    Attributes:
        steps_done: steps finished in the whole run, over all attempts.
        epoch: the epoch that is being trained, from 0.
        batch: batches finished in this epoch.
        resumed_from: the step of the commit that this process started from; None if it started afresh.
        guarantee: what a resume of this run restores, in one sentence.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._course = Course(parts.components, parts.reporter, parts.restored, parts.circumstances)
        self._strangers = Strangers(parts.components, parts.reporter)
        self._position = self._course.position
        self._began = False
        self._loop: list[str] = []  # the loops we are inside of
        self._epochs: int | None = None
        self._passes: set[str] = set()  # names of the calls of `batches` in this epoch
        self._owner = os.getpid()
        self._left = False  # a loop was left by break, or by an error
        self._overlaps = False  # the user says that the next step comes next

    @property
    def steps_done(self) -> int:
        return self._position.step

    @property
    def epoch(self) -> int:
        return self._position.epoch

    @property
    def batch(self) -> int:
        return self._position.feed.consumed if self._position.feed else 0

    @property
    def resumed_from(self) -> int | None:
        return self._parts.restored.entry.step if self._parts.restored else None

    @property
    def guarantee(self) -> str:
        return self._parts.reporter.progress.guarantee

    def epochs(self, count: int | None = None) -> Iterator[int]:
        """The epochs that are left, from the one that was interrupted. Ends once the last state is committed.

        Args:
            count: epochs of the whole run; None for as many as `total_steps` takes.
        """
        if count is None and self._parts.total_steps is None:
            raise CheckpointError("epochs() has no end: give it a count, or give attach(total_steps=...)")
        self._enter("epochs")
        self._epochs = count
        course, position = self._course, self._position
        try:
            while not position.finished and (count is None or position.epoch < count) and not self._is_complete():
                self._passes = set()
                self._begin()
                course.begin_epoch()
                yield position.epoch
                course.pending = None
                if self._is_complete() and position.feed is not None and not position.feed.is_over:
                    break  # in the middle of an epoch: with a larger total it goes on there
                course.end_epoch()
                if self._passes:
                    self._pass_by()
                else:
                    self._end_step()  # an epoch without batches is a step
        except GeneratorExit:
            self._left = True
            raise
        finally:
            self._leave("epochs")
        self.close()

    def batches(self, *loaders: Any, name: str = "", replay: bool = False) -> Iterator[Any]:
        """The batches of this epoch that are left, in the order of an uninterrupted run. Each body is a step.

        Args:
            loaders: a `DataLoader`, a sequence of batches, a loader with `state_dict`/`load_state_dict`, or one of these
                in `spotrun.data.Endless`. Of several, batches come side by side as from `zip`.
            name: tells several passes of one epoch apart; the first needs none.
            replay: on a resume, load the finished batches again and drop them, which also repeats what happened
                inside worker processes, and is the only way for sources that can only be read from the start.

        Raises:
            NotCapturable: the position in a loader can neither be saved nor found again.
            CheckpointError: the run stopped in the middle of an epoch of another loader.
        """
        if not loaders:
            raise CheckpointError("run.batches needs what to iterate over: a DataLoader, or a list of batches")
        alone = not self._loop
        self._refuse_again(name, alone=alone)
        self._enter("batches")
        self._passes.add(name)
        try:
            if alone:
                self._begin()
                self._course.begin_epoch()
            if self._course.skips(name):
                return
            feed, batches = self._course.open(loaders, name, replay=replay)
            if feed.length is not None:
                self._expect(feed.length * (self._epochs or 1))
            while not self._position.finished and not self._is_complete():
                try:
                    batch = next(batches)
                except StopIteration:
                    self._course.end_pass()
                    break
                except RuntimeError:
                    if feed.in_workers and self._parts.keeper.is_called:
                        self._pass_by()  # Ctrl-C reached the workers as well: the state is still that of the boundary
                    raise
                before = self._parts.components.watch.steps
                try:
                    yield batch
                except GeneratorExit:
                    # `break`, or an error. If the body has trained, its step counts, but only a boundary may be saved.
                    if self._parts.components.watch.steps != before:
                        feed.consumed += 1
                        self._count_step()
                    self._left = alone
                    raise
                feed.consumed += 1
                self._end_step()
        finally:
            self._leave("batches")
        if alone:
            self.close()

    def stream(self, loader: Any, *, name: str = "stream", replay: bool = False) -> Stream[Any]:
        """An endless source of batches for `next()`: a loader again and again, each time shuffled anew.

        For loops of one's own, and for a second loader beside `batches`. Open it after `attach` and before the loop.
        Its place is saved with the run; batches that were taken in a step that is not finished are given again.

        Args:
            loader: as for `batches`.
            name: tells several of them apart.
            replay: as for `batches`.

        Raises:
            NotCapturable: the position in this loader can neither be saved nor found again.
            CheckpointError: another stream has this name, or this is not the loader that was saved.
        """
        endless = loader if isinstance(loader, Endless) else Endless(loader)
        return self._course.stream(endless, name, replay=replay)

    def steps(self, count: int) -> Iterator[int]:
        """The steps that are left of `count`, by number from 0, for loops that draw their own batches."""
        self._enter("steps")
        self._expect(count)
        self._begin()
        self._course.own()
        self._course.arrive()
        self._course.note()
        try:
            while not self._position.finished and self._position.step < count:
                yield self._position.step
                self._end_step()
        except GeneratorExit:
            self._left = True
            raise
        finally:
            self._leave("steps")
        self.close()

    def begin(self) -> None:
        """Says that the training begins, in loops that iterate through nothing of ours; `step` says it otherwise.

        From now on signals ask to save and end; until then they end the process as they would without us.
        """
        if os.getpid() == self._owner:
            self._begin()

    def step(self, *, overlap: bool = False) -> None:
        """Ends a step, in loops that iterate through nothing of ours. After the last one, call `close`.

        Args:
            overlap: what follows is the next step, and changes weights in no way but `optimizer.step()`: a save is then
                copied behind it, as in the loops of ours, and dropped if it finds a change. Without it a save is copied
                here.
        """
        if self._loop:
            raise CheckpointError(
                f"run.step() inside run.{self._loop[-1]}: there, each body is a step already. For steps inside an "
                "epoch without a loader, iterate over run.batches(range(n))."
            )
        if os.getpid() != self._owner:
            return
        self._begin()
        self._course.own()
        self._course.pending = None
        self._overlaps = overlap
        self._end_step()
        self._overlaps = False
        if self._is_complete():
            self.close()

    def save(self, *, wait: bool = False, tag: str | None = None) -> None:
        """Saves at the end of this step; outside of a loop of ours, now.

        Args:
            wait: stand still until it is committed.
            tag: a name for the commit, which retention keeps, and which an earlier commit of such a call gives up. Waits
                for a save that is in flight, so that it is the state at the end of this step.
        """
        if os.getpid() != self._owner:
            raise CheckpointError("this is a forked process; only the one that called attach can save")
        if self._parts.keeper.done:
            raise CheckpointError("the run is over, its last state is committed")
        self._parts.keeper.want(wait=wait, now=not self._loop, name=tag)
        if not self._loop:
            self._begin()
            self._pass_by()

    @property
    def time_left(self) -> float | None:
        """Seconds until the announced end of this machine, in job time; None if none is announced."""
        return self._parts.keeper.time_left_s if os.getpid() == self._owner else None

    def checkpoint_if_needed(self) -> bool:
        """For long work between two steps, or before the first: saves if the machine is about to go. Cheap otherwise.

        Call it as often as convenient, e.g. for each batch of an evaluation. What is saved is the state of the last
        boundary between two steps, with the randomness and the flags that it had: a resume evaluates anew. Where
        weights, gradients or buffers have changed since, only the next boundary can be saved, and will be.

        Returns:
            Whether a notice or a stop was heard, and the last boundary is committed or on its way.

        Raises:
            SystemExit: the training was asked to end, and is saved.
        """
        keeper = self._parts.keeper
        if os.getpid() != self._owner or keeper.done:
            return False
        if not self._began:
            if self._course.pending is None:
                return keeper.look(None, untrained=True)
            keeper.recall(self._course.restored_key)
        self._course.watchful = True
        state = self._course.still()
        return keeper.look(Boundary(self._position.step, *state) if state else None)

    def log(self, **values: Any) -> None:
        """Adds numbers to the line of this step in metrics.jsonl; `loss` is also shown in the progress."""
        if os.getpid() == self._owner:
            self._parts.reporter.metrics.add(**values)
            if "loss" in values:
                self._parts.reporter.set(loss=self._parts.reporter.metrics.loss)

    def close(self) -> None:
        """Makes the last state durable and ends the run. The loops of this class do it at their end."""
        if self._parts.keeper.done or os.getpid() != self._owner:
            return
        self._begin()
        if self.resumed_from == self._position.step and not (self._position.finished or self._left):
            say(
                f"nothing was left to train: the run is complete at step {self.steps_done}; to train anew, give another name"
            )
        self._position.finished |= self._left
        self._parts.keeper.finish(self._boundary())

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._parts.keeper.abandon()

    def _refuse_again(self, name: str, *, alone: bool) -> None:
        if self._passes and alone:
            raise CheckpointError(
                "run.batches was called a second time outside run.epochs: write `for epoch in run.epochs(n)` around it, and "
                "a resume can tell the two apart. For validation, iterate over the loader itself."
            )
        if name in self._passes:
            raise CheckpointError(
                "run.batches was called a second time in one epoch, and a resume could not tell the two apart: give each "
                'pass a name, as in run.batches(loader, name="second"). For loaders side by side, write '
                "run.batches(first, second); for validation, iterate over the loader itself."
            )

    def _enter(self, loop: str) -> None:
        allowed = {"epochs": [], "steps": [], "batches": [[], ["epochs"]]}[loop]
        if self._loop and self._loop not in allowed:
            raise CheckpointError(f"run.{loop} inside run.{self._loop[-1]}: a resume could not find its place")
        if self._parts.keeper.done and loop != "batches":
            raise CheckpointError("the run is over, its last state is committed")
        self._loop.append(loop)

    def _leave(self, loop: str) -> None:
        assert self._loop.pop() == loop
        if os.getpid() == self._owner:
            self._parts.keeper.settle()

    def _is_complete(self) -> bool:
        total = self._parts.total_steps
        return total is not None and self._position.step >= total

    def _begin(self) -> None:
        """The loop begins: from now on the training trains."""
        if self._began:
            return
        self._began = True
        restored = self._parts.restored
        if restored is not None:
            differing = differences(restored.manifest.fingerprint, fingerprint())
            if self._parts.strictness.refuses:
                self._refuse(differing)
            elif differing:
                self._parts.reporter.warn("the resume is correct, but not bit-exact: " + "; ".join(differing))
        self._parts.keeper.begin(self._course.restored_key)
        if self._position.finished:
            say("this run is over: its loop was left for good; to train anew, give it another name")
        self._parts.reporter.set(phase=TrainingPhase.TRAINING, training_at=self._parts.clock.now())
        self._parts.reporter.write(now=True)

    def _refuse(self, differing: list[str]) -> None:
        try:
            self._parts.strictness.judge(differing, self._parts.reporter)
        except BaseException:
            self._parts.keeper.abandon()
            raise

    def _expect(self, steps: int) -> None:
        if self._parts.total_steps is None:
            self._parts.reporter.set(total_steps=steps)

    def _end_step(self) -> None:
        self._count_step()
        self._pass_by()

    def _count_step(self) -> None:
        self._position.step += 1
        now = self._parts.clock.now()
        self._parts.reporter.metrics.write(self._position.step, now)
        self._parts.reporter.stepped(self._position.step, now)

    def _pass_by(self) -> None:
        if os.getpid() == self._owner:
            self._course.pass_by()
            self._parts.keeper.pass_by(self._boundary())

    def _boundary(self) -> Boundary:
        # After these the next step of the loop comes next, or `_leave`; after the others any code of the user's.
        goes_on = self._loop[-1] in ("batches", "steps") if self._loop else self._overlaps
        steady = self._parts.components.steady if goes_on else None
        return Boundary(self._position.step, self._course.key, self._course.capture, steady)
