"""The loop over all jobs of a journal: under the lease, each job's turn when it is due or has news."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping

from spotrun.controller.journal import Journal, Tenure
from spotrun.controller.lease import Lease
from spotrun.controller.outside import Outside
from spotrun.controller.reconcile import Reconciler
from spotrun.controller.timing import Timing
from spotrun.errors import IllegalTransition, JournalCorrupt, JournalError, LeaseLost, SpotrunError
from spotrun.job import Job

__all__ = ["Controller"]

JOURNAL_FAILURES_MAX = 10  # looks in a row at a journal that is locked or whose disk is full, a second apart

_logger = logging.getLogger(__name__)


class Controller:
    """Drives the jobs of one journal. Several may run on the same journal: one acts, the others wait for its lease.

    Args:
        journal: the jobs.
        outside: what it acts on.
        timing: how often it looks.
        owner: its name in the lease; must differ between controllers. Default: host, process and chance.
    """

    def __init__(
        self, journal: Journal, outside: Outside, *, timing: Timing | None = None, owner: str | None = None
    ) -> None:
        self._journal = journal
        self._outside = outside
        self._timing = timing or Timing()
        self.owner = owner or f"{socket.gethostname()}:{os.getpid()}:{outside.chance.getrandbits(32):08x}"
        ttl_s = self._timing.lease_wall_s
        self._lease = Lease(journal, owner=self.owner, clock=outside.wall, ttl_s=ttl_s)
        self._reconcilers: dict[str, Reconciler] = {}
        self._due: dict[str, float] = {}  # on the wall's monotonic clock
        self._trouble: dict[str, SpotrunError] = {}
        self._unreadable: set[str] = set()
        self._is_acting = False  # the last tick was done under the lease
        self.holder: Tenure | None = None

    @property
    def trouble(self) -> Mapping[str, SpotrunError]:
        """What went wrong in the last turn of each job, for those where something did. The loop tries again."""
        return dict(self._trouble)

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs that this controller drives, as of its last look."""
        return {job_id: it.job for job_id, it in self._reconcilers.items() if it.seq > 0}

    @property
    def is_idle(self) -> bool:
        """Whether, as of the last tick, every job is over and none of their machines is known to live. A job whose events
        cannot be read does not count: nothing can be done for it."""
        return self._is_acting and all(it.is_quiet or id_ in self._unreadable for id_, it in self._reconcilers.items())

    def tick(self) -> float:
        """One look at everything that is due. Returns in how many seconds of wall time to call again.

        While another controller holds the lease (`holder` says which) nothing is done.

        Raises:
            LeaseLost: this controller stood still for so long that another one took over.
            JournalError: the journal cannot be used.
        """
        self._is_acting = False
        try:
            pause_s = self._tick()
        except LeaseLost:
            self._forget({})  # what is remembered of machines is out of date when the lease comes back
            raise
        self._is_acting = self.holder is None
        return pause_s

    def run(
        self,
        *,
        until_idle: bool = False,
        stop: threading.Event | None = None,
        after_tick: Callable[[], None] | None = None,
    ) -> None:
        """Ticks until told to stop or, if asked to, until nothing is left to do; gives the lease back at the end.

        Attempts that run go on when it returns: they have a lease of their own, and the next controller finds them.

        Args:
            until_idle: return once every job is over.
            stop: set by another thread or a signal handler to end the loop soon.
            after_tick: called in this thread after every tick, e.g. to draw.

        A controller that lost its lease stands by until it can have it again.

        Raises:
            JournalError: see `tick`; a journal that is busy or whose disk is full is tried for a while.
        """
        stop = stop or threading.Event()
        failures = 0
        try:
            while not stop.is_set():
                try:
                    pause_s = self.tick()
                    failures = 0
                except LeaseLost as error:
                    _logger.warning("%s", error)
                    pause_s = self._timing.idle_wall_s
                except JournalCorrupt:
                    raise
                except JournalError as error:
                    failures += 1
                    if failures >= JOURNAL_FAILURES_MAX:
                        raise
                    _logger.warning("%s", error)
                    pause_s = self._timing.idle_wall_s
                if after_tick is not None:
                    after_tick()
                if until_idle and self.is_idle:
                    return
                stop.wait(pause_s)
        finally:
            self.close()

    def close(self) -> None:
        """Gives the lease back, if the journal can be reached; otherwise it runs out by itself."""
        try:
            self._lease.release()
        except JournalError as error:
            _logger.warning("the lease could not be given back and will run out: %s", error)

    def _tick(self) -> float:
        self.holder = self._lease.ensure()
        if self.holder is not None:
            return self._timing.idle_wall_s
        heads = self._journal.heads(unsettled=True)
        self._forget(heads)
        for job_id, head in heads.items():
            reconciler = self._reconcilers.get(job_id) or self._take_on(job_id)
            if head > reconciler.seq or self._due[job_id] <= self._outside.wall.monotonic():
                self._lease.ensure()  # the turns of many jobs take longer than a lease
                self._due[job_id] = self._outside.wall.monotonic() + self._turn(reconciler)
        next_due = min(self._due.values(), default=float("inf")) - self._outside.wall.monotonic()
        return max(0.0, min(self._timing.idle_wall_s, next_due))

    def _take_on(self, job_id: str) -> Reconciler:
        reconciler = Reconciler(
            job_id, journal=self._journal, lease=self._lease, outside=self._outside, timing=self._timing
        )
        self._reconcilers[job_id] = reconciler
        self._due[job_id] = float("-inf")
        return reconciler

    def _forget(self, heads: Mapping[str, int]) -> None:
        for job_id in [it for it in self._reconcilers if it not in heads]:
            del self._reconcilers[job_id], self._due[job_id]
            self._trouble.pop(job_id, None)
            self._unreadable.discard(job_id)

    def _turn(self, reconciler: Reconciler) -> float:
        """One job's turn; what is wrong with this job alone is kept to it."""
        job_id = reconciler.job_id
        try:
            pause_s = reconciler.turn()
            problem = reconciler.problems[0] if reconciler.problems else None
            if reconciler.is_settled:
                self._journal.settle(job_id)
        except (JournalCorrupt, IllegalTransition) as error:
            _logger.error("%s: %s", job_id, error)
            pause_s, problem = self._timing.wait_wall_max_s, error
            self._unreadable.add(job_id)
        except SpotrunError:
            raise
        except Exception as error:
            raise RuntimeError(f"the turn of job {job_id} failed; the controller cannot go on: {error!r}") from error
        self._trouble.pop(job_id, None)
        if problem is not None:
            self._trouble[job_id] = problem
        return pause_s
