"""What AWS sells where: the types that fit a job, and the zones, by id, in which each is offered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spotrun.clock import Clock
from spotrun.errors import ProviderError, SpecError
from spotrun.job.spec import Resources
from spotrun.market.price_table import DEFAULT_INSTANCE_TYPE
from spotrun.providers.ec2.account import Account
from spotrun.providers.ec2.machine_type import MachineType, fitting, machine_type
from spotrun.providers.ec2.memory import Memory

__all__ = ["Catalog"]

_A_DAY_S = 86_400.0  # new types and zones come a few times a year

# Families that have accelerators. A filter by accelerator does not exist, and all types together are ten pages.
_ACCELERATED = ("g*", "p*", "trn*", "inf*")


class Catalog:
    """Types and zones of an account. What it has learnt is kept for a day."""

    def __init__(self, account: Account, *, clock: Clock) -> None:
        self._account = account
        self._zones: Memory[str, dict[str, str]] = Memory(_A_DAY_S, clock=clock)
        self._types: Memory[tuple[str, tuple[str, ...]], tuple[MachineType, ...]] = Memory(_A_DAY_S, clock=clock)
        self._offerings: Memory[tuple[str, tuple[str, ...]], frozenset[tuple[str, str]]] = Memory(_A_DAY_S, clock=clock)

    def zones(self, region: str) -> Mapping[str, str]:
        """Zone name -> zone id of the region's ordinary zones that the account may use. Names differ between accounts,
        ids do not.

        Raises:
            ProviderError: it could not be asked.
        """
        return self._zones.get(region, lambda: self._ask_zones(region))

    def types(self, region: str, resources: Resources) -> Sequence[MachineType]:
        """The types that the job can use, as far as the region knows them.

        Raises:
            SpecError: none of the region's types is what was asked for.
            ProviderError: it could not be asked.
        """
        accelerator = resources.accelerator
        names = resources.instance_types or ((DEFAULT_INSTANCE_TYPE,) if accelerator is None else _ACCELERATED)
        known = self._types.get((region, names), lambda: self._ask_types(region, names))
        if accelerator is None:
            return known
        found = fitting(known, accelerator)
        if found or not known:
            return found
        if resources.instance_types:
            raise SpecError(f"resources.instance_types: none of {', '.join(names)} has {accelerator} in {region}")
        have = sorted({f"{device.name}:{device.count}" for each in known for device in each.devices})
        raise SpecError(
            f"resources.accelerator: no instance type of {region} has {accelerator!r}; there is {', '.join(have)}"
        )

    def accelerated(self, region: str) -> Sequence[MachineType]:
        """Every type of the region that has an accelerator.

        Raises:
            ProviderError: it could not be asked.
        """
        known = self._types.get((region, _ACCELERATED), lambda: self._ask_types(region, _ACCELERATED))
        return [each for each in known if each.devices]

    def offered(self, region: str, names: Sequence[str]) -> frozenset[tuple[str, str]]:
        """Pairs of zone id and type that AWS sells at all.

        Raises:
            ProviderError: it could not be asked.
        """
        wanted = tuple(sorted(names))
        return self._offerings.get((region, wanted), lambda: self._ask_offerings(region, wanted))

    def zone_name(self, region: str, zone_id: str) -> str:
        """The name that this account knows a zone by.

        Raises:
            ProviderError: it knows no such zone.
        """
        for name, known in self.zones(region).items():
            if known == zone_id:
                return name
        raise ProviderError(f"this account has no zone {zone_id} in {region}")

    def _ask_zones(self, region: str) -> dict[str, str]:
        client = self._account.client("ec2", region)
        with self._account.asking(f"for the zones of {region}"):
            told = client.describe_availability_zones(Filters=[{"Name": "state", "Values": ["available"]}])
        return {
            zone["ZoneName"]: zone["ZoneId"]
            for zone in told["AvailabilityZones"]
            if zone.get("ZoneType", "availability-zone") == "availability-zone"
        }

    def _ask_types(self, region: str, names: tuple[str, ...]) -> tuple[MachineType, ...]:
        pages = self._account.pages(
            "describe_instance_types",
            region,
            doing=f"for the instance types of {region}",
            Filters=[{"Name": "instance-type", "Values": list(names)}],
        )
        return tuple(machine_type(told) for page in pages for told in page["InstanceTypes"])

    def _ask_offerings(self, region: str, names: tuple[str, ...]) -> frozenset[tuple[str, str]]:
        pages = self._account.pages(
            "describe_instance_type_offerings",
            region,
            doing=f"where {region} has these instance types",
            LocationType="availability-zone-id",
            Filters=[{"Name": "instance-type", "Values": list(names)}],
        )
        return frozenset(
            (told["Location"], told["InstanceType"]) for page in pages for told in page["InstanceTypeOfferings"]
        )
