"""Recorded spot prices: rows as EC2's DescribeSpotPriceHistory gives them.

A file holds a JSON list of rows, or the whole answer `{"SpotPriceHistory": [...]}`. A row tells the price from its
`Timestamp` on. Only Linux rows count. The market starts at the first moment at which every wanted pool has a price,
that is at the latest of the pools' first rows, and the last price of a pool holds for ever.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path

from spotrun.errors import SpecError
from spotrun.market.zone import Zone

__all__ = ["PriceRow", "RecordedPrices", "parse_price_rows", "read_price_rows"]

_BYTES_MAX = 256 * 1024 * 1024
_LINUX = {"Linux/UNIX", "Linux/UNIX (Amazon VPC)"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceRow:
    """From `at` on, the spot price of a type in a zone; `zones` holds the zone's id and name, as far as given."""

    at: datetime
    zones: tuple[str, ...]
    instance_type: str
    usd_per_hour: Decimal


def read_price_rows(path: Path) -> tuple[PriceRow, ...]:
    """The Linux rows in a file, in the order of the file.

    Raises:
        SpecError: the file cannot be read or is no price history; the sentence says which file, row and key.
    """
    try:
        if path.stat().st_size > _BYTES_MAX:
            raise SpecError(f"{path}: larger than {_BYTES_MAX} bytes; this is no price history")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SpecError(f"{path}: cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:
        raise SpecError(f"{path}: is not JSON: {err}") from err
    return parse_price_rows(document, source=str(path))


def parse_price_rows(document: object, *, source: str) -> tuple[PriceRow, ...]:
    """The Linux rows of a decoded answer; `source` names it in errors.

    Raises:
        SpecError: it is no price history.
    """
    rows = document.get("SpotPriceHistory") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise SpecError(f"{source}: must be a list of rows, or an object with the key SpotPriceHistory")
    parsed = tuple(_row(row, f"{source}: row {number}") for number, row in enumerate(rows))
    kept = tuple(row for row in parsed if row is not None)
    if not kept:
        raise SpecError(f"{source}: has no row with the ProductDescription Linux/UNIX")
    return kept


class RecordedPrices:
    """Step prices from rows.

    Args:
        rows: of any zones and types, in any order.
        zones, instance_types: the pools wanted.

    Raises:
        SpecError: a wanted pool has no row.
        ValueError: no pool is wanted.
    """

    def __init__(self, rows: Iterable[PriceRow], *, zones: Iterable[Zone], instance_types: Iterable[str]) -> None:
        by_pool: dict[tuple[str, str], list[tuple[datetime, Decimal]]] = defaultdict(list)
        for row in rows:
            for zone in row.zones:
                by_pool[zone, row.instance_type].append((row.at, row.usd_per_hour))
        wanted = [(zone.id, name) for zone in zones for name in instance_types]
        if not wanted:
            raise ValueError("recorded prices need the pools that are wanted")
        missing = [
            f"local.market.prices: no row for {name} in {zone}" for zone, name in wanted if (zone, name) not in by_pool
        ]
        if missing:
            raise SpecError(missing)
        start = max(min(at for at, _ in by_pool[pool]) for pool in wanted)
        self._steps = {pool: tuple(sorted((at - start, usd) for at, usd in set(by_pool[pool]))) for pool in wanted}

    def steps(
        self, zone: Zone, instance_type: str, start: timedelta, end: timedelta
    ) -> tuple[tuple[timedelta, Decimal], ...]:
        """The steps over [start, end]; see `spotrun.market.market.SpotPrices`."""
        steps = self._steps[zone.id, instance_type]
        first = bisect_right(steps, start, key=lambda step: step[0]) - 1
        last = bisect_right(steps, end, key=lambda step: step[0])
        return steps[first:last]


def _row(row: object, where: str) -> PriceRow | None:
    if not isinstance(row, dict):
        raise SpecError(f"{where} must be an object, not {row!r}")
    if row.get("ProductDescription", "Linux/UNIX") not in tuple(_LINUX):  # it may be anything, and not hashable
        return None
    zones = tuple(
        zone for key in ("AvailabilityZoneId", "AvailabilityZone") if isinstance(zone := row.get(key), str) and zone
    )
    if not zones:
        raise SpecError(f"{where} names no zone: AvailabilityZoneId or AvailabilityZone is missing")
    name = row.get("InstanceType")
    if not isinstance(name, str) or not name:
        raise SpecError(f"{where}: InstanceType is missing")
    return PriceRow(at=_instant(row, where), zones=zones, instance_type=name, usd_per_hour=_price(row, where))


def _instant(row: dict[str, object], where: str) -> datetime:
    text = row.get("Timestamp")
    try:
        # Python 3.10 reads no "Z"
        at = datetime.fromisoformat(text.replace("Z", "+00:00")) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None:
        raise SpecError(f"{where}: Timestamp must be an instant like 2026-07-20T13:44:30Z, not {text!r}")
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


def _price(row: dict[str, object], where: str) -> Decimal:
    text = row.get("SpotPrice")
    try:
        price = Decimal(str(text))
    except InvalidOperation:
        price = Decimal(0)
    if not price.is_finite() or price <= 0:
        raise SpecError(f"{where}: SpotPrice must be dollars per hour above 0, not {text!r}")
    return price
