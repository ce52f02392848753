"""On-demand list prices of GPU instances, built in and dated, so that a report needs no account and no network.

AWS's public list prices: Linux, shared tenancy, no pre-installed software, USD per hour. The three US regions ask the
same price for every type that was seen in more than one of them; a region is named here only where the price was seen.
On-demand prices do move (p4d, p5 and p5en fell by a quarter to a half in June 2025), so every use of a price tells
`AS_OF` beside it.

Source: the AWS Price List API as kept, with its date, in `zz_generated.pricing_aws.go` of karpenter-provider-aws
(us-east-1, 2026-07-20); us-east-2 and us-west-2 as listed by skypilot-catalog (schema v8, autumn 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from spotrun.errors import SpecError

__all__ = [
    "AS_OF",
    "DEFAULT_INSTANCE_TYPE",
    "SOURCE",
    "InstanceType",
    "instance_type",
    "instance_types",
    "instance_types_with",
    "on_demand_usd_per_hour",
]

AS_OF = date(2026, 7, 20)
SOURCE = "AWS on-demand list prices, Linux, built into spotrun"

DEFAULT_INSTANCE_TYPE = "g5.xlarge"  # the cheapest GPU of the table that trains in bfloat16


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceType:
    """A machine on AWS's list. `gpu_memory_gib` is per GPU; `regions` are those where the price was seen."""

    name: str
    accelerator: str
    accelerator_count: int
    gpu_memory_gib: int
    vcpus: int
    memory_gib: int
    usd_per_hour: Decimal
    regions: tuple[str, ...]


def instance_type(name: str) -> InstanceType:
    """The instance type of this name.

    Raises:
        SpecError: it is not in the table; the sentence names those that are.
    """
    known = _BY_NAME.get(name)
    if known is None:
        raise SpecError(
            f"resources.instance_types: no price is known for {name!r}; known types are {', '.join(sorted(_BY_NAME))}"
        )
    return known


def instance_types() -> tuple[InstanceType, ...]:
    """Every type of the table."""
    return tuple(_BY_NAME.values())


def instance_types_with(accelerator: str) -> tuple[InstanceType, ...]:
    """The types with exactly these accelerators, cheapest first.

    Args:
        accelerator: name and count as in `A10G:1`; the count is 1 when left out; letter case does not matter.

    Raises:
        SpecError: no type of the table has them; the sentence names what there is.
    """
    name, _, count = accelerator.partition(":")
    found = [
        known
        for known in _BY_NAME.values()
        if known.accelerator.lower() == name.strip().lower() and str(known.accelerator_count) == (count.strip() or "1")
    ]
    if not found:
        have = sorted({f"{known.accelerator}:{known.accelerator_count}" for known in _BY_NAME.values()})
        raise SpecError(f"resources.accelerator: no instance type has {accelerator!r}; known are {', '.join(have)}")
    return tuple(sorted(found, key=lambda known: known.usd_per_hour))


def on_demand_usd_per_hour(name: str, region: str) -> Decimal:
    """The on-demand price of a type in a region, as of `AS_OF`.

    Raises:
        SpecError: the type is unknown, or no price of it is known in this region.
    """
    known = instance_type(name)
    if region not in known.regions:
        raise SpecError(
            f"resources.regions: no on-demand price of {name} is known in {region!r}; "
            f"it is known in {', '.join(known.regions)}"
        )
    return known.usd_per_hour


_EAST = ("us-east-1",)
_EAST_WEST = ("us-east-1", "us-west-2")
_US = ("us-east-1", "us-east-2", "us-west-2")

# name, accelerator, count, GiB of memory of one GPU, vCPUs, GiB of memory, USD per hour, regions
_ROWS: tuple[tuple[str, str, int, int, int, int, str, tuple[str, ...]], ...] = (
    ("g4dn.xlarge", "T4", 1, 16, 4, 16, "0.526", _US),
    ("g4dn.2xlarge", "T4", 1, 16, 8, 32, "0.752", _EAST),
    ("g4dn.4xlarge", "T4", 1, 16, 16, 64, "1.204", _EAST),
    ("g4dn.8xlarge", "T4", 1, 16, 32, 128, "2.176", _EAST),
    ("g4dn.12xlarge", "T4", 4, 16, 48, 192, "3.912", _EAST),
    ("g4dn.16xlarge", "T4", 1, 16, 64, 256, "4.352", _EAST),
    ("g5.xlarge", "A10G", 1, 24, 4, 16, "1.006", _US),
    ("g5.2xlarge", "A10G", 1, 24, 8, 32, "1.212", _US),
    ("g5.4xlarge", "A10G", 1, 24, 16, 64, "1.624", _EAST),
    ("g5.8xlarge", "A10G", 1, 24, 32, 128, "2.448", _US),
    ("g5.12xlarge", "A10G", 4, 24, 48, 192, "5.672", _EAST),
    ("g5.16xlarge", "A10G", 1, 24, 64, 256, "4.096", _EAST),
    ("g5.24xlarge", "A10G", 4, 24, 96, 384, "8.144", _US),
    ("g5.48xlarge", "A10G", 8, 24, 192, 768, "16.288", _EAST),
    ("g6.xlarge", "L4", 1, 24, 4, 16, "0.8048", _US),
    ("g6.2xlarge", "L4", 1, 24, 8, 32, "0.9776", _EAST),
    ("g6.4xlarge", "L4", 1, 24, 16, 64, "1.3232", _EAST),
    ("g6.8xlarge", "L4", 1, 24, 32, 128, "2.0144", _US),
    ("g6.12xlarge", "L4", 4, 24, 48, 192, "4.6016", _EAST),
    ("g6.16xlarge", "L4", 1, 24, 64, 256, "3.3968", _EAST),
    ("g6.24xlarge", "L4", 4, 24, 96, 384, "6.6752", _EAST),
    ("g6.48xlarge", "L4", 8, 24, 192, 768, "13.3504", _EAST),
    ("g6e.xlarge", "L40S", 1, 48, 4, 32, "1.861", _US),
    ("g6e.2xlarge", "L40S", 1, 48, 8, 64, "2.24208", _EAST),
    ("g6e.4xlarge", "L40S", 1, 48, 16, 128, "3.00424", _EAST),
    ("g6e.8xlarge", "L40S", 1, 48, 32, 256, "4.52856", _US),
    ("g6e.12xlarge", "L40S", 4, 48, 48, 384, "10.49264", _EAST),
    ("g6e.24xlarge", "L40S", 4, 48, 96, 768, "15.06559", _EAST),
    ("g6e.48xlarge", "L40S", 8, 48, 192, 1536, "30.13118", _EAST),
    ("p3.2xlarge", "V100", 1, 16, 8, 61, "3.06", _US),
    ("p3.8xlarge", "V100", 4, 16, 32, 244, "12.24", _US),
    ("p3.16xlarge", "V100", 8, 16, 64, 488, "24.48", _EAST),
    ("p3dn.24xlarge", "V100-32GB", 8, 32, 96, 768, "31.212", _EAST_WEST),
    ("p4d.24xlarge", "A100", 8, 40, 96, 1152, "21.957642", _US),
    ("p4de.24xlarge", "A100-80GB", 8, 80, 96, 1152, "27.44705", _EAST_WEST),
    ("p5.4xlarge", "H100", 1, 80, 16, 256, "6.88", _US),
    ("p5.48xlarge", "H100", 8, 80, 192, 2048, "55.04", _US),
    ("p5en.48xlarge", "H200", 8, 141, 192, 2048, "63.296", _US),
    ("p6-b200.48xlarge", "B200", 8, 179, 192, 2048, "113.9328", _US),
)

_BY_NAME = {
    row[0]: InstanceType(
        name=row[0],
        accelerator=row[1],
        accelerator_count=row[2],
        gpu_memory_gib=row[3],
        vcpus=row[4],
        memory_gib=row[5],
        usd_per_hour=Decimal(row[6]),
        regions=row[7],
    )
    for row in _ROWS
}
