"""The seam to capacity: six methods that every provider honours in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from spotrun.job.event import PoolRefusal
from spotrun.market.offer import Offer, PriceStep
from spotrun.market.source import PriceSources

__all__ = ["EndCause", "Instance", "InstanceState", "LaunchRequest", "Provider"]


class InstanceState(str, Enum):
    """Where an instance is in its life, as the provider tells it."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


class EndCause(str, Enum):
    """Who ended an instance, as the provider tells it."""

    INTERRUPTED = "interrupted"  # the provider took it back
    TERMINATED = "terminated"  # we asked for it
    EXITED = "exited"  # it shut itself down
    LOST = "lost"  # the machine died
    UNSTARTED = "unstarted"  # it never ran: the provider ended it as it started, and another one may start
    DENIED = "denied"  # it never ran, and no other one would: only the user can mend it


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchRequest:
    """What to launch.

    Attributes:
        token: idempotency token derived from (job, attempt); the same token never gives a second instance.
        offer, others: any of these pools will do. Others are only given where the offers said that they can be asked for
            together (`Offer.asked_with`).
        environment: the variables the agent inherits; no secrets.
        tags: stored with the instance; `spotrun:job`, `spotrun:attempt` and `spotrun:token` are always among them.
    """

    token: str
    job_id: str
    attempt: int
    offer: Offer
    environment: Mapping[str, str]
    tags: Mapping[str, str]
    others: tuple[Offer, ...] = ()

    @property
    def offers(self) -> tuple[Offer, ...]:
        """All pools that will do, the best one first."""
        return (self.offer, *self.others)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One machine, or one gang of machines launched together, as the provider describes it. Instants are in job time.

    Attributes:
        detail: the provider's own word on its end.
        members: the machines of a gang, which lives while any of them does; of a single machine none.
        is_complete: False while more machines of the gang may yet turn up, so that its size is not known.
        taken: how many of the machines that ended the provider took back, or never ran: of a gang some, of a machine that died
            none; None where the cause says it.
        refused: in the answer to a launch that asked for several pools, what was said of those that gave nothing.
    """

    id: str
    job_id: str
    attempt: int
    token: str
    pool: str
    state: InstanceState
    launched_at: datetime
    notice_deadline: datetime | None = None
    ended_at: datetime | None = None
    end_cause: EndCause | None = None
    detail: str = ""
    members: tuple[str, ...] = ()
    taken: int | None = None
    is_complete: bool = True
    refused: tuple[PoolRefusal, ...] = ()


class Provider(Protocol):
    """Capacity of one kind. Every method may block for seconds and raises only `ProviderError`."""

    def offers(self) -> Sequence[Offer]:
        """What could be asked for now, with present prices, in no order. An offer is no promise of capacity."""

    def launch(self, request: LaunchRequest) -> Instance:
        """Starts one instance in one of the request's pools, and returns it with the pool that it came from. Idempotent by
        `request.token`: a repeat returns the first one's instance.

        Raises:
            CapacityRefused: nothing was launched; another offer may work now, this one later. Of several pools, `by_pool`
                tells what was said of each.
            QuotaRefused, Denied: nothing was launched; only the user can mend it.
            Throttled: nothing is known; ask again later with the same token.
        """

    def observe(self, job_id: str) -> Sequence[Instance]:
        """Every instance tagged with the job, ended ones included for as long as the provider remembers them.
        Eventually consistent: an instance launched a moment ago may be missing."""

    def terminate(self, instance_id: str) -> None:
        """Asks for the end of an instance; returns before it has ended. Idempotent, silent if the id is unknown."""

    def prices(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """The price steps of the offer's pool that held over [start, end]; the first is not later than `start`."""

    def sources(self) -> PriceSources:
        """Where the prices of offers and of `prices` come from, and of when they are."""
