"""The lease: of all controllers on one journal, one acts.

It runs for a few seconds of wall time and is prolonged while its holder lives. When it runs out another controller takes it
with a higher epoch. The epoch is what protects: every event that a controller writes names it, and the journal refuses
an old one. Time only decides when to try.
"""

from __future__ import annotations

from datetime import timedelta

from spotrun.clock import Clock
from spotrun.controller.journal import Journal, Tenure
from spotrun.errors import LeaseLost

__all__ = ["Lease"]


class Lease:
    """One controller's hold on a journal.

    Args:
        journal: what is held.
        owner: a name that no other controller has, e.g. host, process and chance.
        clock: wall time.
        ttl_s: how long the lease outlives its last renewal; prolonged at a third of that.
    """

    def __init__(self, journal: Journal, *, owner: str, clock: Clock, ttl_s: float) -> None:
        self.owner = owner
        self._journal = journal
        self._clock = clock
        self._ttl_s = ttl_s
        self._epoch: int | None = None
        self._renew_at = 0.0  # on the monotonic clock

    @property
    def epoch(self) -> int:
        """The epoch under which to write.

        Raises:
            LeaseLost: the lease was never taken, or has been lost.
        """
        if self._epoch is None:
            raise LeaseLost("this controller holds no lease of the journal; it must not act")
        return self._epoch

    def ensure(self) -> Tenure | None:
        """Takes the lease or keeps it alive. Returns None when it is ours, otherwise who has it.

        Raises:
            LeaseLost: it was ours and another controller has taken it since.
        """
        if self._epoch is not None and self._clock.monotonic() < self._renew_at:
            return None
        started = self._clock.monotonic()
        now = self._clock.now()
        tenure = self._journal.acquire(self.owner, now=now, expires=now + timedelta(seconds=self._ttl_s))
        held_before, self._epoch = self._epoch, None
        if tenure.owner != self.owner or (held_before is not None and tenure.epoch != held_before):
            if held_before is None:
                return tenure
            raise LeaseLost(
                f"while this controller stood still, {tenure.owner} took the lease of the journal (epoch "
                f"{tenure.epoch} after {held_before}); this one does nothing more"
            )
        self._epoch = tenure.epoch
        self._renew_at = started + self._ttl_s / 3
        return None

    def check(self) -> None:
        """Looks into the journal whether the lease is still ours: done before each action outside.

        Raises:
            LeaseLost: it is not.
        """
        self._journal.require(self.epoch)

    def release(self) -> None:
        """Gives the lease back, so that the next controller need not wait for its end."""
        if self._epoch is not None:
            self._journal.release(self._epoch)
            self._epoch = None
