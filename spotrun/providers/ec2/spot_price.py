"""Spot prices: what each pool asks now, and the steps that held over a span.

AWS keeps 90 days of history and tells, beside the changes within a span, the price that held at its start. The steps are
the price of each instant; where none is known, the price seen at the placement holds.

Source: Amazon EC2 API Reference, DescribeSpotPriceHistory (as of botocore 1.43).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import ProviderError
from spotrun.market.offer import Offer, PriceStep
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.catalog import Catalog
from spotrun.providers.ec2.memory import Memory

__all__ = ["SpotPrices", "parse_rows"]

_LINUX = ("Linux/UNIX",)

# A price "in general does not change frequently" (AWS whitepaper 'How Spot Instances work'): changes are hours apart, and
# every job's bill asks at each of its turns.
_FRESH_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """The steps of a pool over [start, end]."""

    start: datetime
    end: datetime
    steps: tuple[PriceStep, ...]


class SpotPrices:
    """The prices of an account's zones. Thread-safe."""

    def __init__(self, account: Account, catalog: Catalog, *, clock: Clock) -> None:
        self._account = account
        self._catalog = catalog
        self._clock = clock
        self._now: Memory[tuple[str, tuple[str, ...]], dict[tuple[str, str], Decimal]] = Memory(_FRESH_S, clock=clock)
        self._lock = threading.Lock()
        self._told: dict[str, _Told] = {}

    def now(self, region: str, names: Sequence[str]) -> Mapping[tuple[str, str], Decimal]:
        """Zone id and type -> USD per hour now, for pools that have a spot price at all.

        Raises:
            ProviderError: it could not be asked.
        """
        wanted = tuple(sorted(names))
        return self._now.get((region, wanted), lambda: self._ask_now(region, wanted))

    def steps(self, offer: Offer, start: datetime, end: datetime) -> tuple[PriceStep, ...]:
        """The steps of the offer's pool over [start, end]; the first is not later than `start`.

        Raises:
            ProviderError: it could not be asked.
        """
        with self._lock:
            told = self._told.get(offer.pool)
            if told is None or start < told.start or end - told.end > timedelta(seconds=_FRESH_S):
                told = self._ask_steps(offer, min(start, told.start) if told else start, end)
                self._told[offer.pool] = told
        return _over(told.steps, start, end, before=offer.price_usd_per_hour)

    def _ask_now(self, region: str, names: tuple[str, ...]) -> dict[tuple[str, str], Decimal]:
        latest: dict[tuple[str, str], tuple[datetime, Decimal]] = {}
        for zone, name, step in self._rows(region, names, start=self._clock.now(), end=None):
            pool = zone, name
            if pool not in latest or latest[pool][0] <= step.at:
                latest[pool] = step.at, step.usd_per_hour
        return {pool: price for pool, (_, price) in latest.items()}

    def _ask_steps(self, offer: Offer, start: datetime, end: datetime) -> _Told:
        rows = self._rows(offer.region, (offer.instance_type,), start=start, end=max(start, end))
        steps = {step.at: step for zone, _, step in rows if zone == offer.zone}
        return _Told(start=start, end=max(start, end), steps=tuple(steps[at] for at in sorted(steps)))

    def _rows(
        self, region: str, names: Sequence[str], *, start: datetime, end: datetime | None
    ) -> Iterable[tuple[str, str, PriceStep]]:
        zones = self._catalog.zones(region)
        span: dict[str, Any] = {"StartTime": start} if end is None else {"StartTime": start, "EndTime": end}
        pages = self._account.pages(
            "describe_spot_price_history",
            region,
            doing=f"for spot prices of {region}",
            InstanceTypes=list(names),
            ProductDescriptions=list(_LINUX),
            **span,
        )
        for page in pages:
            yield from parse_rows(page["SpotPriceHistory"], zones)


def parse_rows(rows: Iterable[Mapping[str, Any]], zones: Mapping[str, str]) -> Iterable[tuple[str, str, PriceStep]]:
    """Zone id, type and step of each row.

    Args:
        rows: of `SpotPriceHistory`.
        zones: zone name -> zone id; a row may have the name alone.

    Raises:
        ProviderError: a price is none.
    """
    for row in rows:
        zone = row.get("AvailabilityZoneId") or zones.get(row.get("AvailabilityZone", ""))
        if zone is None:
            continue  # a local zone, or one that the account may not use
        try:
            price = Decimal(str(row["SpotPrice"]))
        except InvalidOperation:
            price = Decimal(0)
        if not price.is_finite() or price <= 0:
            raise ProviderError(f"AWS gave {row['SpotPrice']!r} as the spot price of {row['InstanceType']} in {zone}")
        yield str(zone), str(row["InstanceType"]), PriceStep(at=row["Timestamp"], usd_per_hour=price)


def _over(steps: tuple[PriceStep, ...], start: datetime, end: datetime, *, before: Decimal) -> tuple[PriceStep, ...]:
    held = [step for step in steps if step.at <= start]
    first = PriceStep(at=start, usd_per_hour=held[-1].usd_per_hour if held else before)
    return (first, *(step for step in steps if start < step.at <= end))
