"""The entries of a ledger: attempts, waits and extras, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

from spotrun.cost.category import Category, Segment
from spotrun.job.message import Commit
from spotrun.market.offer import MarketKind, PriceStep

__all__ = ["AttemptRow", "EndedBy", "Extra", "Wait"]


class EndedBy(str, Enum):
    """What ended an attempt."""

    COMPLETED = "completed"  # its command ended well
    INTERRUPTED = "interrupted"  # the provider took the machine
    FAILED = "failed"  # its command failed or could not be started
    STOPPED = "stopped"  # its command ended when asked to
    TERMINATED = "terminated"  # we ended the machine
    EXITED = "exited"  # the machine ended itself, by its lease or without a last word
    UNSTARTED = "unstarted"  # the provider ended the machine as it started; it never ran, and is not billed
    RUNNING = "running"  # not ended


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """A charge beside the machines.

    Attributes:
        kind: e.g. `volumes`, `public addresses`, `storage requests`.
        usd: what the job was charged.
        on_demand_usd: what the same item would have cost the on-demand run it is compared with; 0 when not known, which
            makes the savings look smaller, never larger.
        source: where the figure comes from, with its date.
    """

    kind: str
    usd: Decimal
    on_demand_usd: Decimal = Decimal(0)
    source: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Time without an attempt, [start, end), and the last reason given for it."""

    start: datetime
    end: datetime
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """One attempt: where, when, what for, and for how much. Costs are for all its nodes, prices for one instance.

    Attributes:
        until: its end, or the ledger's end while it runs.
        ended_at: None while it runs.
        interrupted: whether the provider took it, whatever its command did before.
        ran: how many of its nodes did: a machine that the provider ended as it started never ran, and is not billed.
        times, money: for every category; they add up to `life` and `cost_usd`.
        kept_step: the step up to which its work survives.
        on_demand_cost_usd: the on-demand price of its actual hours, never rounded up nor free.
        price_assumed: no price steps were given that cover it; the price seen when it was placed was taken throughout.
    """

    number: int
    provider: str
    region: str
    zone: str
    instance_type: str
    market: MarketKind
    nodes: int
    ran: int
    placed_because: str
    launched_at: datetime
    until: datetime
    ended_at: datetime | None
    ended_by: EndedBy
    interrupted: bool
    detail: str
    exit_code: int | None
    noticed_at: datetime | None
    notice_deadline: datetime | None
    commits: tuple[Commit, ...]
    resumed_from: int | None
    first_step: int
    last_step: int
    kept_step: int
    times: Mapping[Category, timedelta]
    segments: tuple[Segment, ...]
    prices: tuple[PriceStep, ...]
    on_demand_prices: tuple[PriceStep, ...]
    price_assumed: bool
    mean_price_usd_per_hour: Decimal
    billed_seconds: Decimal
    cost_usd: Decimal
    on_demand_cost_usd: Decimal
    money: Mapping[Category, Decimal]

    @property
    def life(self) -> timedelta:
        """From launch to end."""
        return self.until - self.launched_at

    @property
    def steps(self) -> int:
        """Steps it finished."""
        return max(self.last_step - self.first_step, 0)

    @property
    def steps_lost(self) -> int:
        """Steps it finished that are not in the final state."""
        return max(self.last_step - max(self.kept_step, self.first_step), 0)

    @property
    def last_commit(self) -> Commit | None:
        """Its newest commit that is known."""
        return self.commits[-1] if self.commits else None

    @property
    def margin(self) -> timedelta | None:
        """Time between its last commit becoming visible and the loss; None when it was not lost or never committed."""
        if not self.interrupted or self.ended_at is None or self.last_commit is None:
            return None
        return self.ended_at - self.last_commit.at
