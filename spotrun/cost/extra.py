"""What is billed beside EC2 machines: their disks and their public addresses, for as long as they are there.

    volume     GiB x hours / 730 x 0.08 USD     gp3, as in us-east-1; other regions ask up to half as much again
    address    hours x 0.005 USD                each public IPv4 address, in every region

Both are due in the first hour too, when the machine itself is free, because AWS took it back. The on-demand run that a job
is compared with would have had one disk and one address for as long as its useful work took.

What the job's place in S3 costs is in `spotrun.cost.storage`. Not counted: NAT gateways where a subnet has one, and what the
training itself sends to elsewhere.

Source: Amazon EBS pricing (gp3, widely published as 0.08 USD per GB and month), Amazon VPC pricing (public IPv4, since
2024-02); Amazon EC2 User Guide, 'Billing for interrupted Spot Instances' (other charges remain due). Seen 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal

from spotrun.cost.category import seconds_of, to_money
from spotrun.cost.entry import Extra
from spotrun.job.spec import JobSpec

__all__ = ["AS_OF", "beside_machines_usd", "extras_of"]

AS_OF = date(2026, 11, 20)

_VOLUME_USD_PER_GIB_MONTH = Decimal("0.08")
_ADDRESS_USD_PER_HOUR = Decimal("0.005")
_HOURS_PER_MONTH = 730  # AWS's month
_SECONDS_PER_HOUR = 3600


def extras_of(spec: JobSpec, lives: Iterable[timedelta], *, useful: timedelta) -> tuple[Extra, ...]:
    """The charges beside a job's machines; none for jobs that rent none.

    Args:
        spec: the job.
        lives: how long each attempt's machines were there, all of them together.
        useful: how long those of the on-demand run would have been.
    """
    if spec.provider != "ec2":
        return ()
    hours, on_demand_hours = _hours(sum(lives, timedelta(0))), _hours(useful)
    told = f"as of {AS_OF:%Y-%m-%d}"
    found = [
        Extra(
            kind="volumes",
            usd=to_money(_volume_usd(spec, hours)),
            on_demand_usd=to_money(_volume_usd(spec, on_demand_hours)),
            source=f"gp3 at ${_VOLUME_USD_PER_GIB_MONTH} per GiB and month, us-east-1, {told}",
        )
    ]
    if _has_address(spec):
        found.append(
            Extra(
                kind="public addresses",
                usd=to_money(hours * _ADDRESS_USD_PER_HOUR),
                on_demand_usd=to_money(on_demand_hours * _ADDRESS_USD_PER_HOUR),
                source=f"public IPv4 at ${_ADDRESS_USD_PER_HOUR} per hour, {told}",
            )
        )
    return tuple(found)


def beside_machines_usd(spec: JobSpec, life: timedelta) -> Decimal:
    """What disks and addresses of machines cost that together were there for so long, for budgets."""
    return sum((extra.usd for extra in extras_of(spec, [life], useful=timedelta(0))), Decimal(0))


def _hours(span: timedelta) -> Decimal:
    return seconds_of(span) / _SECONDS_PER_HOUR


def _volume_usd(spec: JobSpec, hours: Decimal) -> Decimal:
    return hours / _HOURS_PER_MONTH * spec.ec2.disk * _VOLUME_USD_PER_GIB_MONTH


def _has_address(spec: JobSpec) -> bool:
    """Default subnets give every machine one; of named subnets it is not known."""
    return not spec.ec2.subnets
