"""A simulated market: when each zone has spot capacity, when it takes it back, and what it asks.

Rules: every question is a pure function of (configuration, seed, moment); nothing is remembered but drawn chunks, so a
controller that starts anew sees the same market; answers cost the same in month nine as in hour one. Moments before
the market's start are answered as if at its start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from spotrun.market.offer import PriceStep
from spotrun.market.price_table import on_demand_usd_per_hour
from spotrun.market.timeline import Timeline
from spotrun.market.zone import Zone

__all__ = ["Loss", "Market", "SpotPrices"]


@dataclass(frozen=True, slots=True)
class Loss:
    """The moment when a zone takes its capacity back; `notice`: it says so beforehand."""

    at: datetime
    notice: bool


class SpotPrices(Protocol):
    """Where spot prices come from: recorded rows or a generator. Pure."""

    def steps(
        self, zone: Zone, instance_type: str, start: timedelta, end: timedelta
    ) -> tuple[tuple[timedelta, Decimal], ...]:
        """The price steps that hold over [start, end], as offsets from the market's start and USD per hour; the first
        is not later than `start`, which is not negative."""


class Market:
    """Availability and prices of some zones over time. Safe to share between threads that only ask.

    Args:
        start: job time at which the market begins: the submission.
        zones: the zones, in the order in which they are to be shown.
        timelines: when each zone, by id, has spot capacity.
        prices: the spot prices.
    """

    def __init__(
        self, start: datetime, *, zones: Sequence[Zone], timelines: Mapping[str, Timeline], prices: SpotPrices
    ) -> None:
        if {zone.id for zone in zones} != set(timelines):
            raise ValueError("every zone needs exactly one time line")
        self._start = start
        self._zones = {zone.id: zone for zone in zones}
        self._timelines = dict(timelines)
        self._prices = prices

    @property
    def start(self) -> datetime:
        """The moment at which the market begins."""
        return self._start

    @property
    def zones(self) -> tuple[Zone, ...]:
        """All zones."""
        return tuple(self._zones.values())

    def available(self, zone: str, at: datetime) -> bool:
        """Whether spot capacity can be had in the zone at this moment."""
        return self._timelines[zone].up(self._offset(at))

    def next_loss(self, zone: str, at: datetime) -> Loss | None:
        """When the zone takes back what runs there at `at`; None when it is down then, or no loss is in sight."""
        loss = self._timelines[zone].loss(self._offset(at))
        return None if loss is None else Loss(self._start + loss[0], loss[1])

    def next_up(self, zone: str, at: datetime) -> datetime | None:
        """The first moment from `at` on with spot capacity in the zone; None when none is in sight."""
        up = self._timelines[zone].next_up(self._offset(at))
        return None if up is None else max(at, self._start + up)

    def spot_prices(self, zone: str, instance_type: str, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """The spot price steps of a pool over [start, end], in order; the first is not later than `start`."""
        begin = self._offset(start)
        steps = self._prices.steps(self._zones[zone], instance_type, begin, max(begin, self._offset(end)))
        told = [PriceStep(at=self._start + at, usd_per_hour=usd) for at, usd in steps]
        if start < told[0].at:  # before the market's start its first price holds
            told[0] = PriceStep(at=start, usd_per_hour=told[0].usd_per_hour)
        return tuple(told)

    def on_demand_usd_per_hour(self, zone: str, instance_type: str) -> Decimal:
        """The on-demand list price of the type in the zone's region.

        Raises:
            SpecError: the price table does not have it.
        """
        return on_demand_usd_per_hour(instance_type, self._zones[zone].region)

    def _offset(self, at: datetime) -> timedelta:
        return max(at - self._start, timedelta(0))
