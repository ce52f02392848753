"""The account's limits on vCPUs, by region, market and family, known before anything is launched.

AWS counts vCPUs per family of types: `All G and VT Spot Instance Requests`, `Running On-Demand P instances`. The names say
which families, so the limits are found by name, and one that AWS adds or splits off is found as well. What was granted to
the account comes first; a limit that was never changed is only among AWS's defaults. Whoever may read neither learns of a
limit from the launch, which is refused then.

Source: Amazon EC2 User Guide, 'Spot Instance quotas' and 'On-Demand Instance quotas' (frozen 2023-06).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import CredentialsExpired, ProviderError
from spotrun.market.offer import MarketKind
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.memory import Memory

__all__ = ["Quota", "Quotas", "family_of", "parse_quotas"]

_KEPT_S = 600.0  # a quota that was raised is seen soon enough

_SPOT = re.compile(r"All (.+) Spot Instance Requests")
_ON_DEMAND = re.compile(r"Running On-Demand (.+) instances")
_FAMILY = re.compile(r"([a-z]+?)([0-9].*)?\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """How many vCPUs of some families may run at once. `families` are prefixes of type names, like `g`, `vt`, `p5`."""

    name: str
    code: str
    market: MarketKind
    families: tuple[str, ...]
    vcpus: int

    def covers(self, instance_type: str) -> int:
        """How much of the type's name a family of this quota covers; 0 for none. The longest decides: `p5` over `p`."""
        letters, rest = family_of(instance_type)
        best = 0
        for family in self.families:
            if family == letters or (family.startswith(letters) and f"{letters}{rest}".startswith(family)):
                best = max(best, len(family))
        return best


def family_of(instance_type: str) -> tuple[str, str]:
    """The letters of a type's family and the rest of its series: `p5en.48xlarge` is of `p`, `5en`."""
    match = _FAMILY.match(instance_type)
    return (match[1], match[2] or "") if match else (instance_type, "")


def parse_quotas(told: Iterable[Mapping[str, Any]]) -> list[Quota]:
    """The limits on vCPUs among `Quotas`."""
    found = []
    for quota in told:
        name = str(quota.get("QuotaName", ""))
        for market, pattern in ((MarketKind.SPOT, _SPOT), (MarketKind.ON_DEMAND, _ON_DEMAND)):
            match = pattern.fullmatch(name)
            if match is None:
                continue
            listed = match[1].partition("(")[2].partition(")")[0] if "(" in match[1] else match[1]
            families = tuple(word.lower() for word in re.findall(r"[A-Za-z]+[0-9]*", listed) if word != "and")
            code, vcpus = str(quota.get("QuotaCode", "")), int(quota.get("Value", 0))
            found.append(Quota(name=name, code=code, market=market, families=families, vcpus=vcpus))
    return found


class Quotas:
    """The limits of an account. Thread-safe."""

    def __init__(self, account: Account, *, clock: Clock) -> None:
        self._account = account
        self._known: Memory[str, tuple[Quota, ...]] = Memory(_KEPT_S, clock=clock)

    def of(self, instance_type: str, region: str, market: MarketKind) -> Quota | None:
        """The limit that a launch would count against; None if it cannot be known.

        Raises:
            CredentialsExpired: nothing can be asked at all.
        """
        known = self._known.get(region, lambda: self._ask(region))
        fitting = [quota for quota in known if quota.market is market and quota.covers(instance_type)]
        return max(fitting, key=lambda quota: quota.covers(instance_type), default=None)

    def _ask(self, region: str) -> tuple[Quota, ...]:
        granted = self._listed(region, "list_service_quotas")
        usual = self._listed(region, "list_aws_default_service_quotas")
        names = {quota.name for quota in granted}
        return (*granted, *(quota for quota in usual if quota.name not in names))

    def _listed(self, region: str, operation: str) -> list[Quota]:
        pages = self._account.pages(
            operation, region, doing=f"for the quotas of {region}", service="service-quotas", ServiceCode="ec2"
        )
        try:
            return parse_quotas(quota for page in pages for quota in page["Quotas"])
        except CredentialsExpired:
            raise
        except ProviderError:
            return []
