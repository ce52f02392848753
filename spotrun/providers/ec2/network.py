"""Where in an account's networks a machine goes: a subnet of the offer's zone, and security groups of that region."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spotrun.clock import Clock
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.catalog import Catalog
from spotrun.providers.ec2.memory import Memory

__all__ = ["Network", "Networks"]

_KEPT_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What a region has for a job.

    Attributes:
        subnets: zone id -> subnet; a zone without one cannot be launched in.
        security_groups: those that were asked for and are in this region; none for the default one.
        fault: why nothing can be launched here, if so.
    """

    subnets: Mapping[str, str] = field(default_factory=dict)
    security_groups: tuple[str, ...] = ()
    fault: str = ""


class Networks:
    """The networks of an account. What was found is kept for some minutes."""

    def __init__(self, account: Account, catalog: Catalog, *, clock: Clock) -> None:
        self._account = account
        self._catalog = catalog
        self._found: Memory[tuple[str, tuple[str, ...], tuple[str, ...]], Network] = Memory(_KEPT_S, clock=clock)

    def find(self, region: str, *, subnets: tuple[str, ...], security_groups: tuple[str, ...]) -> Network:
        """The region's part of the subnets and groups that a job names, or the default VPC's.

        Raises:
            ProviderError: it could not be asked.
        """
        key = region, subnets, security_groups
        return self._found.get(key, lambda: self._ask(region, subnets, security_groups))

    def _ask(self, region: str, subnets: tuple[str, ...], groups: tuple[str, ...]) -> Network:
        by = ("subnet-id", list(subnets)) if subnets else ("default-for-az", ["true"])
        found = [
            told
            for page in self._account.pages(
                "describe_subnets",
                region,
                doing=f"for the subnets of {region}",
                Filters=[{"Name": by[0], "Values": by[1]}],
            )
            for told in page["Subnets"]
        ]
        if not found:
            none = "none of ec2.subnets is in it" if subnets else "it has no default VPC; name subnets in ec2.subnets"
            return Network(fault=f"{region}: {none}")
        here = self._groups(region, groups)
        if groups and not here:
            return Network(fault=f"{region}: none of ec2.security_groups is in it")
        return Network(subnets=self._by_zone(region, found), security_groups=here)

    def _groups(self, region: str, groups: tuple[str, ...]) -> tuple[str, ...]:
        if not groups:
            return ()
        pages = self._account.pages(
            "describe_security_groups",
            region,
            doing=f"for the security groups of {region}",
            Filters=[{"Name": "group-id", "Values": list(groups)}],
        )
        known = {told["GroupId"] for page in pages for told in page["SecurityGroups"]}
        return tuple(group for group in groups if group in known)

    def _by_zone(self, region: str, found: list[dict[str, Any]]) -> dict[str, str]:
        """Of each zone the subnet with the most free addresses."""
        zones = self._catalog.zones(region)
        ranked = sorted(found, key=lambda told: (int(told.get("AvailableIpAddressCount", 0)), str(told["SubnetId"])))
        placed = {}
        for told in ranked:
            zone = told.get("AvailabilityZoneId") or zones.get(told.get("AvailabilityZone", ""))
            if zone:
                placed[str(zone)] = str(told["SubnetId"])
        return placed
