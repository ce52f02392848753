"""How many vCPUs may run at once, against what the job needs. AWS counts them by region, market and family of types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spotrun.market.offer import MarketKind
from spotrun.providers.doctor.verdict import Verdict, green, red, yellow
from spotrun.providers.ec2.catalog import Catalog
from spotrun.providers.ec2.doctor.question import Question
from spotrun.providers.ec2.quota import Quota, Quotas

__all__ = ["Limit", "check", "look"]

_TYPES_MAX = 3  # told by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What one type would need in one region and market.

    Attributes:
        needed: vCPUs, the fewest nodes of the job together.
        quota: the limit that it counts against; None if it cannot be known.
    """

    region: str
    market: MarketKind
    instance_type: str
    needed: int
    quota: Quota | None


def check(limits: Iterable[Limit]) -> tuple[Verdict, ...]:
    """A verdict for each market; red if no type fits anywhere."""
    by_market: dict[MarketKind, list[Limit]] = {}
    for limit in limits:
        by_market.setdefault(limit.market, []).append(limit)
    return tuple(_market(market, found) for market, found in by_market.items())


def look(catalog: Catalog, quotas: Quotas, question: Question) -> list[Limit]:
    """Asks for the types that the job could use and for their limits.

    Raises:
        SpecError: no type of a region is what the job asks for.
        ProviderError: it could not be asked.
    """
    return [
        Limit(
            region=region,
            market=market,
            instance_type=known.name,
            needed=known.vcpus * question.resources.nodes.least,
            quota=quotas.of(known.name, region, market),
        )
        for region in question.regions
        for known in catalog.types(region, question.resources)
        for market in question.markets
    ]


def _market(market: MarketKind, limits: Sequence[Limit]) -> Verdict:
    area = "spot quota" if market is MarketKind.SPOT else "on-demand quota"
    unknown = [limit for limit in limits if limit.quota is None]
    fits = [limit for limit in limits if limit.quota is not None and limit.quota.vcpus >= limit.needed]
    short = [limit for limit in limits if limit.quota is not None and limit.quota.vcpus < limit.needed]
    if not fits and unknown:
        fix = "the policy of `spotrun iam controller` allows to read quotas; else the launch tells"
        return yellow(area, f"the limits for {_names(unknown)} cannot be read", fix)
    if not fits and short:
        least = min(short, key=lambda limit: limit.needed)
        return red(area, f"{_list([least])}; nothing that the job asks for fits anywhere", _raise(least))
    if short:
        return yellow(area, f"{_list(fits)}; but {_list(short)}", _raise(short[0]))
    return green(area, _list(fits))


def _list(limits: Sequence[Limit]) -> str:
    """One part for each limit of each region, with the first few types that count against it."""
    needs: dict[tuple[str, int], list[str]] = {}
    for limit in limits:
        allowed = limit.quota.vcpus if limit.quota is not None else 0
        needs.setdefault((limit.region, allowed), []).append(f"{limit.instance_type} needs {limit.needed}")
    parts = []
    for (region, allowed), types in needs.items():
        more = f" and {len(types) - _TYPES_MAX} more types" if len(types) > _TYPES_MAX else ""
        parts.append(f"{region} allows {allowed} vCPUs ({', '.join(types[:_TYPES_MAX])}{more})")
    return ", ".join(parts)


def _names(limits: Sequence[Limit]) -> str:
    names = list(dict.fromkeys(limit.instance_type for limit in limits))
    more = f" and {len(names) - _TYPES_MAX} more" if len(names) > _TYPES_MAX else ""
    return f"{', '.join(names[:_TYPES_MAX])}{more}"


def _raise(limit: Limit) -> str:
    assert limit.quota is not None, "only of a known limit is it known that it is too low"
    return (
        f"aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {limit.quota.code} "
        f"--desired-value {limit.needed} --region {limit.region} ({limit.quota.name}; AWS takes hours to days)"
    )
