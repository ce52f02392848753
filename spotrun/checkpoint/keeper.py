"""What happens between two steps: outcomes of saves are taken in, orders carried out, saves begun.

In the order of what matters: a fenced run ends; a stop saves and ends; a notice saves, and saves again shortly before
its deadline; what the user asked for is saved; and when the cadence says so, a save begins unless one is in flight.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from spotrun.checkpoint.agreement import Agreement, Alone, Wish
from spotrun.checkpoint.boundary import Boundary
from spotrun.checkpoint.fingerprint import fingerprint
from spotrun.checkpoint.garbage import uncollected
from spotrun.checkpoint.order import Notice, Orders, Stop
from spotrun.checkpoint.report import Reporter, say
from spotrun.checkpoint.saver import Outcome, Saver
from spotrun.clock import Clock
from spotrun.errors import CheckpointCorrupt, CheckpointError, Fenced
from spotrun.job.message import EXIT_FENCED, Commit, TrainingPhase
from spotrun.policy.cadence import Cadence, FixedInterval, notice_save_due, save_fits
from spotrun.store.key import tag_key

__all__ = ["Keeper"]

_FINAL_TRIES = 5  # of the last save, which nothing comes after
_FINAL_PAUSE_S = 5.0  # job time between them
_RETRY_S = 60.0  # job time after a failed save, if the interval is longer


class Keeper:
    """Decides and carries out what is to happen at a boundary. For the loop's thread alone."""

    def __init__(self, saver: Saver, orders: Orders, reporter: Reporter, *, cadence: Cadence, clock: Clock,
                 agreement: Agreement | None = None) -> None:  # fmt: skip
        self._saver = saver
        self._agreement = agreement or Alone()
        self._orders = orders
        self._reporter = reporter
        self._cadence = cadence
        self._clock = clock
        self._saved: tuple[Any, ...] | None = None  # key of the newest state that is committed or being written
        self._last_s = clock.monotonic()  # when the save of that state began, or the training
        self._failed_s: float | None = None  # when a save began that failed, until one succeeds
        self._wanted: bool | None = None  # a save the user asked for, and whether to wait for it
        self._names: tuple[str, ...] = ()  # of the next commit, which is then of the next boundary
        self._given: tuple[str, ...] = ()  # of the save that is in flight
        self._now = False  # that save is asked for between two steps, not inside of one
        self._fenced = False
        self._ending: Stop | None = None  # heard, and not carried out yet
        self._notice: Notice | None = None
        self._untold: Notice | None = None  # the same, until the others know of it
        self._saves_under_notice = 0
        self._stall_s = 0.0  # of the last save
        self._durable_s = 0.0  # from the last save's boundary until it was committed
        self._told_slow = False
        self.done = False

    @property
    def is_called(self) -> bool:
        """Whether a signal waits for the next boundary."""
        return self._orders.rung

    @property
    def time_left_s(self) -> float | None:
        """Until the announced end, in job time; None if none is announced."""
        self._hear()
        if self._notice is None or self._notice.deadline is None:
            return None
        return max(0.0, (self._notice.deadline - self._clock.now()).total_seconds())

    def recall(self, saved: tuple[Any, ...] | None) -> None:
        """The loop has not begun, and the state of this key is committed."""
        self._saved = self._saved or saved

    def begin(self, saved: tuple[Any, ...] | None) -> None:
        """The loop begins, from the state of this key if it was restored."""
        deaf = self._orders.listen()
        if deaf:
            self._reporter.warn(deaf)
        self._saved = self._saved or saved
        self._last_s = self._clock.monotonic()

    def want(self, *, wait: bool, now: bool = False, name: str | None = None) -> None:
        """The user asks for a save at the next boundary; `now` if that comes at once, without a step.

        Args:
            name: a tag for it: then that very boundary is saved, after the save that is in flight.

        Raises:
            SpecError: it is not fit for a tag.
        """
        if name is not None:
            tag_key(name)
            self._names = tuple(dict.fromkeys((*self._names, name)))
        self._wanted = bool(self._wanted) or wait
        self._now = now

    def pass_by(self, boundary: Boundary) -> None:
        """Does what is due at a boundary.

        Raises:
            SystemExit: the training was asked to end, or is fenced.
        """
        if (waits := self._orders.witnessed(boundary.step)) is not None:
            self._wanted = bool(self._wanted) or waits
        self._collect(wait=False)
        now, self._now = self._now, False
        wish = self._agreement.take(lambda: self._wish(boundary), step=boundary.step, now=now)
        if wish.fenced:
            self._end_fenced()
        if wish.stop is not None:
            self._stop(boundary, wish.stop)
        if wish.notice is not None:
            self._take_notice(wish.notice)
        if wish.on_notice:
            self._saves_under_notice += 1
            self._save(boundary, on_notice=True)
        elif wish.wanted is not None:
            self._save(boundary, overlapped=not wish.wanted)
            if wish.wanted:
                self._wait(boundary)
        elif wish.due:
            self._save(boundary, overlapped=True)
        self._agreement.give(lambda: self._wish(boundary), step=boundary.step)
        self._saver.prepare(boundary.capture, boundary.steady)
        self._reporter.write()

    def look(self, boundary: Boundary | None, *, untrained: bool = False) -> bool:
        """Somewhere between two boundaries: carries out what was ordered, as far as that can be done here.

        Args:
            boundary: the last one, if its state is still there; None if only the next one can be saved.
            untrained: there was none yet: what was built would be built again, so there is nothing to save.

        Returns:
            Whether the state of this boundary is committed, or on its way, because of an order.

        Raises:
            SystemExit: the training was asked to end, or is fenced.
        """
        self._hear()
        called = self._ending is not None or self._notice is not None
        if called and untrained and self._ending is not None and self._agreement.at_once:
            self._end(self._ending, "nothing was trained yet")
        if boundary is None:
            return False
        if not self._agreement.at_once and self._ending is None and called:
            if self._saved == boundary.key:
                return True
            called = self._save_is_due()  # the others are called for nothing less
        if not self._agreement.gather(called=called):
            return False
        self._now = True
        self.pass_by(boundary)
        return self._saved == boundary.key

    def settle(self) -> None:
        """The loop ends, and what comes after it may change anything: completes a copy that is under way."""
        self._saver.settle()

    def finish(self, boundary: Boundary) -> None:
        """Makes the last state durable; returns once it is committed.

        Raises:
            CheckpointError: the store did not take it, in several tries.
            SystemExit: the training is fenced.
        """
        self._collect(wait=True)
        for attempt in range(_FINAL_TRIES):
            if self._agreement.everywhere(self._is_saved(boundary), step=boundary.step):
                break
            if attempt:
                self._clock.sleep(_FINAL_PAUSE_S)
            self._save(boundary)
            self._collect(wait=True)
        else:
            raise CheckpointError(
                f"the last state, at step {boundary.step}, could not be committed in {_FINAL_TRIES} tries: "
                f"{self._reporter.progress.warnings[-1]}"
            )
        self._reporter.set(phase=TrainingPhase.DONE)
        self._orders.rest()
        self._agreement.leave(None)
        self._close()

    def abandon(self) -> None:
        """The process ends without the loop having ended: lets the save in flight end, and saves no more."""
        if not self.done:
            self._collect(wait=True, leave=False)
            self._agreement.leave("its training did not come to its end")
            self._orders.release()
            self._close()

    def _close(self) -> None:
        self.done = True
        self._saver.release()
        self._reporter.close()

    def _save(self, boundary: Boundary, *, on_notice: bool = False, overlapped: bool = False) -> None:
        """Begins to save this state, unless that is done or under way; waits for another save to end first.

        Args:
            overlapped: the loop goes on with its next step at once.
        """
        since = self._clock.monotonic()
        self._collect(wait=True)
        if self._agreement.everywhere(self._is_saved(boundary), step=boundary.step):
            return
        self._saved, self._last_s = boundary.key, since
        self._given, self._names = self._names, ()
        beside = {"logged": dict(self._reporter.metrics.latest), "tags": list(self._given)}  # what retention goes by
        with uncollected():
            tree = {**boundary.capture(), **beside}
        self._saver.begin(
            tree,
            step=boundary.step,
            on_notice=on_notice,
            fingerprint=fingerprint(),
            since=since,
            steady=boundary.steady if overlapped else None,
        )
        self._stall_s = self._clock.monotonic() - since
        self._reporter.set(checkpoint_stall_s=self._reporter.progress.checkpoint_stall_s + self._stall_s)

    def _is_saved(self, boundary: Boundary) -> bool:
        """Whether this state is committed or being written, under all names that it is to have."""
        return self._saved == boundary.key and not self._names

    def _is_due(self) -> bool:
        now_s, costs = self._clock.monotonic(), {"stall_s": self._stall_s, "durable_s": self._durable_s}
        if self._failed_s is not None:
            return now_s - self._failed_s >= min(_RETRY_S, self._cadence.interval_s(**costs))
        return self._cadence.due(now_s=now_s, last_save_s=self._last_s, **costs)

    def _wait(self, boundary: Boundary) -> None:
        """Until this state is committed, or its save has failed."""
        since = self._clock.monotonic()
        self._save(boundary)
        self._collect(wait=True)
        stall = self._clock.monotonic() - since
        self._reporter.set(checkpoint_stall_s=self._reporter.progress.checkpoint_stall_s + stall)

    def _hear(self) -> None:
        """Takes in an order that has come."""
        order = self._orders.poll()
        if isinstance(order, Stop):
            self._ending = self._ending or order
        elif isinstance(order, Notice):
            self._untold = order
            self._take_notice(order)
            self._saves_under_notice = 0
            if order.deadline is not None:
                say(f"notice: this machine may be gone in {(order.deadline - self._clock.now()).total_seconds():.0f} s")

    def _take_notice(self, notice: Notice | None) -> None:
        self._notice = notice
        self._saver.announce(notice.deadline if notice is not None else None)

    def _wish(self, boundary: Boundary) -> Wish:
        self._hear()
        notice, self._untold = self._untold, None
        if self._ending is not None:
            return Wish(stop=self._ending)
        if self._notice is not None:
            return Wish(notice=notice, on_notice=self._saves_on(self._notice), fenced=self._fenced)
        wanted = self._wanted
        if wanted is False and not self._names and (self._saver.busy or self._saver.preparing):
            wanted = None  # as soon as the save that is in flight has ended: the loop does not stand still for it
        if wanted is not None:
            self._wanted = None
        due = (
            wanted is None
            and self._agreement.leads
            and not self._saver.busy
            and not self._saver.preparing
            and self._saved != boundary.key
            and self._is_due()
        )
        return Wish(wanted=wanted, due=due, fenced=self._fenced)

    def _saves_on(self, notice: Notice) -> bool:
        """Between a notice and its deadline the cadence rests, so that the last save finds nothing in its way."""
        left_s = (notice.deadline - self._clock.now()).total_seconds() if notice.deadline else 0.0
        due = self._save_is_due()
        if due and notice.deadline is not None and not self._fits(left_s):
            return False
        if not due and left_s <= 0:
            self._take_notice(None)  # it did not come to pass, or had no deadline
        return due

    def _save_is_due(self) -> bool:
        """Whether the notice asks for a save now, if there is time enough for it."""
        assert self._notice is not None
        deadline = self._notice.deadline
        return notice_save_due(
            now_s=0.0,
            deadline_s=(deadline - self._clock.now()).total_seconds() if deadline else 0.0,
            saves=self._saves_under_notice,
            durable_s=self._durable_s,
            step_s=self._reporter.step_s,
        )

    def _fits(self, left_s: float) -> bool:
        in_flight_s = self._clock.monotonic() - self._last_s if self._saver.busy else None
        if save_fits(left_s=left_s, durable_s=self._durable_s, in_flight_s=in_flight_s):
            return True
        kept = "the save in flight is let end instead" if self._saver.busy else "the last commit stands"
        self._reporter.warn(
            f"{max(0.0, left_s):.0f} s are left and a save takes {self._durable_s:.0f} s: none is begun now, {kept}"
        )
        return False

    def _stop(self, boundary: Boundary, order: Stop) -> NoReturn:
        self._wait(boundary)
        if self._saved != boundary.key:
            last = self._reporter.progress.last_commit
            kept = f"the last commit is of step {last and last.step}"
            self._end(order, f"step {boundary.step} could NOT be saved; {kept}")
        who = "the same command" if order.exit_code else "the job"
        self._end(order, f"saved at step {boundary.step}; {who} goes on from there")

    def _end(self, order: Stop, what: str) -> NoReturn:
        chained = self._orders.chained()
        say(f"{order.why}: {what}")
        self._orders.release()
        self._agreement.leave(None)
        self._close()
        if chained is not None:
            chained()
        raise SystemExit(order.exit_code)

    def _collect(self, *, wait: bool, leave: bool = True) -> None:
        outcome = self._saver.collect(wait=wait)
        if outcome is None:
            return
        if outcome.error is not None:
            self._take_failure(outcome, outcome.error, leave=leave and (wait or self._agreement.at_once))
            return
        commit = outcome.commit
        assert commit is not None
        self._failed_s = None
        self._durable_s = outcome.took_s
        self._stall_s = commit.stall_s
        waited_s = commit.stall_s - outcome.snapshot.stall_s
        self._reporter.set(checkpoint_stall_s=self._reporter.progress.checkpoint_stall_s + waited_s)
        if outcome.naming is not None:
            self._reporter.warn(f"step {commit.step} is committed, but not all tags are given: {outcome.naming}")
        if outcome.pruning is not None:
            self._reporter.warn(f"old checkpoints could not be removed: {outcome.pruning}")
        self._reporter.set(commits=self._reporter.progress.commits + 1, last_commit=self._timed(commit))
        self._tell_if_slow()
        self._reporter.write(now=True)

    def _timed(self, commit: Commit) -> Commit:
        """With the time that was left to the announced end of the machine, if one is announced."""
        if self._notice is None or self._notice.deadline is None:
            return commit
        margin_s = (self._notice.deadline - commit.at).total_seconds()
        early = f"{margin_s:.0f} s before" if margin_s >= 0 else f"{-margin_s:.0f} s after"
        say(f"step {commit.step} is committed, {early} the announced end of this machine")
        return commit.model_copy(update={"margin_s": margin_s})

    def _tell_if_slow(self) -> None:
        if self._told_slow or not isinstance(self._cadence, FixedInterval):
            return
        every_s = self._cadence.interval_s(stall_s=self._stall_s, durable_s=self._durable_s)
        if every_s > self._cadence.every_s:
            self._told_slow = True
            self._reporter.warn(
                f"a save takes {self._durable_s:.0f} s, and one every {self._cadence.every_s:g} s was asked for: saving "
                f"every {every_s:.0f} s instead, and more often again when the store is faster"
            )

    def _take_failure(self, outcome: Outcome, error: Exception, *, leave: bool) -> None:
        self._saved, self._failed_s = None, self._last_s
        last = self._reporter.progress.last_commit
        kept = f"the last commit is of step {last.step}" if last else "nothing was committed by this attempt"
        in_doubt = isinstance(error, CheckpointCorrupt) and error.key.startswith("log/")
        if isinstance(error, Fenced) or in_doubt:
            say(str(error))
            self._fenced = True
            if leave:
                self._end_fenced()
            return
        self._names = tuple(dict.fromkeys((*self._given, *self._names)))
        named = f"; the next commit gets the tag {', '.join(self._given)}" if self._given else ""
        self._reporter.warn(
            f"saving step {outcome.snapshot.step} failed: {error} ({kept}); the training goes on and will try again{named}"
        )
        self._reporter.write(now=True)

    def _end_fenced(self) -> NoReturn:
        self._orders.release()
        self._agreement.leave(None)
        self._close()
        sys.exit(EXIT_FENCED)
