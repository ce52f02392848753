"""Every pool that a job could be launched in, with its prices and limits, and why some are left out.

An offer is a candidate without a fault. A pool is left out when the image cannot run there, when no price of it is known,
when the quota of its family is smaller than one machine, when there is no subnet in its zone, or when it asks more on
spot than another type asks on demand, where the job named an accelerator and left the type to us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from spotrun.market.offer import MarketKind, Offer
from spotrun.market.source import PriceSource
from spotrun.providers.ec2.quota import Quota

__all__ = ["Candidate", "faulted", "offered", "reasons"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A pool, and what is known of it.

    Attributes:
        vcpus: of one machine.
        price_usd_per_hour: what it asks now; None if it has no price.
        on_demand_usd_per_hour: the list price of the type in the region; None if it is not known.
        on_demand_source: where that comes from.
        quota: the limit that a launch counts against; None if it cannot be known.
        score: AWS's placement score of the zone, 1 to 10, if it was asked for.
        fault: why it is not offered; empty if it is.
    """

    region: str
    zone: str
    instance_type: str
    market: MarketKind
    vcpus: int
    price_usd_per_hour: Decimal | None
    on_demand_usd_per_hour: Decimal | None
    on_demand_source: PriceSource | None = None
    quota: Quota | None = None
    score: int | None = None
    fault: str = ""

    def offer(self) -> Offer:
        """The offer of a candidate without a fault."""
        assert self.price_usd_per_hour is not None, "a candidate without a price has a fault"
        assert self.on_demand_usd_per_hour is not None, "a candidate without a price has a fault"
        return Offer(
            provider="ec2",
            region=self.region,
            zone=self.zone,
            instance_type=self.instance_type,
            market=self.market,
            price_usd_per_hour=self.price_usd_per_hour,
            on_demand_usd_per_hour=self.on_demand_usd_per_hour,
            asked_with=self.region,  # a fleet is of one region
        )


def faulted(candidates: Iterable[Candidate], *, nodes: int, alike: bool) -> list[Candidate]:
    """The candidates, each with the first fault that prices and quotas give it.

    Args:
        candidates: of one job.
        nodes: the fewest machines of a launch.
        alike: whether any of the types is as good as any other.
    """
    found = list(candidates)
    prices = [
        each.on_demand_usd_per_hour
        for each in found
        if alike and each.on_demand_usd_per_hour is not None and not _fault(each, nodes)
    ]
    cheapest = min(prices, default=None)
    return [replace(each, fault=_fault(each, nodes) or _too_dear(each, cheapest)) for each in found]


def offered(candidates: Iterable[Candidate]) -> tuple[Offer, ...]:
    """The offers among the candidates."""
    return tuple(each.offer() for each in candidates if not each.fault)


def reasons(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Why candidates are left out, each reason once."""
    told: set[str] = set()
    for each in candidates:
        if each.fault and each.fault not in told:
            told.add(each.fault)
            yield each.fault


def _fault(candidate: Candidate, nodes: int) -> str:
    if candidate.fault:
        return candidate.fault
    name, region = candidate.instance_type, candidate.region
    quota, needed = candidate.quota, candidate.vcpus * nodes
    if quota is not None and quota.vcpus < needed:
        return (
            f"quota {quota.name!r} of {region} is {quota.vcpus} vCPUs, and {name} needs {needed}: ask for more in Service "
            f"Quotas ({quota.code})"
        )
    if candidate.on_demand_usd_per_hour is None:
        return f"no on-demand price of {name} in {region} is known: allow pricing:GetProducts"
    if candidate.price_usd_per_hour is None:
        return f"{name} has no spot price in {candidate.zone}"
    return ""


def _too_dear(candidate: Candidate, cheapest: Decimal | None) -> str:
    price = candidate.price_usd_per_hour
    if candidate.market is not MarketKind.SPOT or price is None or cheapest is None or price <= cheapest:
        return ""
    return f"{candidate.instance_type} asks more on spot than another type that fits asks on demand"
