"""Carries out the actions of one job. One action, one try; what came of it is an event, or nothing yet.

Before anything is asked of a provider the lease is looked up in the journal, so that a controller that stood still and
was replaced does nothing. The launch token covers the instant in between: the same launch asked for twice is one machine.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from spotrun.controller.lease import Lease
from spotrun.controller.outside import Placement
from spotrun.controller.sighting import launched
from spotrun.controller.stage import Stage, launch_request
from spotrun.errors import CapacityRefused, Denied, QuotaRefused
from spotrun.job import (
    Action,
    Control,
    Event,
    Job,
    Launch,
    LaunchRefused,
    Place,
    Terminate,
)
from spotrun.job import control as wanted_control
from spotrun.providers.refusal import answer_of, refused_of

__all__ = ["Executor"]


class Executor:
    """Carries out actions on a stage, under a lease. `polled` is the time between two looks."""

    def __init__(self, stage: Stage, *, lease: Lease, place: Placement, polled: timedelta) -> None:
        self._stage = stage
        self._lease = lease
        self._place = place
        self._polled = polled
        self._told: Control | None = None

    def carry_out(self, action: Action, job: Job, at: datetime) -> Event | None:
        """Does it once. None: asked for, and the answer will be seen later.

        Raises:
            ProviderError: nothing is known; the action stays outstanding and is safe to repeat.
            StoreError: the attempt could not be given its lease; it was not launched.
            LeaseLost: nothing was done.
        """
        match action:
            case Place():
                return self._place(job, self._stage.provider.offers(), at, self._polled)
            case Launch():
                return self._launch(job, at)
            case Terminate():
                self.terminate(action.instance_id)
                return None

    def terminate(self, instance_id: str) -> None:
        """Asks for the end of a machine.

        Raises:
            ProviderError, LeaseLost: as above.
        """
        self._lease.check()
        self._stage.provider.terminate(instance_id)

    def renew(self, job: Job, at: datetime) -> None:
        """Tells the attempt that it may go on, or that it should stop: at a change at once, otherwise at a third of
        the lease's life.

        Raises:
            StoreError: it could not be told.
            LeaseLost: it was told nothing.
        """
        control = wanted_control(job, lease_until=at + self._stage.life)
        told = self._told
        if control is None:
            return
        if (
            told is not None
            and _content(told) == _content(control)
            and at < told.lease_until - self._stage.life * 2 / 3
        ):
            return
        self._lease.check()
        self._stage.mailbox.tell(control)
        self._told = control

    def _launch(self, job: Job, at: datetime) -> Event:
        attempt = job.attempt
        assert attempt is not None, "a launch is asked for by a live attempt"
        self.renew(job, at)  # before the machine exists, so that there is never one without a lease
        self._lease.check()
        try:
            instance = self._stage.provider.launch(launch_request(job, attempt, self._stage))
        except (CapacityRefused, QuotaRefused, Denied) as refusal:
            kind, answer = answer_of(refusal)
            refused = refused_of(refusal.by_pool)
            return LaunchRefused(at=at, attempt=attempt.number, refusal=kind, answer=answer, refused=refused)
        return launched(instance, at)


def _content(control: Control) -> tuple[object, ...]:
    return control.attempt, control.ask, control.reason, control.nodes
