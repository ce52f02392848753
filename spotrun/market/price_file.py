"""Prices that `spotrun prices --refresh` has read, kept in the user's home: newer than the built-in table, older than live.

One JSON file, written whole. Each row has its own date, because each refresh is of some regions only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from spotrun.errors import SpecError

__all__ = ["NAME", "SOURCE", "OnDemandRow", "PriceFile", "SpotRow", "read_price_file", "write_price_file"]

NAME = "prices.json"  # in the home
SOURCE = "AWS Price List, Linux, shared tenancy, read by `spotrun prices --refresh`"

_VERSION = 1
_BYTES_MAX = 64 << 20  # a row takes a hundred bytes; all types of all regions are a few megabytes


@dataclass(frozen=True, kw_only=True, slots=True)
class OnDemandRow:
    """The on-demand price of a type in a region, as read on a day."""

    instance_type: str
    region: str
    usd_per_hour: Decimal
    as_of: date


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotRow:
    """The spot price of a type in a zone (its id), as read at an instant."""

    instance_type: str
    region: str
    zone: str
    usd_per_hour: Decimal
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceFile:
    """What the file holds, in no order."""

    on_demand: tuple[OnDemandRow, ...] = ()
    spot: tuple[SpotRow, ...] = ()

    def on_demand_row(self, instance_type: str, region: str) -> OnDemandRow | None:
        """The on-demand price of a type in a region; None if it was never read."""
        fitting = [row for row in self.on_demand if (row.instance_type, row.region) == (instance_type, region)]
        return max(fitting, key=lambda row: row.as_of, default=None)

    def with_regions(
        self, regions: Iterable[str], *, on_demand: Iterable[OnDemandRow], spot: Iterable[SpotRow]
    ) -> PriceFile:
        """The file after these regions were read anew. What was read of the others stays, and so does an on-demand price
        that was not told this time."""
        anew, listed = set(regions), tuple(on_demand)
        told = {(row.instance_type, row.region) for row in listed}
        return PriceFile(
            on_demand=(*(row for row in self.on_demand if (row.instance_type, row.region) not in told), *listed),
            spot=(*(row for row in self.spot if row.region not in anew), *spot),
        )


def read_price_file(path: Path) -> PriceFile:
    """The file at a path; an empty one if there is none.

    Raises:
        SpecError: it cannot be read or is damaged; refreshing makes it anew.
    """
    try:
        if not path.exists():
            return PriceFile()
        if path.stat().st_size > _BYTES_MAX:
            raise SpecError(f"{path} is larger than {_BYTES_MAX} bytes; delete it, then run spotrun prices --refresh")
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != _VERSION:
            raise SpecError(f"{path} was written by another spotrun (version {told['version']}); refresh it")
        return PriceFile(
            on_demand=tuple(_on_demand(row) for row in told["on_demand"]),
            spot=tuple(_spot(row) for row in told["spot"]),
        )
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, InvalidOperation, RecursionError) as error:
        raise SpecError(f"{path} is damaged ({error}); delete it, then run spotrun prices --refresh") from error


def write_price_file(path: Path, prices: PriceFile) -> None:
    """Replaces the file, whole or not at all.

    Raises:
        SpecError: it cannot be written.
    """
    told = {
        "version": _VERSION,
        "source": SOURCE,
        "on_demand": [_row(row, as_of=row.as_of.isoformat()) for row in prices.on_demand],
        "spot": [_row(row, zone=row.zone, at=row.at.isoformat()) for row in prices.spot],
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.write_text(json.dumps(told, indent=1), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise SpecError(f"{path} cannot be written: {error.strerror or error}") from error


def _row(row: OnDemandRow | SpotRow, **more: str) -> dict[str, str]:
    return {
        "instance_type": row.instance_type,
        "region": row.region,
        "usd_per_hour": str(row.usd_per_hour),
        **more,
    }


def _on_demand(row: Mapping[str, Any]) -> OnDemandRow:
    return OnDemandRow(
        instance_type=str(row["instance_type"]),
        region=str(row["region"]),
        usd_per_hour=_usd(row["usd_per_hour"]),
        as_of=date.fromisoformat(row["as_of"]),
    )


def _spot(row: Mapping[str, Any]) -> SpotRow:
    at = datetime.fromisoformat(row["at"])
    if at.tzinfo is None:
        raise ValueError(f"{row['at']} has no time zone")
    return SpotRow(
        instance_type=str(row["instance_type"]),
        region=str(row["region"]),
        zone=str(row["zone"]),
        usd_per_hour=_usd(row["usd_per_hour"]),
        at=at,
    )


def _usd(text: object) -> Decimal:
    usd = Decimal(str(text))
    if not usd.is_finite() or usd <= 0:
        raise ValueError(f"{text!r} is no price")
    return usd
