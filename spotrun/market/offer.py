"""Offers: what can be launched, and the price steps that held over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum

__all__ = ["MarketKind", "Offer", "PriceStep", "alike", "cost_usd", "mean_price_usd_per_hour"]

_SECONDS_PER_HOUR = Decimal(3600)

# A choice of ours: over a run of six hours a twentieth of the price is what one changeover of 18 minutes costs. Within that
# the depth of a pool says more than its price, and AWS, which knows it, may choose.
_ALIKE = Decimal("1.05")


class MarketKind(str, Enum):
    """How capacity is bought."""

    SPOT = "spot"
    ON_DEMAND = "on_demand"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """Something that can be launched now.

    `zone` is a zone id such as `use1-az4` (names differ between accounts); the price is per instance, as seen when the
    offer was made. `up` tells whether there is capacity, `since` since when, where that can be known without a launch: in
    a simulation; clouds do not tell, and None is for 'not known'. Two offers are the same place when their `pool` is the same.
    Offers with the same word in `asked_with` can be asked for in one launch, which gives one of them; without a word, alone.
    """

    provider: str
    region: str
    zone: str
    instance_type: str
    market: MarketKind
    price_usd_per_hour: Decimal
    on_demand_usd_per_hour: Decimal
    up: bool | None = None
    since: datetime | None = None
    asked_with: str = ""

    @property
    def pool(self) -> str:
        """Where capacity is drawn from, e.g. `use1-az4/g5.xlarge/spot`."""
        return f"{self.zone}/{self.instance_type}/{self.market.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceStep:
    """From `at` on, the price held until the next step."""

    at: datetime
    usd_per_hour: Decimal


def alike(prices: Iterable[Decimal]) -> bool:
    """Whether these prices are so close that none of them is a reason: within a twentieth of the lowest."""
    known = list(prices)
    return max(known) <= min(known) * _ALIKE


def cost_usd(steps: tuple[PriceStep, ...], start: datetime, end: datetime) -> Decimal:
    """The integral of a step price over [start, end), exact, in USD.

    Args:
        steps: in order of time; the first must not be later than `start`.

    Raises:
        ValueError: the steps do not cover `start`.
    """
    if end <= start:
        return Decimal(0)
    if not steps or steps[0].at > start:
        raise ValueError(f"no price is known at {start.isoformat()}")
    total = Decimal(0)
    for index, step in enumerate(steps):
        begin = max(step.at, start)
        finish = min(steps[index + 1].at, end) if index + 1 < len(steps) else end
        if finish > begin:
            span = finish - begin
            seconds = Decimal(span.days * 86400 + span.seconds) + Decimal(span.microseconds) / 1_000_000
            total += step.usd_per_hour * seconds / _SECONDS_PER_HOUR
    return total


def mean_price_usd_per_hour(steps: tuple[PriceStep, ...], start: datetime, end: datetime) -> Decimal:
    """The time-weighted mean price over [start, end); the price at `start` for an empty span."""
    if end <= start:
        return max((step for step in steps if step.at <= start), key=lambda step: step.at).usd_per_hour
    span = end - start
    return cost_usd(steps, start, end) * _SECONDS_PER_HOUR / (Decimal(str(span.total_seconds())))
