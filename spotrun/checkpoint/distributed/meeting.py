"""Meetings between two boundaries: all processes come to one, or none of them does anything there.

Far from a boundary, in an evaluation say, processes go their own ways: one evaluates more batches than another, or all of
them while the others wait at a barrier of the training. So nothing may be asked of them that they have to answer. Whoever
has heard an order calls the others through the key-value store. A process that hears the call where it could save comes to
the meeting, and stays for a short while. If all are there, one of them says so, and from then on each is bound; whoever has
waited for too long calls it off. That is one atomic write, which the first one wins, so all that were there know the same.

A process that waits for the others in a collective of the training never comes. It costs the ones that do a few seconds,
and the next boundary is saved instead.
"""

from __future__ import annotations

from spotrun.checkpoint.distributed.board import Board
from spotrun.clock import Clock, SystemClock

__all__ = ["Meetings"]

_PATIENCE_S = 5.0  # wall time: longer than a batch of an evaluation takes
_TIMES_MAX = 3  # between two boundaries
_ASK_EVERY_S = 0.1  # wall time between two looks for a call
_LOOK_S = (0.002, 0.05)  # wall time between looks whether all are there: at first, and after a while


class Meetings:
    """The meetings that a process goes to. For the loop's thread alone."""

    def __init__(self, board: Board, *, patience_s: float = _PATIENCE_S, wall: Clock | None = None) -> None:
        self._board = board
        self._patience_s = patience_s
        self._wall = wall or SystemClock()
        self._asked_s = float("-inf")
        self._when = -1  # the boundary after which we are
        self._called = False
        self._next = 0  # the number of the meeting to go to

    def gather(self, when: int, *, called: bool) -> bool:
        """Whether all processes are here; they are, or none of them is told so.

        Args:
            when: a number that is the same for processes that are between the same two boundaries.
            called: this process has heard an order.

        Raises:
            CheckpointError: the key-value store is gone.
        """
        if when != self._when:
            self._when, self._called, self._next = when, False, 0
        if not self._called and not self._hears(called):
            return False
        while self._next < _TIMES_MAX:
            place = f"meeting/{when}/{self._next}"
            self._next += 1
            late = self._board.has([f"{place}/outcome"])
            if self._meet(place):
                return True
            if not late:
                return False
        return False

    def _hears(self, called: bool) -> bool:
        if called:
            self._board.post(f"call/{self._when}", True)
        else:
            now = self._wall.monotonic()
            if now - self._asked_s < _ASK_EVERY_S:
                return False
            self._asked_s = now
            called = self._board.has([f"call/{self._when}"])
        self._called = called
        return called

    def _meet(self, place: str) -> bool:
        """Stays until it is decided."""
        self._board.post(f"{place}/{self._board.place.rank}", True)
        everybody = [f"{place}/{rank}" for rank in range(self._board.place.world)]
        until, pause = self._wall.monotonic() + self._patience_s, _LOOK_S[0]
        while not (complete := self._board.has(everybody)) and self._wall.monotonic() < until:
            if self._board.has([f"{place}/outcome"]):
                break
            self._wall.sleep(pause)
            pause = min(pause * 1.5, _LOOK_S[1])
        return self._board.decide(f"{place}/outcome", "held" if complete else "called off") == "held"
