"""What is sold where: zones and their ids, instance types, offerings, on-demand prices.

moto knows real zones and most real types; the p3 family, which it lacks, is added from spotrun's own dated table.
"""

from __future__ import annotations

import copy
from decimal import Decimal
from functools import cache

from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
from moto.ec2.models.instance_types import (
    INSTANCE_TYPE_OFFERINGS,
    INSTANCE_TYPES,
    InstanceType,
    InstanceTypeBackend,
)

from spotrun.market.price_table import instance_types

_PRICES = {known.name: known.usd_per_hour for known in instance_types()}


def zone_id_of(region: str, zone_name: str) -> str:
    """The id of a zone of this account, as in `use1-az6`."""
    return next(zone.zone_id for zone in RegionsAndZonesBackend.zones[region] if zone.name == zone_name)


def zone_name_of(region: str, zone_id: str) -> str:
    """The name that this account knows a zone by, as in `us-east-1a`."""
    return next(zone.name for zone in RegionsAndZonesBackend.zones[region] if zone.zone_id == zone_id)


def zone_ids(region: str) -> tuple[str, ...]:
    """Every zone of a region."""
    return tuple(zone.zone_id for zone in RegionsAndZonesBackend.zones[region])


@cache
def zone_ids_of(instance_type: str) -> frozenset[str]:
    """Where a type is offered, all regions together."""
    return frozenset(
        offering["Location"]
        for offerings in INSTANCE_TYPE_OFFERINGS["availability-zone-id"].values()
        for offering in offerings
        if offering["InstanceType"] == instance_type
    )


def on_demand_usd(instance_type: str) -> Decimal | None:
    """The on-demand price in every region; None for types that spotrun's table does not list."""
    return _PRICES.get(instance_type)


def priced_types() -> tuple[str, ...]:
    """The types that have a price."""
    return tuple(_PRICES)


def vcpus_of(instance_type: str) -> int:
    """How many vCPUs a type counts for in quotas."""
    return int(INSTANCE_TYPES[instance_type]["VCpuInfo"]["DefaultVCpus"])


def complete() -> None:
    """Adds to moto's tables the types of spotrun's table that they lack. Idempotent."""
    for known in instance_types():
        if known.name in INSTANCE_TYPES:
            continue
        entry = copy.deepcopy(INSTANCE_TYPES["p3dn.24xlarge"])
        entry["InstanceType"] = known.name
        entry["VCpuInfo"]["DefaultVCpus"] = known.vcpus
        entry["MemoryInfo"]["SizeInMiB"] = known.memory_gib * 1024
        gpu = entry["GpuInfo"]["Gpus"][0]
        gpu["Count"] = known.accelerator_count
        gpu["MemoryInfo"]["SizeInMiB"] = known.gpu_memory_gib * 1024
        entry["GpuInfo"]["TotalGpuMemoryInMiB"] = known.gpu_memory_gib * 1024 * known.accelerator_count
        INSTANCE_TYPES[known.name] = entry
        InstanceTypeBackend.instance_types.append(InstanceType(known.name))
        for region in known.regions:
            for kind, places in _places(region).items():
                INSTANCE_TYPE_OFFERINGS[kind][region].extend(
                    {"InstanceType": known.name, "LocationType": kind, "Location": place} for place in places
                )
    zone_ids_of.cache_clear()


def _places(region: str) -> dict[str, list[str]]:
    zones = RegionsAndZonesBackend.zones[region][:2]
    return {
        "region": [region],
        "availability-zone": [zone.name for zone in zones],
        "availability-zone-id": [zone.zone_id for zone in zones],
    }
