"""Finds and ends what spotrun has left in an account, in every region: instances, volumes that nothing uses, templates.

Everything is found by the tag that it was born with. An end is confirmed: an instance counts as ended when EC2 says that
it is shutting down, from when on it is not billed, or that it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from spotrun.clock import Clock
from spotrun.errors import CredentialsExpired, ProviderError, SpecError
from spotrun.providers.ec2.aws import Aws
from spotrun.providers.ec2.request import MANAGED_TAG, PLACE_TAG
from spotrun.providers.leftover import Kind, Leftover

__all__ = ["Finding", "end", "find", "regions"]

# gp3, us-east-1, per GB-month of 730 hours; other regions ask up to twice as much.
# Source: AWS's price page of EBS, as widely published; not part of the built-in table, so told as 'about'.
_VOLUME_USD_PER_GIB_HOUR = Decimal("0.08") / 730

_MICRO = Decimal("0.000001")
_THREADS = 8
_ENDING = {"shutting-down", "terminated"}
_CONFIRM_S = 60.0  # EC2 answers a termination with the new state; a list may be behind for seconds
_CONFIRM_EVERY_S = 2.0
_AT_ONCE = 100  # instances in one request; EC2 takes up to 1000
_OURS = [{"Name": f"tag:{MANAGED_TAG}", "Values": ["true"]}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found, and of which regions nothing is known: region -> why."""

    leftovers: tuple[Leftover, ...]
    unseen: Mapping[str, str]


def regions(aws: Aws) -> tuple[str, ...]:
    """Every region that the account has enabled.

    Raises:
        ProviderError: it could not be asked.
    """
    try:
        asked = aws.account.home_region()
    except SpecError:
        asked = "us-east-1"  # the configuration names none, and every account has this one
    client = aws.account.client("ec2", asked)
    with aws.account.asking("for the regions of the account"):
        told = client.describe_regions()["Regions"]
    return tuple(sorted(str(each["RegionName"]) for each in told))


def find(aws: Aws, names: Sequence[str]) -> Finding:
    """Everything with our tag in these regions, all asked at the same time.

    Raises:
        CredentialsExpired: nothing can be asked at all.
    """
    found: list[Leftover] = []
    unseen: dict[str, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, told in zip(names, pool.map(lambda each: _seen(aws, each), names), strict=True):
            if isinstance(told, CredentialsExpired):
                raise told
            if isinstance(told, ProviderError):
                unseen[name] = str(told)
            else:
                found += told
    return Finding(leftovers=tuple(found), unseen=unseen)


def end(aws: Aws, leftovers: Iterable[Leftover], *, clock: Clock) -> dict[str, str]:
    """Ends them, instances first: their disks go with them.

    Returns:
        Id -> why it is still there, for those that could not be ended or whose end is not confirmed yet.
    """
    wanted = list(leftovers)
    left: dict[str, str] = {}
    for region in sorted({each.region for each in wanted}):
        here = [each for each in wanted if each.region == region]
        left |= _end_instances(aws, region, [each.id for each in here if each.kind is Kind.INSTANCE], clock)
        for each in here:
            if each.kind is Kind.VOLUME:
                left |= _tried(aws, each, lambda client, id_: client.delete_volume(VolumeId=id_))
            elif each.kind is Kind.TEMPLATE:
                left |= _tried(aws, each, lambda client, id_: client.delete_launch_template(LaunchTemplateId=id_))
    return left


def _seen(aws: Aws, region: str) -> list[Leftover] | ProviderError:
    try:
        return [*_instances(aws, region), *_volumes(aws, region), *_templates(aws, region)]
    except ProviderError as error:
        return error


def _instances(aws: Aws, region: str) -> Iterator[Leftover]:
    states = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    listed = _listed(aws, region, "describe_instances", "Reservations", [*_OURS, states])
    found = [each for told in listed for each in told["Instances"]]
    names = sorted({str(each["InstanceType"]) for each in found})
    try:
        zones, spot = (aws.catalog.zones(region), aws.spot_prices.now(region, names)) if names else ({}, {})
    except ProviderError:
        zones, spot = {}, {}  # without a price it is still to be ended
    for each in found:
        name, zone = str(each["InstanceType"]), str((each.get("Placement") or {}).get("AvailabilityZone", ""))
        bought = "spot" if each.get("InstanceLifecycle") == "spot" else "on-demand"
        what = f"{name} {bought} in {zone}, {each['State']['Name']}"
        usd = spot.get((zones.get(zone, ""), name)) if bought == "spot" else _listed_usd(aws, name, region)
        yield _leftover(
            Kind.INSTANCE, str(each["InstanceId"]), region, each, what, usd=usd, since=each.get("LaunchTime")
        )


def _listed_usd(aws: Aws, name: str, region: str) -> Decimal | None:
    price = aws.list_prices.price(name, region)
    return None if price is None else price.usd_per_hour


def _volumes(aws: Aws, region: str) -> Iterator[Leftover]:
    free = {"Name": "status", "Values": ["available"]}
    for each in _listed(aws, region, "describe_volumes", "Volumes", [*_OURS, free]):
        size, id_ = int(each.get("Size", 0)), str(each["VolumeId"])
        usd = (size * _VOLUME_USD_PER_GIB_HOUR).quantize(_MICRO)
        what = f"{size} GiB, attached to nothing"
        yield _leftover(Kind.VOLUME, id_, region, each, what, usd=usd, since=each.get("CreateTime"))


def _templates(aws: Aws, region: str) -> Iterator[Leftover]:
    for each in _listed(aws, region, "describe_launch_templates", "LaunchTemplates", _OURS):
        id_, name = str(each["LaunchTemplateId"]), str(each["LaunchTemplateName"])
        yield _leftover(Kind.TEMPLATE, id_, region, each, name, usd=Decimal(0), since=each.get("CreateTime"))


def _listed(aws: Aws, region: str, operation: str, items: str, filters: Sequence[Any]) -> Iterator[Any]:
    what = operation.removeprefix("describe_").replace("_", " ")
    pages = aws.account.pages(operation, region, doing=f"for the {what} of {region}", Filters=list(filters))
    for page in pages:
        yield from page.get(items) or ()


def _leftover(  # noqa: PLR0913 - the facts of one listing, told once
    kind: Kind, id_: str, region: str, told: Mapping[str, Any], what: str, *, usd: Decimal | None, since: Any
) -> Leftover:
    tags = {str(tag["Key"]): str(tag["Value"]) for tag in told.get("Tags") or ()}
    attempt = tags.get("spotrun:attempt", "")
    return Leftover(
        kind=kind,
        id=id_,
        region=region,
        job_id=tags.get("spotrun:job", ""),
        attempt=int(attempt) if attempt.isdigit() else 0,
        place=tags.get(PLACE_TAG, ""),
        what=what,
        usd_per_hour=usd,
        since=since,
    )


def _end_instances(aws: Aws, region: str, ids: Sequence[str], clock: Clock) -> dict[str, str]:
    left: dict[str, str] = {}
    for start in range(0, len(ids), _AT_ONCE):
        some = list(ids[start : start + _AT_ONCE])
        client = aws.account.client("ec2", region)
        try:
            with aws.account.asking(f"to end {len(some)} instances in {region}"):
                client.terminate_instances(InstanceIds=some)
        except ProviderError as error:
            left |= dict.fromkeys(some, str(error))
            continue
        left |= _unconfirmed(aws, region, some, clock)
    return left


def _unconfirmed(aws: Aws, region: str, ids: Sequence[str], clock: Clock) -> dict[str, str]:
    """Those of which EC2 does not say within a minute that they are ending."""
    until = clock.monotonic() + _CONFIRM_S
    while True:
        try:
            told = _listed(
                aws, region, "describe_instances", "Reservations", [{"Name": "instance-id", "Values": list(ids)}]
            )
            states = {each["InstanceId"]: each["State"]["Name"] for lot in told for each in lot["Instances"]}
        except ProviderError as error:
            return dict.fromkeys(ids, f"asked to end, and not confirmed: {error}")
        left = {id_: states[id_] for id_ in ids if states.get(id_, "terminated") not in _ENDING}
        if not left or clock.monotonic() >= until:
            return {id_: f"asked to end, and still {state}; run spotrun reap again" for id_, state in left.items()}
        clock.sleep(_CONFIRM_EVERY_S)


def _tried(aws: Aws, found: Leftover, delete: Callable[[Any, str], Any]) -> dict[str, str]:
    client = aws.account.client("ec2", found.region)
    try:
        with aws.account.asking(f"to delete {found.id}"):
            try:
                delete(client, found.id)
            except client.exceptions.ClientError as error:
                if "NotFound" not in error.response["Error"]["Code"]:  # gone already, with its instance
                    raise
    except ProviderError as error:
        return {found.id: str(error)}
    return {}
