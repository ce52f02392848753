"""Reads the prices of whole regions: every type on demand, and every zone's spot price of those that are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spotrun.clock import Clock
from spotrun.errors import CredentialsExpired, ProviderError
from spotrun.market.price_file import OnDemandRow, SpotRow
from spotrun.providers.ec2.aws import Aws

__all__ = ["Reading", "read_prices"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What was read.

    Attributes:
        regions: those whose spot prices were read.
        problems: what could not be, in sentences.
    """

    regions: tuple[str, ...]
    on_demand: tuple[OnDemandRow, ...]
    spot: tuple[SpotRow, ...]
    problems: tuple[str, ...]


def read_prices(aws: Aws, regions: Sequence[str], *, names: Sequence[str], clock: Clock) -> Reading:
    """The prices of these regions now.

    Args:
        aws: the account, whose zones are asked; spot prices are the same for everybody.
        regions: which.
        names: types whose spot prices are wanted beside those of all types with an accelerator.
        clock: wall time.

    Raises:
        CredentialsExpired: nothing can be asked at all.
    """
    now = clock.now()
    read: list[str] = []
    on_demand: list[OnDemandRow] = []
    spot: list[SpotRow] = []
    problems: list[str] = []
    for region in regions:
        try:
            for name, price in aws.list_prices.listing(region).items():
                row = OnDemandRow(instance_type=name, region=region, usd_per_hour=price.usd_per_hour, as_of=now.date())
                on_demand.append(row)
        except CredentialsExpired:
            raise
        except ProviderError as error:
            problems.append(f"on-demand prices of {region} stay as they were: {error}")
        try:
            wanted = sorted({*names, *(known.name for known in aws.catalog.accelerated(region))})
            for (zone, name), usd in aws.spot_prices.now(region, wanted).items():
                spot.append(SpotRow(instance_type=name, region=region, zone=zone, usd_per_hour=usd, at=now))
            read.append(region)
        except CredentialsExpired:
            raise
        except ProviderError as error:
            problems.append(f"spot prices of {region} stay as they were: {error}")
    return Reading(regions=tuple(read), on_demand=tuple(on_demand), spot=tuple(spot), problems=tuple(problems))
