"""What is to happen at a boundary, and who decides it: the seam between one process's wishes and what all of them do.

A process that trains alone does as it wishes, at once. Where several train together they must save at the same
boundary, so each tells its wishes at one boundary and reads at the next what all of them are to do there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from spotrun.checkpoint.order import Notice, Stop

__all__ = ["Agreement", "Alone", "Wish"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What a process wants to be done at a boundary; afterwards, what is done there.

    Attributes:
        stop: save and end.
        notice: a notice that was just heard.
        on_notice: save because of a notice.
        wanted: save because the user asked for it, and whether to wait for the commit; None if nobody asked.
        due: save because the cadence says so.
        fenced: end without saving, another attempt holds the run.
    """

    stop: Stop | None = None
    notice: Notice | None = None
    on_notice: bool = False
    wanted: bool | None = None
    due: bool = False
    fenced: bool = False


class Agreement(Protocol):
    """Makes one out of the wishes of all processes. For the loop's thread alone; every process calls the same methods
    but `gather` in the same order."""

    @property
    def leads(self) -> bool:
        """Whether this process decides when the cadence is due."""

    @property
    def at_once(self) -> bool:
        """Whether this process may leave the training without the others knowing of it."""

    def take(self, wish: Callable[[], Wish], *, step: int, now: bool) -> Wish:
        """What is to be done at this boundary.

        Args:
            now: a boundary that is not the end of a step; wishes of now are answered now.

        Raises:
            CheckpointError: the processes are not at the same step, or one of them is gone.
        """

    def give(self, wish: Callable[[], Wish], *, step: int) -> None:
        """Tells what this process wants at the next boundary, after this one's work is done."""

    def gather(self, *, called: bool) -> bool:
        """Whether one process is called and all are here, between the same two boundaries, and will do what comes next
        together. Processes may ask unequally often; none of them waits for the others for more than a few seconds.

        Args:
            called: this process has heard an order that it would carry out here.

        Raises:
            CheckpointError: another process is gone.
        """

    def everywhere(self, fact: bool, *, step: int) -> bool:
        """Whether this is so in all processes.

        Raises:
            CheckpointError: as for `take`.
        """

    def leave(self, why: str | None) -> None:
        """This process ends; `why`, if its training did not come to its end. Silent, and never raises."""


class Alone:
    """The agreement of a process that trains alone."""

    leads = True
    at_once = True

    def take(self, wish: Callable[[], Wish], *, step: int, now: bool) -> Wish:  # noqa: ARG002
        """See `Agreement.take`."""
        return wish()

    def give(self, wish: Callable[[], Wish], *, step: int) -> None:
        """See `Agreement.give`."""

    def gather(self, *, called: bool) -> bool:
        """See `Agreement.gather`."""
        return called

    def everywhere(self, fact: bool, *, step: int) -> bool:  # noqa: ARG002
        """See `Agreement.everywhere`."""
        return fact

    def leave(self, why: str | None) -> None:
        """See `Agreement.leave`."""
